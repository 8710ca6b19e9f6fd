"""Scoring a window: what is said of a payload whose bucket has not answered in time."""

import hashlib
from collections.abc import Callable

import pytest

from evaluation.verdict import NOT_SCORED, UNAVAILABLE, Verdict
from simulation.swarm import build_world
from simulation.world import hotkey_of
from template.base.validator import Validator
from template.protocol.record import Record, encode_record
from template.protocol.root import Member
from tests.support.silent import Silent

MINER, VALIDATOR = hotkey_of("m0"), hotkey_of("val-a")


def _verdict(tmp_path, late: Callable[[float], bool]) -> Verdict:
    """The verdict on a payload in a bucket that does not answer."""
    world = build_world({"owner": 0, "val-a": 1000, "m0": 0})
    world.chain(MINER).publish(encode_record(Record(access=world.access(MINER))))
    node = Validator(world.context(VALIDATOR, tmp_path))
    world.time.block = world.spec.schedule.schedule().vote_block(0)
    world.buckets[MINER] = silent = Silent()
    digest = hashlib.sha256(b"").digest()
    member = Member(uid=2, hotkey=MINER, public_key=bytes(32), coldkey=bytes(32), digest=digest)
    scored = node._scorer.score(0, node.follower.state, [member], node.memory.histories, late)
    silent.released.set()
    return scored.verdicts[0]


@pytest.mark.parametrize(
    ("passed", "status", "is_missing"),
    [((0.0, 0.5), UNAVAILABLE, True), ((0.3, 0.5), NOT_SCORED, False)],
    ids=["asked in time", "asked late"],
)
def test_a_silent_bucket_is_missing_only_where_it_had_time(
    tmp_path, caplog, passed, status, is_missing
) -> None:
    """A validator that starts again in mid-window called all of the miners undelivered."""
    shares = iter(passed)
    now = [0.0]

    def late(share: float) -> bool:
        now[0] = next(shares, now[0])
        return share <= now[0]

    verdict = _verdict(tmp_path, late)
    assert (verdict.status, verdict.missing) == (status, is_missing)
    told = [line for line in caplog.messages if "too late in the window" in line]
    assert len(told) == (0 if is_missing else 1)
