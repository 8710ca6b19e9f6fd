"""What the pool lets in: signatures, eras, nonces, and bytes that are no extrinsic."""

import random
from typing import Any

import bittensor_core
import pytest

from localnet.chain.extrinsics import (
    KEPT_HASHES,
    ChainContext,
    InvalidTransaction,
    verify,
)
from localnet.chain.metadata import compact, load_metadata, read_compact

BAD_SIGNATURE = "Transaction has a bad signature"


def transfer(ledger: Any, rao: int = 5_000) -> tuple[str, str, dict[str, Any]]:
    args = {"dest": ledger.wallets["bob"].cold, "value": rao}
    return "Balances", "transfer_keep_alive", args


def refusal(ledger: Any, raw: bytes) -> str:
    with pytest.raises(InvalidTransaction) as refused:
        ledger.chain.submit(raw)
    return refused.value.data


def test_a_signed_transfer_moves_exactly_its_value(ledger: Any) -> None:
    alice, bob = ledger.wallets["alice"], ledger.wallets["bob"]
    before = ledger.free_rao(alice.cold), ledger.free_rao(bob.cold)
    assert ledger.call(alice.coldkey, *transfer(ledger)[:2], **transfer(ledger)[2]) == "ok"
    assert ledger.free_rao(alice.cold) == before[0] - 5_000
    assert ledger.free_rao(bob.cold) == before[1] + 5_000


@pytest.mark.parametrize("period", [4, 64, 128])
def test_a_mortal_extrinsic_lives_as_long_as_its_era(ledger: Any, period: int) -> None:
    ledger.seal(10)
    alice = ledger.wallets["alice"].coldkey
    era = {"period": period, "current": 10}
    birth = bittensor_core.era_birth(period, 10)
    checkpoint = ledger.chain.blocks.at(birth).hash
    raw = ledger.sign_with(alice, transfer(ledger), nonce=0, era=era, checkpoint=checkpoint)
    ledger.seal(birth + period - 1 - ledger.height)
    # The next block would be one past the era's last.
    assert refusal(ledger, raw) in ("Transaction has an ancient birth block", BAD_SIGNATURE)


def test_a_mortal_extrinsic_is_accepted_inside_its_era(ledger: Any) -> None:
    ledger.seal(10)
    alice = ledger.wallets["alice"].coldkey
    era = {"period": 64, "current": 10}
    checkpoint = ledger.chain.blocks.at(bittensor_core.era_birth(64, 10)).hash
    raw = ledger.sign_with(alice, transfer(ledger), nonce=0, era=era, checkpoint=checkpoint)
    ledger.seal(40)
    ledger.chain.submit(raw)
    ledger.seal()
    assert ledger.outcomes() == ["ok"]


@pytest.mark.parametrize(
    ("coded", "period", "phase"), [("1000", 2, 1), ("5100", 4, 5), ("f1ff", 4, 4095)]
)
def test_an_era_that_is_too_short_or_out_of_phase_is_no_era(
    ledger: Any, coded: str, period: int, phase: int
) -> None:
    ledger.seal(10)
    raw = bytearray(
        ledger.sign_with(
            ledger.wallets["alice"].coldkey,
            transfer(ledger),
            nonce=0,
            era={"period": 64, "current": 10},
        )
    )
    start = read_compact(bytes(raw), 0)[1]
    at = start + 1 + 1 + 32 + 1 + 64
    raw[at : at + 2] = bytes.fromhex(coded)
    assert ledger.metadata.codec.decode_extrinsic(bytes(raw))["era"] == (period, phase)
    assert refusal(ledger, bytes(raw)) == "Could not decode the extrinsic"


@pytest.mark.parametrize(("head", "accepted"), [(2409, True), (2410, True), (2411, False)])
def test_a_long_era_ends_when_its_first_hash_is_forgotten(
    ledger: Any, head: int, accepted: bool
) -> None:
    """Birth is block 10; hashes are kept for as long as `System.BlockHashCount` says."""
    assert ledger.metadata.codec.constant("System", "BlockHashCount") == KEPT_HASHES == 2400
    genesis = ledger.chain.genesis_hash
    # An era of 4,096 blocks begins at block 10 for a signer who is there.
    raw = ledger.sign_with(
        ledger.wallets["alice"].coldkey,
        transfer(ledger),
        nonce=0,
        era={"period": 4096, "current": 10},
        checkpoint=genesis,
    )
    context = ChainContext(genesis_hash=genesis, head_number=head, hash_at=lambda _: genesis)
    if accepted:
        assert verify(raw, ledger.metadata, context).era_blocks == 4096
    else:
        with pytest.raises(InvalidTransaction, match="ancient birth block"):
            verify(raw, ledger.metadata, context)


def test_an_immortal_extrinsic_never_ages(ledger: Any) -> None:
    genesis = ledger.chain.genesis_hash
    raw = ledger.sign_with(ledger.wallets["alice"].coldkey, transfer(ledger), nonce=0)
    context = ChainContext(genesis_hash=genesis, head_number=10**6, hash_at=lambda _: genesis)
    extrinsic = verify(raw, ledger.metadata, context)
    assert (extrinsic.era_blocks, extrinsic.last_block) == (None, None)


