"""What stands on chain from an earlier run of the subnet says nothing in this one."""

import pytest

from simulation.swarm import accepted, build_world, digests, honest, metrics, run
from simulation.world import hotkey_of
from template.protocol.record import ROOT_BYTES, Record, Vote, decode_record, encode_record

STAKES_TAO = {"owner": 0, "val-a": 590, "val-b": 410, "m0": 0, "m1": 0}
WINDOW, NUM_WINDOWS = 3, 5


@pytest.mark.parametrize("is_other", [True, False], ids=["another run", "this run"])
def test_a_standing_vote_of_an_absent_majority(is_other: bool, tmp_path) -> None:
    """val-a, with 59 % of the stake, ended in window 3 of an equal plan and is away since. In this
    run the same vote is that of the majority, and the nodes stand apart from it.
    """
    world = build_world(STAKES_TAO, schedule__num_windows=NUM_WINDOWS)
    run_id = bytes(16) if is_other else world.spec.run_id
    vote = Vote(window=WINDOW, root=bytes(ROOT_BYTES), sample_digest=bytes(8), uids=frozenset({3}))
    said = Record.of(run_id, access=world.access(hotkey_of("val-a")), vote=vote)
    world.chain(hotkey_of("val-a")).publish(encode_record(said))
    nodes = run(world, honest("val-b", "m0", "m1"), tmp_path)
    assert len(digests(nodes)) == 1
    for node in nodes.values():
        by_window = accepted(node)
        assert list(by_window) == list(range(NUM_WINDOWS))
        apart = [
            w for w, differs in metrics(node).series("differs_from_majority").items() if differs
        ]
        assert (apart == []) == is_other
        assert all(by_window.values()) == is_other


def test_a_validator_does_not_carry_on_a_vote_of_another_run(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=2)
    vote = Vote(window=0, root=bytes(ROOT_BYTES), sample_digest=bytes(8), uids=frozenset({3}))
    hotkey = hotkey_of("val-a")
    said = Record.of(bytes(16), access=world.access(hotkey), vote=vote)
    world.chain(hotkey).publish(encode_record(said))
    nodes = run(world, honest("val-a", "val-b", "m0", "m1"), tmp_path)
    assert len(digests(nodes)) == 1
    _, values = world.ledger.commitments[hotkey]
    first = decode_record(values[1])
    assert first.access == said.access
    assert first.vote is None
    assert {record.run for data in values[2:] if (record := decode_record(data)).vote} == {
        world.spec.run_id[:8]
    }
