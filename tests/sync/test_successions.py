"""What a node makes of supported and adopted specs, by chain and buckets of a still world."""

import json
from dataclasses import replace

import pytest

from simulation.swarm import TINY, build_world
from simulation.world import World, hotkey_of
from template.errors import ConfigError, ObjectError, SpecChanged, StateError, Unavailable
from template.peers.client import Peers
from template.protocol.keys import spec_key
from template.protocol.lineage import LineageStep, lineage_limit_bytes
from template.protocol.quorum import LEAD_WINDOWS
from template.protocol.record import Record, Support, Vote, encode_record
from template.protocol.run import Run
from template.protocol.spec import RunSpec, spec_to_toml
from template.protocol.spec.files import parse_named_spec
from template.protocol.spec.run import spec_table, table_id
from template.store.memory import MemoryStore
from template.sync.lineage import _limit_bytes
from template.sync.own_checkpoint import own_checkpoint_path
from template.sync.spec_folder import FOLDER, SpecFolder
from template.sync.successions import Successions, fetch_spec, restore_run
from tests.support.successions import successor

NAMES = {"owner": 0, "val-a": 600, "val-b": 400, "m0": 0}
FIRST = 12
VOTED = FIRST - LEAD_WINDOWS + 1


@pytest.fixture
def world() -> World:
    return build_world(NAMES, **{**TINY, "schedule__num_windows": 40})


@pytest.fixture
def node(world, tmp_path):
    return world.context(hotkey_of("m0"), tmp_path / "m0")


def put(world: World, name: str, spec: RunSpec, data: bytes | None = None) -> None:
    key = spec_key(world.spec.run_id, spec.spec_id)
    text = spec_to_toml(spec).encode() if data is None else data
    world.buckets[hotkey_of(name)].put(key, text)


def say(world: World, name: str, window: int, support: Support | None) -> None:
    """A validator's record with a vote on `window`; the chain stands where it is counted."""
    vote = Vote(window=window, root=b"r" * 16, sample_digest=b"s" * 8, uids=frozenset())
    record = Record.of(
        world.spec.run_id, access=world.access(hotkey_of(name)), vote=vote, support=support
    )
    block = world.spec.schedule.schedule().vote_block(window)
    world.time.block = max(world.time.block, block - 2)
    world.chain(hotkey_of(name)).publish(encode_record(record))
    world.time.block = max(world.time.block, block) + world.ledger.finality_lag + 1


def support_of(spec: RunSpec) -> Support:
    return Support(window=spec.first_window, spec=spec.spec_id)


def step_that_adopts(spec: RunSpec, window: int) -> LineageStep:
    return LineageStep(
        window=window,
        root=bytes(32),
        members=(),
        voting_stake_rao=1,
        checkpoint=b"",
        voted_root=b"",
        adopted=spec.spec_id,
    )


def test_a_spec_with_its_id_is_found_behind_garbage(world, node) -> None:
    after = successor(world.spec, FIRST, outer__outer_lr=0.5)
    for name, data in (("val-a", b"\xff\x00"), ("val-b", None)):
        put(world, name, after, data)
        say(world, name, VOTED, support_of(after))
    peers = Peers(node)
    peers.refresh()
    assert fetch_spec(node, peers, after.spec_id, ()) == after
    with pytest.raises(Unavailable, match="no bucket has it now"):
        fetch_spec(node, peers, bytes(16), ())


def test_bytes_that_are_another_spec_say_nothing(world) -> None:
    after, other = (successor(world.spec, FIRST, outer__outer_lr=r) for r in (0.5, 0.25))
    with pytest.raises(ObjectError, match="another spec"):
        parse_named_spec(spec_to_toml(other).encode(), after.spec_id)
    for data in (b"", b"=", b"\xff", b"a = 1979-05-27", b"[a]\nb = nan", b"a.b.c" * 50):
        with pytest.raises(ObjectError):
            parse_named_spec(data, after.spec_id)


