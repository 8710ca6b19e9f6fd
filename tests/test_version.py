"""The version key that validators send with weights: ordered as versions, one key per version."""

import itertools

import pytest

import template
from template import version_key, version_words

NUMBERS = (0, 1, 2, 9, 10, 11, 99, 100, 101, 998, 999)
U64_MAX = 2**64 - 1


def test_keys_are_ordered_as_versions_and_unique() -> None:
    versions = list(itertools.product(NUMBERS, repeat=3))
    keys = [version_key(".".join(map(str, version))) for version in versions]
    assert versions == sorted(versions)
    assert all(older < newer for older, newer in itertools.pairwise(keys))


def test_versions_that_once_shared_a_key_have_two() -> None:
    assert version_key("0.1.0") == 1_000
    assert version_key("0.0.10") == 10


def test_a_key_is_told_as_its_version() -> None:
    assert version_words(2_003_004) == "2.3.4"
    assert all(version_words(version_key(v)) == v for v in ("0.0.0", "0.1.0", "12.999.7"))


def test_the_present_key_fits_the_chain_and_is_above_the_key_of_the_old_rule() -> None:
    assert template.__spec_version__ == version_key(template.__version__)
    assert 10 < template.__spec_version__ <= U64_MAX


@pytest.mark.parametrize(
    "version", ["", "1", "1.2", "1.2.3.4", "1.1000.0", "1.0.1000", "1.2.x", "1.-2.3", "1.2.3rc1"]
)
def test_other_versions_are_refused(version: str) -> None:
    with pytest.raises(ValueError, match="version"):
        version_key(version)
