"""Sealed extrinsics: what is opened, when, and what a caller's bytes cannot do to the chain."""

from collections.abc import Callable
from typing import Any

import bittensor_core
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localnet.chain.extrinsics import InvalidTransaction
from localnet.chain.metadata import compact
from localnet.chain.pallets import shield

ROTATION = shield.ROTATION_BLOCKS
FOREIGN_KEY_HASH = b"\x07" * 16


def transfer(ledger: Any, rao: int = 5_000) -> tuple[str, str, dict[str, Any]]:
    args = {"dest": ledger.wallets["bob"].cold, "value": rao}
    return "Balances", "transfer_keep_alive", args


def mortal(ledger: Any, period: int = 8) -> dict[str, Any]:
    birth = bittensor_core.era_birth(period, ledger.height)
    checkpoint = ledger.chain.blocks.at(birth).hash
    return {"era": {"period": period, "current": ledger.height}, "checkpoint": checkpoint}


def key(ledger: Any, item: str = "NextKey") -> bytes:
    value = ledger.chain.state_at(ledger.height).shield.get(item)
    return bytes.fromhex(value.removeprefix("0x"))


def seal_up(ledger: Any, plain: bytes, public: bytes | None = None) -> bytes:
    """The SDK's own sealing, to `NextKey` unless another public key is given."""
    target = key(ledger) if public is None else public
    return bytes(bittensor_core.encrypt_mlkem768(target, plain, include_key_hash=True))


def carry(ledger: Any, ciphertext: bytes, name: str = "alice", **changes: Any) -> bytes:
    """A signed carrier of a ciphertext, with the account's next nonce and a short era."""
    call = ("MevShield", "submit_encrypted", {"ciphertext": "0x" + ciphertext.hex()})
    keypair = ledger.wallets[name].coldkey
    signed = {"nonce": ledger.chain.next_nonce(keypair.ss58_address), **mortal(ledger), **changes}
    return bytes(ledger.sign_with(keypair, call, **signed))


def inner(ledger: Any, name: str = "alice", *, nonce: int = 1, rao: int = 5_000) -> bytes:
    keypair = ledger.wallets[name].coldkey
    return bytes(ledger.sign_with(keypair, transfer(ledger, rao), nonce=nonce, **mortal(ledger)))


def sealed_transfer(ledger: Any, name: str = "alice", **changes: Any) -> tuple[bytes, bytes]:
    """(carrier, what is inside)."""
    plain = inner(ledger, name, **changes)
    return carry(ledger, seal_up(ledger, plain), name), plain


def signed_of_head(ledger: Any) -> list[bytes]:
    return list(ledger.chain.head.extrinsics[1:])


def events_of(ledger: Any, index: int) -> list[tuple[str, str]]:
    """(pallet, name) of the head's events that belong to one extrinsic."""
    records = ledger.chain.state_at(ledger.height).system.get("Events")
    return [
        (record["event"]["module_id"], record["event"]["event_id"])
        for record in records
        if record["extrinsic_idx"] == index
    ]


def refusal(ledger: Any, raw: bytes) -> str:
    with pytest.raises(InvalidTransaction) as refused:
        ledger.chain.submit(raw)
    return refused.value.data


def test_a_sealed_transfer_is_executed_next_to_its_carrier(ledger: Any) -> None:
    alice, bob = ledger.wallets["alice"], ledger.wallets["bob"]
    before = ledger.free_rao(alice.cold), ledger.free_rao(bob.cold)
    carrier, plain = sealed_transfer(ledger)
    ledger.chain.submit(carrier)
    ledger.seal()
    assert signed_of_head(ledger) == [carrier, plain]
    assert events_of(ledger, 1) == [
        ("MevShield", "EncryptedSubmitted"),
        ("System", "ExtrinsicSuccess"),
    ]
    assert events_of(ledger, 2) == [("Balances", "Transfer"), ("System", "ExtrinsicSuccess")]
    assert ledger.free_rao(alice.cold) == before[0] - 5_000
    assert ledger.free_rao(bob.cold) == before[1] + 5_000
    assert ledger.chain.next_nonce(alice.cold) == 2


def test_two_in_one_block_are_both_opened(ledger: Any) -> None:
    first, first_plain = sealed_transfer(ledger, "alice")
    second, second_plain = sealed_transfer(ledger, "carol", rao=7_000)
    for carrier in (first, second):
        ledger.chain.submit(carrier)
    ledger.seal()
    assert signed_of_head(ledger) == [first, first_plain, second, second_plain]
    assert ledger.outcomes() == ["ok"] * 4