def test_a_key_of_a_newer_version_is_told_as_that(world) -> None:
    """The bytes have the id, so the majority means them: nobody's garbage is told so."""
    table = spec_table(successor(world.spec, FIRST)) | {"future": {"key": 1}}
    spec_id = table_id(json.loads(json.dumps(table)))
    text = spec_to_toml(successor(world.spec, FIRST)) + "\n[future]\nkey = 1\n"
    with pytest.raises(ConfigError, match="future: unknown key"):
        parse_named_spec(text.encode(), spec_id)


def test_an_adopted_spec_is_appended_and_survives_a_restart(world, node, tmp_path) -> None:
    after = successor(world.spec, FIRST, outer__outer_lr=0.5)
    put(world, "val-a", after)
    say(world, "val-a", VOTED, support_of(after))
    Successions(node, Peers(node)).note_steps([step_that_adopts(after, FIRST - LEAD_WINDOWS)])
    assert node.run.at(FIRST) == after
    world.buckets[hotkey_of("val-a")].delete(spec_key(world.spec.run_id, after.spec_id))
    again = world.context(hotkey_of("m0"), tmp_path / "m0")
    restore_run(again, Peers(again))
    assert again.run.at(FIRST) == after


def test_a_spec_nobody_serves_is_asked_for_again_and_stops_the_node_at_last(
    world, node, caplog
) -> None:
    after = successor(world.spec, FIRST, outer__outer_lr=0.5)
    successions = Successions(node, Peers(node))
    successions.note_steps([step_that_adopts(after, FIRST - LEAD_WINDOWS)])
    assert node.run.newest == world.spec
    successions.demand(FIRST - 1)
    assert "this node stops in 1 windows" in caplog.text
    assert (successions.knows(FIRST - 1), successions.knows(FIRST)) == (True, False)
    with pytest.raises(Unavailable, match="no bucket has it now"):
        successions.demand(FIRST)
    put(world, "val-b", after)
    say(world, "val-b", VOTED, support_of(after))
    successions.demand(FIRST)
    assert node.run.at(FIRST) == after
    assert successions.knows(FIRST)


def test_a_node_that_stands_under_another_spec_starts_again_without_it(
    world, node, tmp_path
) -> None:
    wrong, right = (successor(world.spec, FIRST, outer__outer_lr=r) for r in (0.5, 0.25))
    for spec in (wrong, right):
        put(world, "val-a", spec)
    say(world, "val-a", VOTED - 1, None)
    successions = Successions(node, Peers(node))
    successions.note_steps([step_that_adopts(wrong, FIRST - LEAD_WINDOWS)])
    with pytest.raises(SpecChanged, match="this node has"):
        successions.note_steps([step_that_adopts(right, FIRST - LEAD_WINDOWS)])
    again = world.context(hotkey_of("m0"), tmp_path / "m0")
    assert list((tmp_path / "m0" / FOLDER).glob("*")) == []
    restore_run(again, Peers(again))
    assert again.run.newest == world.spec


@pytest.mark.parametrize(
    ("claims", "is_found"),
    [
        ({"val-a": "after"}, True),
        ({"val-a": "after", "val-b": None}, True),
        ({"val-a": None, "val-b": "after"}, False),
        ({"val-a": "next", "val-b": None}, True),
        ({"val-a": "early", "val-b": "early"}, False),
    ],
)
def test_a_newcomer_follows_what_most_of_the_stake_stands_under(
    world, node, claims, is_found
) -> None:
    """Support for a later spec is a claim that the spec before it holds; before its ballot is
    over, support for a spec claims nothing of it.
    """
    after = successor(world.spec, FIRST, outer__outer_lr=0.5)
    later = successor(after, FIRST + 20, outer__outer_lr=0.25)
    early = successor(world.spec, FIRST + 5, outer__outer_lr=0.125)
    specs = {"after": after, "next": later, "early": early}
    for name, claim in claims.items():
        for spec in specs.values():
            put(world, name, spec)
        say(world, name, VOTED, None if claim is None else support_of(specs[claim]))
    restore_run(node, Peers(node))
    assert (node.run.newest == after) is is_found
    assert is_found or node.run.newest == world.spec


