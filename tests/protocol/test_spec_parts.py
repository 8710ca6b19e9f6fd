"""Widths, parts and caps of lengths: optional keys, bounds, and run ids that they leave alone."""

import re
from dataclasses import replace
from typing import Any

import pytest

from template.errors import ConfigError
from template.protocol.spec import RunSpec, parse_spec, spec_to_toml
from template.protocol.spec.run import MAX_ASSIGNED_PAGES


def with_training(spec: RunSpec, key: str, value: Any) -> RunSpec:
    return replace(spec, training=replace(spec.training, **{key: value}))


def test_widths_and_parts_at_their_defaults_leave_a_run_id_as_it_was(
    spec: RunSpec, spec_text: str
) -> None:
    """A run made before there were parts goes on under its id; a run with parts is another run."""
    (head, tail) = spec_text.split("[training]\n")
    said = parse_spec(f"{head}[training]\nmax_width = 1\nmax_parts = 1\n{tail}")
    assert said == spec
    assert said.run_id == spec.run_id
    assert not {"max_width", "max_parts"} & set(re.findall(r"(?m)^\w+", spec_to_toml(spec)))
    others = [with_training(spec, leaf, 2).run_id for leaf in ("max_width", "max_parts")]
    assert len({spec.run_id, *others}) == 3
    for leaf in ("max_width", "max_parts"):
        changed = with_training(spec, leaf, 2)
        assert parse_spec(spec_to_toml(changed)) == changed


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("max_width", 0, "training.max_width: "),
        ("max_width", 1025, "training.max_width: "),
        ("max_parts", 0, "training.max_parts: "),
        ("max_parts", 513, "training.max_parts: "),
        ("max_parts", 3, "at most model.num_hidden_layers, 2"),
    ],
)
def test_widths_and_parts_beyond_their_bounds_are_refused(
    spec: RunSpec, key: str, value: object, words: str
) -> None:
    assert spec.model.num_hidden_layers == 2
    with pytest.raises(ConfigError, match=re.escape(words)):
        with_training(spec, key, value)
    assert with_training(spec, "max_parts", 2).training.max_parts == 2


def test_the_widest_list_of_pages_fits_into_memory(spec: RunSpec) -> None:
    training = spec.training
    most = MAX_ASSIGNED_PAGES // training.pages_per_window
    fits = with_training(spec, "max_width", min(1024, most))
    assert fits.training.most_pages == fits.training.max_width * training.pages_per_window
    wide = with_training(spec, "max_width", 1024)
    steps = MAX_ASSIGNED_PAGES // (1024 * training.batch_pages)
    assert with_training(wide, "inner_steps", steps).training.most_pages <= MAX_ASSIGNED_PAGES
    with pytest.raises(ConfigError, match="batch_pages and max_width makes"):
        with_training(wide, "inner_steps", steps + 1)


def test_a_window_assigns_a_million_pages_at_most(spec: RunSpec) -> None:
    with_training(with_training(spec, "batch_pages", 16), "inner_steps", 65_536)
    with pytest.raises(ConfigError, match=r"training\.inner_steps: times batch_pages"):
        with_training(with_training(spec, "batch_pages", 17), "inner_steps", 65_536)


@pytest.mark.parametrize("value", ["-0.1", "0.11", "0.999", "1000.1", "nan"])
def test_a_cap_on_lengths_out_of_range_is_named(value: str, spec: RunSpec, spec_text: str) -> None:
    """Without the key, or with 0, a run is as before there were caps."""
    (head, tail) = spec_text.split("[outer]\n")
    with pytest.raises(ConfigError, match=r"outer\.max_length_ratio"):
        parse_spec(f"{head}[outer]\nmax_length_ratio = {value}\n{tail}")
    off = parse_spec(f"{head}[outer]\nmax_length_ratio = 0.0\n{tail}")
    assert off.run_id == spec.run_id
    cut = parse_spec(f"{head}[outer]\nmax_length_ratio = 1.1\n{tail}")
    assert (cut.run_id != spec.run_id, cut.outer.max_length_ratio) == (True, 1.1)
