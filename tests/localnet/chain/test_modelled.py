"""Commit-reveal modelled without a beacon: plain weights that take effect when a reveal would."""

from typing import Any

import pytest

from tests.support.localnet.commit_cases import call, events, make_chain, put, queued, run_to_epoch
from tests.support.localnet.ledger import Ledger

ROW = {"dests": [2, 3], "weights": [3, 1], "version_key": 0}
STORED = [(2, 65_535), (3, 21_845)]
DELAY_BLOCKS = 3


@pytest.fixture
def chain() -> Ledger:
    return make_chain("modelled")


def weights(chain: Ledger) -> list[Any]:
    return list(chain.get("Weights", 1, 1))


def test_clients_see_a_chain_without_commit_reveal(chain: Ledger) -> None:
    assert chain.get("CommitRevealWeightsEnabled", 1) is False


@pytest.mark.parametrize("function", ["set_weights", "set_mechanism_weights"])
def test_a_row_is_set_three_blocks_into_the_next_epoch(chain: Ledger, function: str) -> None:
    mechanism = {"mecid": 0} if function == "set_mechanism_weights" else {}
    assert call(chain, "alice", function, **ROW, **mechanism) == "ok"
    set_at, epoch = chain.height, chain.get("SubnetEpochIndex", 1)
    assert chain.get("LastUpdate", 1)[1] == set_at
    assert [name for name, _ in events(chain)] == ["TimelockedWeightsCommitted"]
    first_block = chain.get("LastEpochBlock", 1) + 20
    while chain.height < first_block + DELAY_BLOCKS:
        assert weights(chain) == []
        chain.seal()
    assert weights(chain) == STORED
    assert chain.get("LastUpdate", 1)[1] == set_at
    assert queued(chain, epoch) == []
    assert [name for name, _ in events(chain)] == ["WeightsSet", "TimelockedWeightsRevealed"]


def test_a_row_earns_an_epoch_later_than_a_plain_one(chain: Ledger) -> None:
    plain = make_chain("off")
    for ledger in (chain, plain):
        assert call(ledger, "alice", "set_weights", **ROW) == "ok"
        run_to_epoch(ledger)
    assert chain.get("Incentive", 1) == [0, 0, 0, 0]
    assert plain.get("Incentive", 1)[2] == pytest.approx(0.75 * 65_535, abs=2)
    run_to_epoch(chain)
    assert chain.get("Incentive", 1) == plain.get("Incentive", 1)


def test_the_reveal_period_counts_epochs(chain: Ledger) -> None:
    put(chain, "RevealPeriodEpochs", 1, value=2)
    assert call(chain, "alice", "set_weights", **ROW) == "ok"
    run_to_epoch(chain)
    chain.seal(DELAY_BLOCKS)
    assert weights(chain) == []
    run_to_epoch(chain)
    chain.seal(DELAY_BLOCKS)
    assert weights(chain) == STORED


def test_a_short_epoch_opens_in_its_last_block() -> None:
    chain = make_chain("modelled", tempo_blocks=2)
    assert call(chain, "alice", "set_weights", **ROW) == "ok"
    run_to_epoch(chain)
    chain.seal()
    assert weights(chain) == STORED


def test_errors_come_at_once_and_queue_nothing(chain: Ledger) -> None:
    assert call(chain, "dave", "set_weights", **ROW) == "HotKeyNotRegisteredInSubNet"
    assert call(chain, "bob", "set_weights", **ROW) == "NeuronNoValidatorPermit"
    bad = {**ROW, "dests": [2, 9]}
    assert call(chain, "alice", "set_weights", **bad) == "UidVecContainInvalidOne"
    assert queued(chain, chain.get("SubnetEpochIndex", 1)) == []


def test_a_permit_that_is_lost_meanwhile_drops_the_row(chain: Ledger) -> None:
    assert call(chain, "alice", "set_weights", **ROW) == "ok"
    run_to_epoch(chain)
    put(chain, "ValidatorPermit", 1, value=[False] * 4)
    chain.seal(DELAY_BLOCKS)
    assert weights(chain) == []


def test_ten_rows_may_wait(chain: Ledger) -> None:
    run_to_epoch(chain)
    for _ in range(10):
        assert call(chain, "alice", "set_weights", **ROW) == "ok"
    assert call(chain, "alice", "set_weights", **ROW) == "TooManyUnrevealedCommits"


def test_the_rate_limit_counts_from_the_call() -> None:
    chain = make_chain("modelled", weights_rate_limit_blocks=3)
    assert call(chain, "alice", "set_weights", **ROW) == "ok"
    chain.seal()
    assert call(chain, "alice", "set_weights", **ROW) == "SettingWeightsTooFast"
    assert call(chain, "alice", "set_weights", **ROW) == "ok"


def test_a_modelled_row_pending_masks_uids_registered_since(chain: Ledger) -> None:
    assert call(chain, "alice", "set_weights", **ROW) == "ok"
    run_to_epoch(chain)
    chain.seal(DELAY_BLOCKS)
    assert call(chain, "alice", "set_weights", **ROW) == "ok"
    put(chain, "BlockAtRegistration", 1, 2, value=chain.height + 1)
    chain.seal()
    assert call(chain, "alice", "set_weights", **ROW) == "ok"
    run_to_epoch(chain)
    assert chain.get("Incentive", 1) == [0, 0, 0, 65_535]
