"""A window's ballot depends on two chain states alone."""

import dataclasses

import pytest

from simulation.swarm import build_world, neuron
from simulation.world import World, hotkey_of
from template.chain.ballots import (
    read_ballot,
    read_candidates,
    read_last_commits,
    read_records,
    read_standing_votes,
)
from template.errors import ChainError
from template.protocol.record import PayloadCommitment, Record, Vote, encode_record
from template.protocol.ss58 import public_key

WINDOW = 1


@pytest.fixture
def world() -> World:
    world = build_world({"owner": 0, "val-a": 1000, "val-b": 900, "m0": 0, "m1": 0})
    world.time.block = 1000
    return world


@pytest.fixture
def schedule(world):
    return world.spec.schedule.schedule()


Said = PayloadCommitment | Vote | bytes


def _say(world: World, name: str, block: int, said: Said, run_id: bytes | None = None) -> None:
    """Put a commitment into a past block, said in the world's run or in another."""
    run_id = world.spec.run_id if run_id is None else run_id
    if isinstance(said, PayloadCommitment):
        said = encode_record(Record.of(run_id, payload=said))
    elif isinstance(said, Vote):
        said = encode_record(Record.of(run_id, vote=said))
    blocks, values = world.ledger.commitments.setdefault(hotkey_of(name), ([], []))
    blocks.append(block)
    values.append(said)


def _payload(tag: int, window: int = WINDOW) -> PayloadCommitment:
    return PayloadCommitment(window=window, digest=bytes([tag]) * 32)


def _vote(*uids: int, window: int = WINDOW) -> Vote:
    return Vote(window=window, root=b"r" * 16, sample_digest=b"s" * 8, uids=frozenset(uids))


def _ballot(world):
    return read_ballot(world.chain(hotkey_of("m0")), world.run, WINDOW)


def _candidates(world):
    return read_candidates(world.chain(hotkey_of("m0")), world.run, WINDOW)


def test_a_payload_and_a_vote_in_time_count(world, schedule) -> None:
    _say(world, "m0", schedule.commit_block(WINDOW), _payload(7))
    _say(world, "val-b", schedule.vote_block(WINDOW), _vote(3, 4))
    ballot = _ballot(world)
    (member,) = ballot.candidates.values()
    assert (member.uid, member.hotkey, member.digest) == (3, hotkey_of("m0"), b"\7" * 32)
    assert member.public_key == public_key(hotkey_of("m0"))
    assert member.coldkey == public_key(hotkey_of("m0-cold"))
    (voter,) = ballot.voters
    assert (voter.uid, voter.stake_rao, voter.vote.uids) == (2, 900 * 10**9, {3, 4})
    assert ballot.seed == world.chain("x").block_hash(schedule.stake_block(WINDOW))


def test_one_block_late_is_too_late(world, schedule) -> None:
    _say(world, "m0", schedule.commit_block(WINDOW) + 1, _payload(7))
    _say(world, "val-a", schedule.vote_block(WINDOW) + 1, _vote(3))
    ballot = _ballot(world)
    assert ballot.candidates == {}
    assert ballot.voters == []


def test_a_later_commitment_does_not_undo_what_stood_at_the_deadline(world, schedule) -> None:
    _say(world, "m0", schedule.commit_block(WINDOW), _payload(7))
    _say(world, "m0", schedule.commit_block(WINDOW) + 1, _payload(8, window=WINDOW + 1))
    _say(world, "val-a", schedule.vote_block(WINDOW), _vote(3))
    _say(world, "val-a", schedule.vote_block(WINDOW) + 1, _vote(window=WINDOW + 1))
    ballot = _ballot(world)
    assert [m.digest for m in ballot.candidates.values()] == [b"\7" * 32]
    assert [sorted(v.vote.uids) for v in ballot.voters] == [[3]]


@pytest.mark.parametrize("window", [WINDOW - 1, WINDOW + 1])
def test_payloads_and_votes_for_other_windows_are_ignored(window, world, schedule) -> None:
    _say(world, "m0", schedule.commit_block(WINDOW), _payload(7, window=window))
    _say(world, "val-a", schedule.vote_block(WINDOW), _vote(3, window=window))
    ballot = _ballot(world)
    assert (ballot.candidates, ballot.voters) == ({}, [])