def test_a_wrong_checkpoint_genesis_or_signer_is_a_bad_signature(ledger: Any) -> None:
    ledger.seal(3)
    alice, call = ledger.wallets["alice"].coldkey, transfer(ledger)
    era = {"period": 64, "current": 3}
    wrong = {"checkpoint": b"\x01" * 32, "era": era}, {"genesis": b"\x01" * 32}
    for change in wrong:
        assert refusal(ledger, ledger.sign_with(alice, call, nonce=0, **change)) == BAD_SIGNATURE
    raw = bytearray(ledger.sign_with(alice, call, nonce=0))
    start = read_compact(bytes(raw), 0)[1]
    raw[start + 2 : start + 34] = ledger.wallets["bob"].coldkey.public_key
    assert refusal(ledger, bytes(raw)) == BAD_SIGNATURE


def test_a_refused_extrinsic_never_enters_a_block(ledger: Any) -> None:
    raw = bytearray(ledger.sign_with(ledger.wallets["alice"].coldkey, transfer(ledger), nonce=0))
    raw[-1] ^= 1
    assert refusal(ledger, bytes(raw)) == BAD_SIGNATURE
    ledger.seal()
    assert len(ledger.chain.head.extrinsics) == 1
    assert ledger.chain.next_nonce(ledger.wallets["alice"].cold) == 0


def test_nonces_count_pool_and_chain_and_refuse_replays(ledger: Any) -> None:
    alice, call = ledger.wallets["alice"].coldkey, transfer(ledger)
    first, second = (ledger.sign_with(alice, call, nonce=nonce) for nonce in (0, 1))
    ledger.chain.submit(first)
    assert ledger.chain.next_nonce(alice.ss58_address) == 1
    assert refusal(ledger, first) == "The transaction is already in the pool"
    ledger.chain.submit(second)
    ledger.seal()
    assert ledger.outcomes() == ["ok", "ok"]
    assert ledger.chain.next_nonce(alice.ss58_address) == 2
    assert refusal(ledger, first) == "Transaction is outdated"


def test_a_failed_call_still_spends_its_nonce(ledger: Any) -> None:
    alice = ledger.wallets["alice"]
    bad = {"dest": alice.cold, "value": 10**18}
    assert ledger.call(alice.coldkey, "Balances", "transfer_keep_alive", **bad) == (
        "FundsUnavailable"
    )
    assert ledger.chain.next_nonce(alice.cold) == 1


def test_calls_that_the_chain_lacks_are_refused_by_name(ledger: Any) -> None:
    raw = ledger.sign(ledger.wallets["alice"].coldkey, "System", "set_heap_pages", pages=1)
    assert "System.set_heap_pages" in refusal(ledger, raw)


def test_tips_are_refused(ledger: Any) -> None:
    raw = ledger.sign_with(ledger.wallets["alice"].coldkey, transfer(ledger), nonce=0, tip=1)
    assert "tip 0" in refusal(ledger, raw)


def test_an_ed25519_signature_is_verified_too(ledger: Any) -> None:
    keypair = bittensor_core.Keypair.create_from_uri("//ed", crypto_type=0)
    codec = ledger.metadata.codec
    composed = codec.compose_call(*transfer(ledger))
    genesis = "0x" + ledger.chain.genesis_hash.hex()
    signed = {"era": "00", "nonce": 0, "tip": 0, "tip_asset_id": None}
    payload = codec.signature_payload(
        composed, genesis_hash=genesis, era_block_hash=genesis, **signed
    )
    for version, wanted in ((0, "FundsUnavailable"), (1, BAD_SIGNATURE)):
        raw, _ = codec.encode_signed_extrinsic(
            composed,
            public_key=keypair.public_key,
            signature=keypair.sign(payload),
            signature_version=version,
            **signed,
        )
        if wanted == BAD_SIGNATURE:
            assert refusal(ledger, raw) == wanted
        else:
            ledger.chain.submit(raw)
            ledger.seal()
            assert ledger.outcomes() == [wanted]


def test_mutated_bytes_are_refused_and_never_raise_anything_else(ledger: Any) -> None:
    alice = ledger.wallets["alice"].coldkey
    good = ledger.sign_with(alice, transfer(ledger), nonce=0)
    rng = random.Random(7)
    for _ in range(3000):
        raw = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        cut = rng.randrange(len(raw)) if rng.random() < 0.3 else len(raw)
        if bytes(raw[:cut]) != good:
            with pytest.raises(InvalidTransaction):
                ledger.chain.submit(bytes(raw[:cut]))


@pytest.mark.parametrize("raw", [b"", b"\x00", b"\x03", b"\xff" * 200, bytes(300_000)])
def test_bytes_that_are_no_extrinsic_are_refused(ledger: Any, raw: bytes) -> None:
    refusal(ledger, raw)


@pytest.mark.parametrize("value", [0, 1, 63, 64, 16383, 16384, 2**30 - 1])
def test_compact_round_trips_at_its_boundaries(value: int) -> None:
    encoded = compact(value)
    assert read_compact(encoded, 0) == (value, len(encoded))
    assert encoded == bytes(load_metadata().codec.encode_compact(value))


def test_compact_refuses_the_big_mode() -> None:
    with pytest.raises(ValueError, match="big mode"):
        compact(2**30)
    with pytest.raises(ValueError, match="big mode"):
        read_compact(b"\x03\x00\x00\x00\x40", 0)
