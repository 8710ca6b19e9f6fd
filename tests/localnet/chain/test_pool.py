"""Waiting for a block: gaps, eras that end, replacement, limits, and what watchers are told."""

from typing import Any

import bittensor_core
import pytest

from localnet.chain.extrinsics import Extrinsic, InvalidTransaction
from localnet.chain.pool import MAX_WAITING_PER_ACCOUNT, Notice


def signed(ledger: Any, name: str, nonce: int, rao: int = 5_000, **changes: Any) -> bytes:
    args = {"dest": ledger.wallets["bob"].cold, "value": rao}
    call = ("Balances", "transfer_keep_alive", args)
    return bytes(ledger.sign_with(ledger.wallets[name].coldkey, call, nonce=nonce, **changes))


def mortal(ledger: Any, period: int) -> dict[str, Any]:
    birth = bittensor_core.era_birth(period, ledger.height)
    checkpoint = ledger.chain.blocks.at(birth).hash
    return {"era": {"period": period, "current": ledger.height}, "checkpoint": checkpoint}


def included(ledger: Any) -> list[bytes]:
    """The signed extrinsics of the head, in order."""
    return list(ledger.chain.head.extrinsics[1:])


def told(ledger: Any) -> list[tuple[bytes, str]]:
    return [(notice.hash, notice.status) for notice in ledger.chain.pool.drain_notices()]


def test_nonces_that_come_in_any_order_are_executed_in_theirs(ledger: Any) -> None:
    raws = [signed(ledger, "alice", nonce) for nonce in range(4)]
    other = signed(ledger, "carol", 0)
    for raw in (raws[2], raws[0], other, raws[3], raws[1]):
        ledger.chain.submit(raw)
    assert ledger.chain.next_nonce(ledger.wallets["alice"].cold) == 4
    ledger.seal()
    assert included(ledger) == [raws[0], other, raws[1], raws[2], raws[3]]
    assert ledger.outcomes() == ["ok"] * 5


def test_one_behind_a_gap_waits_until_the_gap_closes(ledger: Any) -> None:
    pool = ledger.chain.pool
    late = ledger.chain.submit(signed(ledger, "alice", 2))
    assert pool.status(late.hash) == "future"
    ledger.seal(3)
    assert included(ledger) == []
    assert ledger.chain.next_nonce(ledger.wallets["alice"].cold) == 0
    first = ledger.chain.submit(signed(ledger, "alice", 0))
    assert pool.status(first.hash) == "ready"
    assert told(ledger) == []
    ledger.chain.submit(signed(ledger, "alice", 1))
    assert told(ledger) == [(late.hash, "ready")]
    assert pool.status(late.hash) == "ready"
    ledger.seal()
    assert included(ledger)[-1] == late.raw
    assert len(pool) == 0


def test_a_nonce_is_not_taken_twice(ledger: Any) -> None:
    ledger.chain.submit(signed(ledger, "alice", 0))
    with pytest.raises(InvalidTransaction, match="Priority is too low") as refused:
        ledger.chain.submit(signed(ledger, "alice", 0, rao=6_000))
    assert refused.value.code == 1014
    ledger.chain.submit(signed(ledger, "carol", 0))
    assert len(ledger.chain.pool) == 2


@pytest.mark.parametrize("period", [4, 8, 64])
def test_what_its_era_leaves_behind_is_dropped_and_its_watcher_told(
    ledger: Any, period: int
) -> None:
    ledger.seal(5)
    waiting = ledger.chain.submit(signed(ledger, "alice", 1, **mortal(ledger, period)))
    last = bittensor_core.era_birth(period, ledger.height) + period - 1
    assert waiting.last_block == last
    ledger.seal(last - 1 - ledger.height)
    assert told(ledger) == []
    # Block `last` may still take it; after it nothing may.
    ledger.seal()
    assert told(ledger) == [(waiting.hash, "invalid")]
    assert len(ledger.chain.pool) == 0
    ledger.chain.submit(signed(ledger, "alice", 0))
    ledger.seal()
    assert len(included(ledger)) == 1


def test_the_last_block_of_an_era_still_takes_it(ledger: Any) -> None:
    ledger.seal(5)
    ahead = ledger.chain.submit(signed(ledger, "alice", 1, **mortal(ledger, 4)))
    assert ahead.last_block is not None
    ledger.seal(ahead.last_block - 1 - ledger.height)
    ledger.chain.submit(signed(ledger, "alice", 0))
    ledger.seal()
    assert ledger.height == ahead.last_block
    assert included(ledger)[-1] == ahead.raw


def test_an_account_has_so_many_places_and_others_theirs(ledger: Any) -> None:
    for nonce in range(1, MAX_WAITING_PER_ACCOUNT + 1):
        ledger.chain.submit(signed(ledger, "alice", nonce))
    with pytest.raises(InvalidTransaction) as refused:
        ledger.chain.submit(signed(ledger, "alice", 0))
    assert (refused.value.code, refused.value.message) == (1016, "Immediately Dropped")
    ledger.chain.submit(signed(ledger, "carol", 0))


def test_notices_are_given_once() -> None:
    from localnet.chain.pool import Pool

    nonces = {"a": 0}
    pool = Pool(lambda address: nonces[address])
    extrinsic = Extrinsic(
        raw=b"raw",
        hash=b"hash",
        signer="a",
        nonce=0,
        era_blocks=None,
        last_block=None,
        pallet="System",
        function="remark",
        args={},
        call_data=b"",
    )
    pool.add(extrinsic)
    nonces["a"] = 1
    pool.settle(2, ())
    assert pool.drain_notices() == [Notice(hash=b"hash", status="invalid")]
    assert pool.drain_notices() == []
