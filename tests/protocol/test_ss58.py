"""SS58 addresses: known vectors, every kind of damage, one address per key."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.world import hotkey_of
from template.protocol.ss58 import public_key

VECTORS = {
    "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY": (
        "d43593c715fdd31c61141abd04a99fd6822c8558854ccde39a5684e7a56da27d"
    ),
    "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty": (
        "8eaf04151687736326c9fea17e25fc5287613693c912909cb226aa4794f26a48"
    ),
    "5C4hrfjw9DjXZTzV3MwzrrAr9P1MJhSrvWGWqi1eSuyUpnhM": "00" * 32,
}
ALICE = next(iter(VECTORS))


@pytest.mark.parametrize("address", VECTORS)
def test_known_addresses(address: str) -> None:
    assert public_key(address).hex() == VECTORS[address]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "format 42"),
        (ALICE[:-1], "format 42"),
        (ALICE + "1", "32-byte"),
        ("1" + ALICE, "32-byte"),
        ("1" * 4 + ALICE, "32-byte"),
        (" " + ALICE, "base58"),
        (ALICE.replace("5", "0", 1), "base58"),
        (ALICE[:-1] + "Z", "checksum"),
        (ALICE[:10] + ALICE[11] + ALICE[10] + ALICE[12:], "checksum"),
        ("15oF4uVJwmo4TdGW7VfQxNLavjCXviqxT9S1MgbjMNHr6Sp5", "format 42|32-byte"),
        ("HNZata7iMYWmk5RvZRTiAsSDhV8366zq2YGb3tLH5Upf74F", "network"),
        ("\u0665" * 48, "base58"),
    ],
    ids=[
        "empty", "short", "long", "leading one", "leading ones", "space", "zero digit",
        "last digit", "transposed", "Alice on Polkadot", "Alice on Kusama", "other digits",
    ],
)  # fmt: skip
def test_everything_else_is_refused(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        public_key(address)


@settings(deadline=None)
@given(st.text(max_size=12))
def test_each_name_of_the_fakes_has_its_key(name: str) -> None:
    assert len(public_key(hotkey_of(name))) == 32


def test_every_single_wrong_character_is_found() -> None:
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    for position, right in enumerate(ALICE):
        for character in alphabet.replace(right, ""):
            with pytest.raises(ValueError, match="SS58"):
                public_key(ALICE[:position] + character + ALICE[position + 1 :])


class _Counted(str):
    """A text that counts its characters read by a loop."""

    num_read = 0

    def __iter__(self):
        for character in str.__iter__(self):
            type(self).num_read += 1
            yield character


@pytest.mark.parametrize("length", [49, 131_000])
def test_a_long_text_is_refused_before_any_arithmetic_and_quoted_cut(length: int) -> None:
    _Counted.num_read = 0
    with pytest.raises(ValueError, match=f"SS58 address: {length} characters") as caught:
        public_key(_Counted("z" * length))
    assert _Counted.num_read == 0
    assert len(str(caught.value)) < 250