def test_a_sealed_call_that_fails_leaves_its_error_in_its_own_place(ledger: Any) -> None:
    carrier, plain = sealed_transfer(ledger, rao=10**17)
    ledger.chain.submit(carrier)
    ledger.seal()
    assert signed_of_head(ledger) == [carrier, plain]
    assert ledger.outcomes() == ["ok", "FundsUnavailable"]
    assert ledger.chain.next_nonce(ledger.wallets["alice"].cold) == 2


def test_one_account_may_carry_what_another_signed(ledger: Any) -> None:
    plain = inner(ledger, "carol", nonce=0)
    ledger.chain.submit(carry(ledger, seal_up(ledger, plain), "alice"))
    ledger.seal()
    assert signed_of_head(ledger)[1] == plain
    assert ledger.chain.next_nonce(ledger.wallets["carol"].cold) == 1


@pytest.mark.parametrize("age_blocks", [0, 1, 2 * ROTATION - 1])
def test_a_key_read_some_blocks_ago_still_opens(ledger: Any, age_blocks: int) -> None:
    ledger.seal(ROTATION - 1)
    public = key(ledger)
    ledger.seal(age_blocks)
    plain = inner(ledger)
    ledger.chain.submit(carry(ledger, seal_up(ledger, plain, public)))
    ledger.seal()
    assert signed_of_head(ledger)[1:] == [plain]


def test_keys_rotate_from_next_to_current_and_expire(ledger: Any) -> None:
    ledger.seal(1)
    first = key(ledger)
    assert ledger.chain.state_at(1).shield.get("NextKeyExpiresAt") == 3 * ROTATION
    ledger.seal(ROTATION - 1)
    assert (key(ledger, "PendingKey"), key(ledger) != first) == (first, True)
    ledger.seal(ROTATION)
    assert key(ledger, "CurrentKey") == first
    ledger.seal(ROTATION - 1)
    assert ledger.height == 3 * ROTATION - 1
    # The next block is the one at which the key expires.
    carrier = carry(ledger, seal_up(ledger, inner(ledger), first))
    ledger.chain.submit(carrier)
    ledger.seal()
    assert signed_of_head(ledger) == []


def test_one_sealed_to_a_foreign_key_waits_until_its_era_ends(ledger: Any) -> None:
    ciphertext = FOREIGN_KEY_HASH + seal_up(ledger, inner(ledger))[16:]
    carrier = ledger.chain.submit(carry(ledger, ciphertext))
    behind = ledger.sign_with(ledger.wallets["alice"].coldkey, transfer(ledger), nonce=1)
    ledger.chain.submit(behind)
    for _ in range(8):
        ledger.seal()
        assert signed_of_head(ledger) == []
    notices = ledger.chain.pool.drain_notices()
    assert [(notice.hash, notice.status) for notice in notices] == [(carrier.hash, "invalid")]
    assert ledger.chain.next_nonce(ledger.wallets["alice"].cold) == 0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole[:-1],
        lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
        lambda whole: whole[: 18 + 1088 + 24],
        lambda whole: whole[:18] + bytes(1088) + whole[18 + 1088 :],
        lambda whole: whole[:16] + (4).to_bytes(2, "little") + whole[18:],
    ],
    ids=["cut", "changed tag", "empty body", "other KEM", "short KEM"],
)
def test_what_cannot_be_opened_is_included_and_left_at_that(
    ledger: Any, spoil: Callable[[bytes], bytes]
) -> None:
    carrier = carry(ledger, spoil(seal_up(ledger, inner(ledger))))
    ledger.chain.submit(carrier)
    ledger.seal()
    assert signed_of_head(ledger) == [carrier]
    assert ledger.outcomes() == ["ok"]
    assert ledger.chain.next_nonce(ledger.wallets["alice"].cold) == 1


@pytest.mark.parametrize(
    "plain", [b"", b"\x00", b"\xff" * 40, b"{}", bytes(3000)], ids=["none", "0", "ff", "json", "0s"]
)
def test_bytes_inside_that_are_no_extrinsic_are_left_out(ledger: Any, plain: bytes) -> None:
    carrier = carry(ledger, seal_up(ledger, plain))
    ledger.chain.submit(carrier)
    ledger.seal()
    assert signed_of_head(ledger) == [carrier]


@pytest.mark.parametrize("size", [0, 5, 16, 17, 18 + 1088, 18 + 1088 + 23])
def test_a_ciphertext_that_is_cut_short_is_refused_by_the_pool(ledger: Any, size: int) -> None:
    whole = seal_up(ledger, inner(ledger))
    # The real runtime's number for a sealed extrinsic that it cannot parse.
    assert refusal(ledger, carry(ledger, whole[:size])) == "Custom error: 23"