def test_a_minority_that_is_awake_alone_leads_no_newcomer(world, node) -> None:
    """Most of the stake last voted long ago, under the first spec."""
    after = successor(world.spec, FIRST, outer__outer_lr=0.5)
    put(world, "val-b", after)
    say(world, "val-a", 1, None)
    say(world, "val-b", VOTED, support_of(after))
    restore_run(node, Peers(node))
    assert node.run.newest == world.spec


def test_a_newcomer_waits_where_validators_are_divided_and_others_go_on(tmp_path) -> None:
    world = build_world({**NAMES, "val-b": 600}, **{**TINY, "schedule__num_windows": 40})
    node = world.context(hotkey_of("m0"), tmp_path / "m0")
    after = successor(world.spec, FIRST, outer__outer_lr=0.5)
    put(world, "val-b", after)
    say(world, "val-a", VOTED, None)
    say(world, "val-b", VOTED, support_of(after))
    with pytest.raises(Unavailable, match="which spec the run stands under is not known"):
        restore_run(node, Peers(node))
    own_checkpoint_path(node.state_dir).write_bytes(b"")
    restore_run(node, Peers(node))  # goes on from its own state, and says so


def test_the_ranks_of_a_miner_build_by_the_spec_that_was_reached(world, tmp_path) -> None:
    folder = SpecFolder(Run(world.spec), tmp_path)
    assert folder.of_ranks() == world.spec
    after = successor(world.spec, FIRST, compression__top_k=8)
    folder.save_for_ranks(after)
    assert folder.of_ranks() == after
    run = Run(world.spec)
    SpecFolder(run, tmp_path).restore()
    assert run.specs == (world.spec,), "what the ranks build by says nothing of the run"


def test_a_newcomer_need_not_know_how_long_later_windows_are(world, node) -> None:
    """By the first spec's windows, the votes would seem to be hundreds of windows old."""
    after = successor(world.spec, FIRST, schedule__blocks_per_window=1000)
    for name in ("val-a", "val-b"):
        put(world, name, after)
        say(world, name, FIRST + 3, support_of(after))
    world.time.block += 3000
    restore_run(node, Peers(node))
    assert node.run.newest == after
    assert node.schedule.blocks_of(FIRST) == 1000


def test_a_supported_spec_is_told_once_with_its_changes(world, node, caplog) -> None:
    after = successor(world.spec, FIRST, training__inner_lr=0.5)
    put(world, "val-b", after)
    successions = Successions(node, Peers(node))
    for window in (3, 4):
        say(world, "val-a", window, None)
        say(world, "val-b", window, support_of(after))
        successions.look()
    told = [text for text in caplog.messages if "is supported by" in text]
    assert len(told) == 1
    assert "40 %" in told[0]
    assert f"training.inner_lr: {json.dumps(world.spec.training.inner_lr)} -> 0.5" in told[0]
    assert f"the votes on window {FIRST - LEAD_WINDOWS} decide" in told[0]


def test_a_spec_that_strands_many_is_warned_about(world, node, caplog) -> None:
    after = successor(world.spec, FIRST, continues__least_version="9.0.0")
    put(world, "val-b", after)
    say(world, "val-b", 3, support_of(after))
    Successions(node, Peers(node)).look()
    assert "this node could not follow" in caplog.text
    assert "would strand 1 of 1 hotkeys: their software is older than 9.0.0" in caplog.text


def test_support_for_a_spec_of_another_window_is_told_and_not_followed(world, node, caplog) -> None:
    after = successor(world.spec, FIRST)
    put(world, "val-b", after)
    say(world, "val-b", 3, Support(window=FIRST + 1, spec=after.spec_id))
    Successions(node, Peers(node)).look()
    assert f"is for window {FIRST}, and was supported for window {FIRST + 1}" in caplog.text
    assert Run(world.spec).newest == node.run.newest


