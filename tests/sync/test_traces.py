"""A spec that nobody follows here, and a disk that refuses: neither is told as an outage."""

import resource
from dataclasses import replace

import pytest

from simulation.world import FakeChain
from template.chain.waiter import Waiter
from template.commands.newcomer import look
from template.errors import ConfigError, StateError, Unavailable
from template.peers.client import Peers
from template.protocol.keys import lineage_key
from template.protocol.quorum import VOID_WINDOWS
from template.protocol.run import Run
from template.sync.bootstrap import Bootstrap
from template.sync.traces import find_traces
from tests.support.joining import FIRST, NEWCOMER, SECOND


def _foreign(context, **changes):
    """The context with another run spec, and so another run id."""
    spec = replace(context.run.first, **changes)
    return replace(context, run=Run(spec))


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: {"name": "another"},
        lambda spec: {"outer": replace(spec.outer, max_staleness=spec.outer.max_staleness + 1)},
    ],
    ids=["name", "a number"],
)
def test_an_edited_spec_is_told_as_one_and_not_as_an_outage(
    change, ended, context, buckets
) -> None:
    """Votes with authority, and no object under the run id: an edit, whatever its digests say."""
    world, _ = ended
    block = context.schedule.first_block(9)
    world.time.block = max(world.time.block, block)
    other = _foreign(context, **change(context.run.first))
    with pytest.raises(ConfigError, match=r"--run .*nobody follows run id.*was edited") as caught:
        Bootstrap(other, Peers(other)).join()
    assert other.run.run_id.hex() in str(caught.value)


def test_buckets_without_an_answer_prove_no_spec_wrong(ended, context, buckets) -> None:
    """Most of the voting stake must say that it has nothing; a small liar cannot say otherwise."""
    world, _ = ended
    world.time.block = max(world.time.block, context.schedule.first_block(9))
    other = _foreign(context, name="another")

    def away(_key: str) -> int:
        raise Unavailable("away")

    sized = buckets[FIRST].size
    buckets[FIRST].size = away
    with pytest.raises(Unavailable, match="no validator serves a checkpoint"):
        Bootstrap(other, Peers(other)).join()
    buckets[FIRST].size = sized
    buckets[SECOND].put(lineage_key(other.run.run_id, 0), b"junk")
    with pytest.raises(ConfigError, match="nobody follows run id"):
        Bootstrap(other, Peers(other)).join()


def test_a_young_run_proves_no_spec_wrong(ended, context, buckets) -> None:
    world, _ = ended
    other = _foreign(context, name="another")

    class Early(FakeChain):
        def finalized(self) -> int:
            return context.schedule.vote_block(VOID_WINDOWS + 1)

    chain = Early(world.ledger, NEWCOMER)
    early = replace(other, chain=chain, waiter=Waiter(chain))
    assert find_traces(early.run, chain, Peers(early).bucket) is None


def test_a_disk_that_refuses_a_part_is_not_told_as_a_missing_checkpoint(
    ended, context, buckets, manifest
) -> None:
    (context.state_dir / "joining").parent.mkdir(parents=True, exist_ok=True)
    (context.state_dir / "joining").touch()
    with pytest.raises(StateError, match="joining is a file, and a folder belongs there"):
        Bootstrap(context, Peers(context)).join()


def test_a_full_disk_is_told_as_one(ended, context, buckets, manifest) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StateError, match=r"--neuron\.state_dir.*free the disk"):
            Bootstrap(context, Peers(context)).join()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_owner_check_finds_an_edited_spec_wrong(ended, context, buckets) -> None:
    world, _ = ended
    world.time.block = max(world.time.block, context.schedule.first_block(9))

    def found(spec):
        report = look(spec, context.chain, context.open_bucket)
        (lineage,) = [f for f in report.findings if f.what == "lineage"]
        return report.status, lineage

    status, lineage = found(context.run.first)
    assert (status, lineage.mirrors[0], lineage.faults) == (0, FIRST, ())
    status, lineage = found(_foreign(context, name="another").run.first)
    assert (status, lineage.mirrors) == (2, ())
    assert "was edited" in lineage.faults[0]
