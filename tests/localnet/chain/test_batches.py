"""Several calls in one extrinsic, remarks, and transfers: what stays when one of them fails."""

from hashlib import blake2b
from typing import Any

import pytest

from localnet.chain.extrinsics import InvalidTransaction
from localnet.chain.storage import VersionedStore
from tests.support.localnet.signing import TAO, by_coldkey, events, total_free_rao


def transfer(ledger: Any, name: str, rao: int, function: str = "transfer_keep_alive") -> Any:
    """A composed transfer to a wallet's coldkey, to be nested."""
    args = {"dest": ledger.wallets[name].cold, "value": rao}
    return ledger.metadata.codec.compose_call("Balances", function, args)


def batch(ledger: Any, function: str, *calls: Any) -> str:
    return by_coldkey(ledger, "alice", function, "Utility", calls=list(calls))


def received(ledger: Any, name: str) -> int:
    return int(ledger.free_rao(ledger.wallets[name].cold)) - 100_000 * TAO


@pytest.mark.parametrize("function", ["batch", "batch_all", "force_batch"])
def test_a_batch_runs_its_calls_in_order(ledger: Any, function: str) -> None:
    assert batch(ledger, function, transfer(ledger, "bob", 1), transfer(ledger, "carol", 2)) == "ok"
    assert (received(ledger, "bob"), received(ledger, "carol")) == (1, 2)
    wanted = [("ItemCompleted", None), ("ItemCompleted", None), ("BatchCompleted", None)]
    assert events(ledger, "Utility") == wanted
    assert batch(ledger, function) == "ok"
    assert events(ledger, "Utility") == [("BatchCompleted", None)]


def test_a_failure_stops_a_batch_and_keeps_what_came_before(ledger: Any) -> None:
    too_much = transfer(ledger, "bob", 10**17)
    calls = (transfer(ledger, "bob", 1), too_much, transfer(ledger, "carol", 1))
    assert batch(ledger, "batch", *calls) == "ok"
    assert (received(ledger, "bob"), received(ledger, "carol")) == (1, 0)
    completed, (name, interrupted) = events(ledger, "Utility")
    assert completed == ("ItemCompleted", None)
    assert name == "BatchInterrupted"
    assert interrupted == {"index": 1, "error": {"Token": "FundsUnavailable"}}


def test_a_failure_undoes_all_of_a_batch_all(ledger: Any) -> None:
    calls = (transfer(ledger, "bob", 1), transfer(ledger, "carol", 10**17))
    before = ledger.free_rao(ledger.wallets["alice"].cold)
    assert batch(ledger, "batch_all", *calls) == "FundsUnavailable"
    assert received(ledger, "bob") == 0
    assert ledger.free_rao(ledger.wallets["alice"].cold) == before
    assert events(ledger, "Utility") == events(ledger, "Balances") == []
    assert ledger.chain.next_nonce(ledger.wallets["alice"].cold) == 1, "the nonce is used"


def test_a_forced_batch_tries_every_call(ledger: Any) -> None:
    calls = (
        transfer(ledger, "bob", 10**17),
        transfer(ledger, "bob", 1),
        transfer(ledger, "carol", 10**17),
    )
    assert batch(ledger, "force_batch", *calls) == "ok"
    assert received(ledger, "bob") == 1
    names = [name for name, _ in events(ledger, "Utility")]
    assert names == ["ItemFailed", "ItemCompleted", "ItemFailed", "BatchCompletedWithErrors"]


def test_batches_nest_but_batch_all_not_in_itself(ledger: Any) -> None:
    codec = ledger.metadata.codec
    inner = codec.compose_call("Utility", "batch_all", {"calls": [transfer(ledger, "bob", 1)]})
    failing = codec.compose_call(
        "Utility", "batch_all", {"calls": [transfer(ledger, "bob", 10**17)]}
    )
    assert batch(ledger, "batch_all", inner) == "CallFiltered"
    assert batch(ledger, "force_batch", failing, inner) == "ok"
    assert received(ledger, "bob") == 1
    names = [name for name, _ in events(ledger, "Utility")]
    assert names[:2] == ["ItemFailed", "ItemCompleted"], "what failed leaves no event of its own"


def test_a_batch_signs_for_the_owner_of_a_subnet_and_for_pallets_errors(subnet: Any) -> None:
    """The error of a pallet is the same inside a batch as outside."""
    codec, dave = subnet.metadata.codec, subnet.wallets["dave"]
    args = {"netuid": 9, "hotkey": dave.hot}
    failing = codec.compose_call("SubtensorModule", "burned_register", args)
    assert batch(subnet, "batch_all", failing) == "SubnetNotExists"
    assert batch(subnet, "batch", failing) == "ok"
    [(_, interrupted)] = events(subnet, "Utility")
    module = interrupted["error"]["Module"]
    error = codec.module_error(module["index"], int(module["error"][2:4], 16))
    assert error["name"] == "SubnetNotExists"