def test_a_spec_that_no_ballot_adopted_goes_again(world, node) -> None:
    """A step whose ballot adopted nothing, where this node was told otherwise."""
    after = successor(world.spec, FIRST, outer__outer_lr=0.5)
    node.run.extend(after)
    SpecFolder(node.run, node.state_dir).save(after)
    successions = Successions(node, Peers(node))
    successions.note_steps(
        [replace(step_that_adopts(after, FIRST - LEAD_WINDOWS - 1), adopted=b"")]
    )
    with pytest.raises(SpecChanged, match="the ballot adopted no spec"):
        successions.note_steps(
            [replace(step_that_adopts(after, FIRST - LEAD_WINDOWS), adopted=b"")]
        )
    assert list((node.state_dir / FOLDER).glob("*.toml")) == []


def test_support_for_a_spec_of_a_newer_version_still_tells_the_one_before(world, node) -> None:
    after = successor(world.spec, FIRST, outer__outer_lr=0.5)
    later = spec_table(successor(after, FIRST + 20)) | {"future": {"key": 1}}
    later_id = table_id(json.loads(json.dumps(later)))
    text = spec_to_toml(successor(after, FIRST + 20)) + "\n[future]\nkey = 1\n"
    for name in ("val-a", "val-b"):
        put(world, name, after)
        key = spec_key(world.spec.run_id, later_id)
        world.buckets[hotkey_of(name)].put(key, text.encode())
        say(world, name, FIRST, Support(window=FIRST + 20, spec=later_id))
    restore_run(node, Peers(node))
    assert node.run.newest == after


def test_support_that_cannot_be_read_says_nothing_of_the_first_spec(world, node) -> None:
    for name in ("val-a", "val-b"):
        say(world, name, FIRST, Support(window=FIRST + 20, spec=b"n" * 16))
    with pytest.raises(Unavailable, match="which spec the run stands under is not known"):
        restore_run(node, Peers(node))


def test_an_adopted_spec_waits_for_the_one_before(world, node) -> None:
    """No bucket has the first of two when both are adopted: neither is forgotten."""
    first = successor(world.spec, FIRST, outer__outer_lr=0.5)
    second = successor(first, FIRST + 3, outer__outer_lr=0.25)
    put(world, "val-a", second)
    say(world, "val-a", VOTED, support_of(first))
    successions = Successions(node, Peers(node))
    steps = [step_that_adopts(s, s.first_window - LEAD_WINDOWS) for s in (first, second)]
    for _ in range(2):
        successions.note_steps(steps)
        assert not successions.knows(FIRST)
        with pytest.raises(Unavailable, match=first.spec_id.hex()):
            successions.demand(FIRST)
    put(world, "val-a", first)
    successions.demand(FIRST)
    assert node.run.specs == (world.spec, first, second)
    assert successions.knows(FIRST + 3)


def test_another_ballot_for_the_same_window_takes_the_place_of_what_waits(world, node) -> None:
    lost, right = (successor(world.spec, FIRST, outer__outer_lr=rate) for rate in (0.5, 0.25))
    put(world, "val-a", right)
    say(world, "val-a", VOTED, support_of(right))
    successions = Successions(node, Peers(node))
    for spec in (lost, right):
        successions.note_steps([step_that_adopts(spec, FIRST - LEAD_WINDOWS)])
    assert node.run.newest == right
    assert successions.knows(FIRST)


def test_a_wrong_saved_spec_gives_way_to_that_of_the_majority(world, node) -> None:
    wrong, right = (successor(world.spec, FIRST, outer__outer_lr=rate) for rate in (0.5, 0.25))
    later = successor(wrong, FIRST + 5)
    for spec in (wrong, later):
        SpecFolder(node.run, node.state_dir).save(spec)
    for name in ("val-a", "val-b"):
        put(world, name, right)
        say(world, name, VOTED, support_of(right))
    with pytest.raises(SpecChanged, match=wrong.spec_id.hex()):
        restore_run(node, Peers(node))
    again = replace(node, run=Run(world.spec))
    restore_run(again, Peers(again))
    assert again.run.specs == (world.spec, right)