def test_a_carrier_needs_a_short_era(ledger: Any) -> None:
    ciphertext = seal_up(ledger, inner(ledger))
    immortal = {"era": "00", "checkpoint": ledger.chain.genesis_hash}
    for changes in (mortal(ledger, 16), immortal):
        raw = carry(ledger, ciphertext, **changes)
        assert refusal(ledger, raw) == "Transaction is outdated"
    ledger.chain.submit(carry(ledger, ciphertext, **mortal(ledger, 4)))


def test_an_inner_extrinsic_is_verified_like_any_other(ledger: Any) -> None:
    forged = bytearray(inner(ledger))
    forged[-1] ^= 1
    unknown = ("System", "set_heap_pages", {"pages": 1})
    keypair = ledger.wallets["alice"].coldkey
    wrong = [
        bytes(forged),
        inner(ledger, nonce=0),
        inner(ledger, nonce=2),
        ledger.sign_with(keypair, unknown, nonce=1),
        ledger.sign_with(keypair, transfer(ledger), nonce=1, genesis=b"\x01" * 32),
    ]
    for name, plain in zip(["alice", *["carol"] * 4], wrong, strict=True):
        carrier = carry(ledger, seal_up(ledger, plain), name)
        ledger.chain.submit(carrier)
        ledger.seal()
        assert signed_of_head(ledger) == [carrier], plain.hex()


def test_an_inner_extrinsic_whose_era_has_ended_is_left_out(ledger: Any) -> None:
    ledger.seal(3)
    plain = inner(ledger)
    ledger.seal(8)
    carrier = carry(ledger, seal_up(ledger, plain))
    ledger.chain.submit(carrier)
    ledger.seal()
    assert signed_of_head(ledger) == [carrier]


def test_a_replayed_inner_extrinsic_is_executed_once(ledger: Any) -> None:
    carrier, plain = sealed_transfer(ledger)
    ledger.chain.submit(carrier)
    ledger.chain.submit(plain)
    again = carry(ledger, seal_up(ledger, plain), "carol")
    ledger.chain.submit(again)
    ledger.seal()
    assert signed_of_head(ledger) == [carrier, plain, again]
    assert ledger.chain.pool.drain_notices() == [], "the copy in the pool was included"
    assert refusal(ledger, plain) == "Transaction is outdated"


def test_a_carrier_inside_a_carrier_is_executed_and_not_opened(ledger: Any) -> None:
    innermost = inner(ledger, nonce=2)
    nested = carry(ledger, seal_up(ledger, innermost), nonce=1)
    outer = carry(ledger, seal_up(ledger, nested))
    ledger.chain.submit(outer)
    ledger.seal()
    assert signed_of_head(ledger) == [outer, nested]
    assert events_of(ledger, 2)[0] == ("MevShield", "EncryptedSubmitted")
    assert ledger.chain.next_nonce(ledger.wallets["alice"].cold) == 2


def test_keys_follow_from_the_secret_and_the_block_alone(make_ledger: Callable[..., Any]) -> None:
    one, two = make_ledger(), make_ledger()
    assert key(one) == key(two)
    ciphertext = seal_up(one, b"plain")
    sealed = shield.parse(b"\x1e\x01" + compact(len(ciphertext)) + ciphertext)
    assert sealed is not None
    assert shield.ShieldKeys(one.secret).unseal(sealed, 1) == b"plain"
    assert shield.ShieldKeys(one.secret).unseal(sealed, 3 * ROTATION) is None
    assert shield.ShieldKeys(b"\x01" * 32).unseal(sealed, 1) is None


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_no_ciphertext_stops_the_chain(ledger: Any, data: st.DataObject) -> None:
    ledger.seal()
    nonce = ledger.chain.next_nonce(ledger.wallets["alice"].cold)
    whole = seal_up(ledger, inner(ledger, nonce=nonce + 1))
    keep = data.draw(st.sampled_from([0, 16, 18, 18 + 1088, len(whole)]))
    junk = data.draw(st.binary(max_size=1200))
    mixed = whole[:keep] + junk
    for position in data.draw(st.lists(st.integers(0, 2000), max_size=4)):
        if position < len(mixed):
            mixed = mixed[:position] + bytes([mixed[position] ^ 0x41]) + mixed[position + 1 :]
    height = ledger.height
    try:
        ledger.chain.submit(carry(ledger, mixed))
    except InvalidTransaction:
        pass
    else:
        ledger.seal()
    ledger.seal()
    assert ledger.height >= height + 1