def test_a_call_that_is_not_here_is_refused_by_name_however_deep_it_is(ledger: Any) -> None:
    codec = ledger.metadata.codec
    call = codec.compose_call("Proxy", "remove_proxies", {})
    for _ in range(30):
        call = codec.compose_call("Utility", "batch", {"calls": [call]})
    with pytest.raises(InvalidTransaction, match=r"the local chain has no Proxy\.remove_proxies"):
        batch(ledger, "batch", call)


def test_a_nested_commitment_has_no_more_room_than_any(subnet: Any) -> None:
    info = {"fields": [{"BigRaw": b"a" * 513}]}
    args = {"netuid": 1, "info": info}
    call = subnet.metadata.codec.compose_call("Commitments", "set_commitment", args)
    with pytest.raises(InvalidTransaction, match="Could not decode"):
        batch(subnet, "batch", call)


def test_a_batch_has_a_longest_length(ledger: Any) -> None:
    remark = ledger.metadata.codec.compose_call("System", "remark", {"remark": b""})
    assert batch(ledger, "batch", *[remark] * 10_923) == "TooManyCalls"


def test_inner_transactions_end_in_the_outer_one() -> None:
    store = VersionedStore()

    def fail() -> None:
        with store.transaction():
            store.write(b"b", b"lost")
            raise RuntimeError

    with store.transaction():
        store.write(b"a", b"1")
        with store.transaction():
            store.write(b"a", b"2")
            assert store.keys(b"") == [b"a"]
        with pytest.raises(RuntimeError):
            fail()
        assert (store.read(b"a"), store.read(b"b")) == (b"2", None)
    store.seal(0)
    assert (store.read(b"a", 0), store.read(b"b", 0)) == (b"2", None)


def test_remarks_change_nothing(ledger: Any) -> None:
    for function in ("remark", "remark_with_event"):
        assert by_coldkey(ledger, "alice", function, "System", remark=b"\xff\x00") == "ok"
    digest = "0x" + blake2b(b"\xff\x00", digest_size=32).hexdigest()
    sender = ledger.wallets["alice"].cold
    assert ("Remarked", {"sender": sender, "hash": digest}) in events(ledger, "System")


# Transfers


def test_transfers_keep_both_accounts_alive(ledger: Any) -> None:
    alice, bob = ledger.wallets["alice"], ledger.wallets["bob"]

    def send(dest: str, rao: int) -> str:
        call = ("transfer_keep_alive", "Balances")
        return by_coldkey(ledger, "alice", *call, dest=dest, value=rao)

    assert send(bob.hot, 499) == "BelowMinimum"
    assert send(bob.hot, 500) == "ok"
    assert send(bob.cold, ledger.free_rao(alice.cold)) == "NotExpendable"
    assert send(bob.cold, ledger.free_rao(alice.cold) + 1) == "FundsUnavailable"
    assert send(alice.cold, 1_000) == "ok"
    assert send(bob.cold, ledger.free_rao(alice.cold) - 500) == "ok"
    assert ledger.free_rao(alice.cold) == 500


@pytest.mark.parametrize(("left", "dust"), [(0, 0), (1, 1), (499, 499), (500, 0), (501, 0)])
def test_an_account_that_may_die_loses_what_is_below_the_deposit(
    ledger: Any, left: int, dust: int
) -> None:
    alice, bob = ledger.wallets["alice"], ledger.wallets["bob"]
    issued, free = ledger.get("TotalIssuance"), ledger.free_rao(alice.cold)
    call = ("transfer_allow_death", "Balances")
    assert by_coldkey(ledger, "alice", *call, dest=bob.cold, value=free - left) == "ok"
    assert ledger.free_rao(alice.cold) == (left if left >= 500 else 0)
    assert issued - ledger.get("TotalIssuance") == dust
    assert ledger.get("TotalIssuance") == total_free_rao(ledger)
    killed = ("KilledAccount", {"account": alice.cold}) in events(ledger, "System")
    assert killed == (left < 500)
    lost = ("DustLost", {"account": alice.cold, "amount": dust})
    assert (lost in events(ledger, "Balances")) == (dust > 0)
    assert ledger.chain.next_nonce(alice.cold) == 1, "a dead account keeps its nonce"


def test_a_transfer_to_oneself_may_be_of_everything(ledger: Any) -> None:
    alice = ledger.wallets["alice"]
    free = ledger.free_rao(alice.cold)
    call = ("transfer_allow_death", "Balances")
    assert by_coldkey(ledger, "alice", *call, dest=alice.cold, value=free) == "ok"
    assert ledger.free_rao(alice.cold) == free


@pytest.mark.parametrize(("keep_alive", "left"), [(True, 500), (False, 0)])
def test_all_of_a_balance_goes_at_once(ledger: Any, keep_alive: bool, left: int) -> None:
    alice, bob = ledger.wallets["alice"], ledger.wallets["bob"]
    args = {"dest": bob.cold, "keep_alive": keep_alive}
    assert by_coldkey(ledger, "alice", "transfer_all", "Balances", **args) == "ok"
    assert ledger.free_rao(alice.cold) == left
    assert ledger.free_rao(bob.cold) == 200_000 * TAO - left