def test_what_follows_a_spec_that_was_not_adopted_goes_with_it(world, node) -> None:
    first = successor(world.spec, FIRST)
    folder = SpecFolder(node.run, node.state_dir)
    for spec in (first, successor(first, FIRST + 3)):
        node.run.extend(spec)
        folder.save(spec)
    step = replace(step_that_adopts(first, FIRST - LEAD_WINDOWS), adopted=b"")
    with pytest.raises(SpecChanged):
        Successions(node, Peers(node)).note_steps([step])
    run = Run(world.spec)
    SpecFolder(run, node.state_dir).restore()
    assert run.specs == (world.spec,)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe\0", b"a = [", b"name = 1\n"])
def test_a_damaged_saved_spec_is_fetched_again(world, node, data: bytes, caplog) -> None:
    after = successor(world.spec, FIRST, outer__outer_lr=0.5)
    SpecFolder(node.run, node.state_dir).save(after)
    (path,) = (node.state_dir / FOLDER).glob("*.toml")
    path.write_bytes(data)
    for name in ("val-a", "val-b"):
        put(world, name, after)
        say(world, name, VOTED, support_of(after))
    restore_run(node, Peers(node))
    assert node.run.newest == after
    assert f"{path} is removed" in caplog.text
    assert path.read_text() == spec_to_toml(after)


def test_a_damaged_spec_of_the_ranks_is_named(world, tmp_path) -> None:
    folder = SpecFolder(Run(world.spec), tmp_path)
    folder.save_for_ranks(world.spec)
    (tmp_path / FOLDER / "ranks.spec").write_bytes(b"\xff\xfe")
    with pytest.raises(StateError, match=r"ranks\.spec: damaged"):
        folder.of_ranks()


def test_a_segment_of_three_specs_has_room_for_the_largest(world) -> None:
    """One in its middle too, with more payloads in a step than its neighbours."""
    plain = replace(world.spec.outer, peers_per_step=1)
    run = Run(replace(world.spec, outer=plain))
    every = run.first.checkpoint.every_windows
    assert every > 2
    run.extend(middle := successor(run.newest, 1, outer__peers_per_step=64))
    run.extend(successor(run.newest, 2, outer__peers_per_step=1))
    assert _limit_bytes(run, 0) > lineage_limit_bytes(middle)


class Counted(MemoryStore):
    """A bucket that never has what it is asked for, and counts."""

    asked = 0

    def reader(self) -> "Counted":
        return self

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self.asked += 1
        raise Unavailable("it drips")


def test_a_bucket_that_drips_is_asked_once_by_looks(world, node) -> None:
    world.buckets[hotkey_of("val-b")] = bucket = Counted()
    successions = Successions(node, Peers(node))
    for window in range(2, 5):
        for name in ("val-a", "val-b"):
            support = (
                None if name == "val-a" else Support(window=FIRST + 9, spec=bytes([window]) * 16)
            )
            say(world, name, window, support)
        successions.look()
    assert bucket.asked == 1


def test_a_minority_with_unknown_specs_is_not_asked_where_the_answer_is_clear(tmp_path) -> None:
    names = {"owner": 0, "val-a": 600, **{f"small-{i}": 1 for i in range(8)}, "m0": 0}
    world = build_world(names, **{**TINY, "schedule__num_windows": 40})
    node = world.context(hotkey_of("m0"), tmp_path / "m0")
    say(world, "val-a", VOTED, None)
    counted = []
    for i in range(8):
        bucket = world.buckets[hotkey_of(f"small-{i}")] = Counted()
        counted.append(bucket)
        say(world, f"small-{i}", VOTED, Support(window=2**32 - 1, spec=bytes([i]) * 16))
    restore_run(node, Peers(node))
    assert node.run.specs == (world.spec,)
    assert sum(bucket.asked for bucket in counted) == 0