def test_what_was_said_in_another_run_says_nothing_here(world, schedule) -> None:
    """An equal plan at another time: the same windows, the same hotkeys."""
    other = bytes([world.spec.run_id[0] ^ 1]) + world.spec.run_id[1:]
    _say(world, "m0", schedule.commit_block(WINDOW), _payload(7), other)
    _say(world, "val-a", schedule.vote_block(WINDOW), _vote(3), other)
    ballot = _ballot(world)
    assert (ballot.candidates, ballot.voters) == ({}, [])
    chain = world.chain(hotkey_of("m0"))
    assert read_last_commits(chain, world.run, WINDOW) == {}
    assert read_standing_votes(chain, world.run, WINDOW) == []
    _say(world, "m0", schedule.commit_block(WINDOW), _payload(7))
    _say(world, "val-a", schedule.vote_block(WINDOW), _vote(3))
    ballot = _ballot(world)
    assert (len(ballot.candidates), len(ballot.voters)) == (1, 1)
    assert len(read_standing_votes(chain, world.run, WINDOW)) == 1


def test_hotkeys_that_are_not_registered_are_ignored(world, schedule) -> None:
    _say(world, "stranger", schedule.commit_block(WINDOW), _payload(7))
    _say(world, "stranger", schedule.vote_block(WINDOW), _vote(3))
    ballot = _ballot(world)
    assert (ballot.candidates, ballot.voters) == ({}, [])


def test_votes_without_a_permit_are_ignored_and_their_stake_with_them(world, schedule) -> None:
    rich = dataclasses.replace(neuron(3, "m0", stake_tao=10**6), validator_permit=False)
    world.ledger.neurons = (*world.ledger.neurons[:3], rich, world.ledger.neurons[4])
    _say(world, "m0", schedule.vote_block(WINDOW), _vote(3))
    _say(world, "val-a", schedule.vote_block(WINDOW), _vote(4))
    ballot = _ballot(world)
    assert [v.uid for v in ballot.voters] == [1]
    assert ballot.stake_rao == 1000 * 10**9


def test_uids_beyond_the_votes_bit_map_cannot_be_candidates(world, schedule) -> None:
    world.ledger.neurons = (*world.ledger.neurons, neuron(255, "last"), neuron(256, "beyond"))
    for name in ("last", "beyond"):
        _say(world, name, schedule.commit_block(WINDOW), _payload(7))
    assert list(_candidates(world)) == [255]


@pytest.mark.parametrize("junk", [b"", b"\x00", b"\xff" * 384, b"\x12" + b"x" * 35, b"hello"])
def test_commitments_that_are_no_records_are_left_out(junk: bytes, world, schedule) -> None:
    _say(world, "m0", schedule.commit_block(WINDOW), junk)
    _say(world, "m1", schedule.commit_block(WINDOW), _payload(7))
    assert list(_candidates(world)) == [4]
    records = read_records(world.chain("x"), schedule.commit_block(WINDOW), world.run.run_id)
    assert hotkey_of("m0") not in records


@pytest.mark.parametrize("written", [0, 3, WINDOW, WINDOW + 1])
def test_the_last_commit_is_the_newest_payload_up_to_the_window(written, world, schedule) -> None:
    scored = WINDOW + 2
    block = schedule.commit_block(scored)
    _say(world, "m0", schedule.commit_block(WINDOW), _payload(7, window=written))
    _say(world, "val-a", block, _vote(3))
    _say(world, "owner", block, b"no record")
    _say(world, "stranger", block, _payload(7, window=scored))
    _say(world, "m1", block, _payload(7, window=scored + 1))
    _say(world, "val-b", block + 1, _payload(7, window=scored))
    found = read_last_commits(world.chain(hotkey_of("m0")), world.run, scored)
    assert found == ({hotkey_of("m0"): written} if written <= scored else {})


def test_whoever_can_read_the_candidates_can_read_the_last_commits(world, schedule) -> None:
    """After a restart late in the next window, from an endpoint with the least state."""
    scored = WINDOW + 2
    _say(world, "m0", schedule.commit_block(WINDOW), _payload(7))
    chain = world.chain(hotkey_of("m0"))
    expected = read_last_commits(chain, world.run, scored)
    assert expected == {hotkey_of("m0"): WINDOW}
    world.time.block = schedule.vote_block(scored)
    world.ledger.kept_blocks = world.time.block - schedule.commit_block(scored)
    assert read_candidates(chain, world.run, scored) == {}
    assert read_last_commits(chain, world.run, scored) == expected
    with pytest.raises(ChainError):
        read_candidates(chain, world.run, scored - 1)
