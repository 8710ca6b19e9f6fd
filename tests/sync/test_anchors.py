"""What a node keeps of its past: anchors and steps, through kills and damaged files."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from simulation.swarm import build_world
from simulation.world import hotkey_of
from template.errors import EXIT_OPERATOR, StateError, exit_status
from template.protocol.keys import blob_key
from template.protocol.lineage import LineageStep, is_chain
from template.protocol.quorum import VOID_WINDOWS
from template.protocol.root import tensors_digest
from template.protocol.run import Run
from template.sync.anchors import MIN_ANCHORS, AnchorStore, anchors_to_keep
from template.sync.recovery import Recovered, heal, replay_steps, steps_after, take_back
from template.training.outer import OuterState, first_state
from template.training.theta0 import load_theta0

EVERY = 3


@pytest.fixture(scope="module")
def start():
    """A run's spec and its state at theta_0."""
    world = build_world({"owner": 0}, checkpoint__every_windows=EVERY)
    spec = world.spec
    bucket = world.buckets[hotkey_of("owner")]

    def read(digest: bytes, num_bytes: int) -> bytes:
        return bucket.get(blob_key(digest), max_bytes=num_bytes)

    return spec, first_state(load_theta0(read, spec), spec.run_id)


@dataclass
class Kept:
    """A store and the steps that it keeps, moved together as a follower does."""

    store: AnchorStore
    steps: tuple[LineageStep, ...]


def _open(folder, spec, state: OuterState) -> Kept:
    store = AnchorStore(folder, Run(spec))
    return Kept(store, store.open(state))


def _no_payloads(_step: LineageStep) -> dict:
    return {}


def _heal(kept: Kept, spec, is_right: Callable[[OuterState], bool]) -> Recovered | None:
    return heal(kept.store.load_anchors(), kept.steps, _no_payloads, Run(spec), is_right)


def _take_back(kept: Kept, spec, window: int) -> Recovered | None:
    return take_back(kept.store.load_anchors(), kept.steps, window, _no_payloads, Run(spec))


def _walk(kept: Kept, state: OuterState, spec, windows: int) -> OuterState:
    """Steps without payloads; each changes root and window."""
    for _ in range(windows):
        step = LineageStep(
            window=state.window - 1,
            root=state.root,
            members=(),
            voting_stake_rao=state.window,
            checkpoint=b"",
            voted_root=state.root[:16],
        )
        taken = replay_steps(state, [step], _no_payloads, Run(spec))
        state = taken.state
        kept.steps = kept.store.record_step((*kept.steps, *taken.steps), state)
    return state


@pytest.mark.parametrize(
    ("windows", "current", "kept"),
    [
        ([], 1, set()),
        ([1], 1, {1}),
        ([1, 3], 3, {1, 3}),
        ([1, 3, 6], 6, {1, 3, 6}),
        ([1, 3, 6], 8, {3, 6}),
        ([3, 6, 9], 9, {3, 6, 9}),
        ([3, 6, 9], 10, {3, 6, 9}),
        ([3, 6, 9], 11, {6, 9}),
        ([8, 16], 16, {8, 16}),
        ([8, 16, 24], 24, {16, 24}),
        (list(range(1, 11)), 10, {5, 6, 7, 8, 9, 10}),
    ],
)
def test_anchors_reach_back_before_what_may_become_void(windows, current, kept) -> None:
    found = anchors_to_keep(windows, current)
    assert found == kept
    if len(windows) >= MIN_ANCHORS:
        assert len(found) >= MIN_ANCHORS
    if min(windows, default=current) < current - VOID_WINDOWS:
        assert min(found) <= current - VOID_WINDOWS - 1


def test_a_past_survives_a_restart(start, tmp_path) -> None:
    spec, first = start
    past = _open(tmp_path, spec, first)
    state = _walk(past, first, spec, 10)
    again = _open(tmp_path, spec, state)
    assert again.steps == past.steps
    assert is_chain(again.steps)
    assert [a.window for a in again.store.load_anchors()] == [9, 6, 3]
    assert again.steps[0].window == 2, "older ones lead on from no anchor"
    for anchor in again.store.load_anchors():
        end = replay_steps(anchor, steps_after(anchor, again.steps), _no_payloads, Run(spec)).state
        assert (end.root, end.window) == (state.root, state.window)


def test_a_kill_between_journal_and_state_loses_nothing(start, tmp_path) -> None:
    """The journal may be a step ahead, with the last line cut; the state on disk is older."""
    spec, first = start
    past = _open(tmp_path, spec, first)
    before = _walk(past, first, spec, 4)
    _walk(past, before, spec, 1)
    journal = tmp_path / "lineage.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"window": 5, "ro')
    again = _open(tmp_path, spec, before)
    assert again.steps[-1].next_root == before.root
    assert again.steps == past.steps[:-1]


@pytest.mark.parametrize("damage", [b"garbage\n", b"", b"{}\n"])
def test_a_damaged_journal_starts_a_new_past(damage: bytes, start, tmp_path) -> None:
    spec, first = start
    state = _walk(_open(tmp_path, spec, first), first, spec, 4)
    (tmp_path / "lineage.jsonl").write_bytes(damage)
    again = _open(tmp_path, spec, state)
    assert again.steps == ()
    assert [a.window for a in again.store.load_anchors()] == [state.window]


def test_a_node_that_joined_elsewhere_forgets_its_past(start, tmp_path) -> None:
    spec, first = start
    state = _walk(_open(tmp_path, spec, first), first, spec, 4)
    elsewhere = replace(state, root=bytes(32))
    again = _open(tmp_path, spec, elsewhere)
    assert again.steps == ()
    assert [a.root for a in again.store.load_anchors()] == [bytes(32)]


def test_a_damaged_anchor_is_passed_over(start, tmp_path) -> None:
    spec, first = start
    past = _open(tmp_path, spec, first)
    state = _walk(past, first, spec, 7)
    newest = max(tmp_path.glob("anchor-*"))
    newest.write_bytes(newest.read_bytes()[:-100])
    assert [a.window for a in past.store.load_anchors()] == [3, 1]
    healed = heal(
        past.store.load_anchors(),
        past.steps,
        _no_payloads,
        Run(spec),
        lambda s: s.root == state.root,
    )
    assert healed is not None
    assert healed.state.root == state.root


def test_a_wrong_anchor_is_not_healed_from_and_goes(start, tmp_path) -> None:
    """A bit that flipped before the last checkpoint is in its anchor."""
    spec, first = start
    past = _open(tmp_path, spec, first)
    state = _walk(past, first, spec, 7)
    name = sorted(state.params)[0]
    wrong = next(past.store.load_anchors())
    flipped = wrong.params[name].clone()
    flipped.view(torch.int32).view(-1)[0] ^= 1
    flipped_state = replace(wrong, params={**wrong.params, name: flipped})
    past.steps = past.store.save_anchor(flipped_state, past.steps)
    right = tensors_digest(state.params)

    def is_right(found: OuterState) -> bool:
        return tensors_digest(found.params) == right and found.root == state.root

    healed = _heal(past, spec, is_right)
    assert healed is not None
    assert is_right(healed.state)
    past.steps = past.store.restart_from(healed, past.steps)
    assert all(tensors_digest(a.params) == right for a in past.store.load_anchors())
    assert _heal(past, spec, lambda _: False) is None


def test_taking_back_needs_an_anchor_from_before(start, tmp_path) -> None:
    spec, first = start
    past = _open(tmp_path, spec, first)
    state = _walk(past, first, spec, 2)
    joined = _open(tmp_path / "late", spec, state)
    after = _walk(joined, state, spec, VOID_WINDOWS)
    assert _take_back(joined, spec, state.window - 2) is None
    back = take_back(
        joined.store.load_anchors(), joined.steps, state.window - 1, _no_payloads, Run(spec)
    )
    assert back is not None
    assert back.state.root == after.root, "nothing was accepted, so nothing changes"


def test_an_unwritable_folder_is_told(start, tmp_path) -> None:
    spec, first = start
    past = _open(tmp_path, spec, first)
    place = tmp_path / "lineage.jsonl"
    place.unlink()
    place.mkdir()
    with pytest.raises(StateError, match="lineage.jsonl cannot be written.*remove the folder"):
        _walk(past, first, spec, 1)
    with pytest.raises(StateError, match="lineage.jsonl cannot be read.*remove the folder"):
        _open(tmp_path, spec, first)


def test_a_file_in_place_of_the_folder_is_told(start, tmp_path) -> None:
    spec, first = start
    (tmp_path / "past").touch()
    with pytest.raises(StateError, match="past is a file, and a folder belongs there") as caught:
        _open(tmp_path / "past", spec, first)
    assert exit_status(caught.value) == EXIT_OPERATOR


def test_an_anchor_that_cannot_be_removed_is_told(start, tmp_path) -> None:
    spec, first = start
    (tmp_path / f"anchor-{first.window + 1:08d}.safetensors").mkdir()
    with pytest.raises(StateError, match="anchor-.*cannot be written.*remove the folder"):
        _open(tmp_path, spec, first)
