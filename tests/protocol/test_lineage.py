"""The lineage: a hash chain of steps, whoever they come from; and when a window is void."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.world import hotkey_of
from template.errors import ObjectError
from template.protocol.lineage import (
    LineageStep,
    encode_lineage,
    is_chain,
    lineage_limit_bytes,
    newly_void,
    parse_lineage,
)
from template.protocol.quorum import VOID_WINDOWS, is_void
from template.protocol.record import ROOT_BYTES
from template.protocol.root import Member, next_root
from template.protocol.spec import RunSpec
from template.protocol.ss58 import public_key


def _member(uid: int) -> Member:
    hotkey = hotkey_of(f"miner-{uid}")
    return Member(
        uid=uid,
        hotkey=hotkey,
        public_key=public_key(hotkey),
        coldkey=bytes([uid]) * 32,
        digest=bytes([uid + 1]) * 32,
    )


def _steps(count: int, first: int = 0, checkpoint_at: int = 2) -> list[LineageStep]:
    """A chain whose votes all agree with it."""
    root, steps = bytes(range(32)), []
    for window in range(first, first + count):
        step = LineageStep(
            window=window,
            root=root,
            members=tuple(_member(uid) for uid in range(window % 4)),
            voting_stake_rao=10**18 + window,
            checkpoint=bytes([9]) * 32 if window == checkpoint_at else b"",
            voted_root=root[:ROOT_BYTES],
            pace=(-1, 0, 1)[window % 3] if window % 4 else 0,
        )
        steps.append(step)
        root = step.next_root
    return steps


@given(st.integers(0, 8), st.integers(0, 2**31))
def test_what_is_written_is_read(count: int, first: int) -> None:
    steps = _steps(count, first, first + 1)
    assert parse_lineage(encode_lineage(steps)) == steps


def test_the_next_root_is_that_of_the_state_roots() -> None:
    for step in _steps(5):
        expected = next_root(
            step.root,
            step.window,
            step.members,
            step.checkpoint,
            step.voting_stake_rao,
            step.pace,
        )
        assert step.next_root == expected


@pytest.mark.parametrize(
    "change",
    [
        {"root": bytes(32)},
        {"members": (), "pace": 0},
        {"members": (_member(1), _member(3), _member(4))},
        {"checkpoint": bytes([8]) * 32},
        {"window": 7},
        {"pace": 1},
    ],
)
def test_any_change_breaks_the_chain(change: dict) -> None:
    steps = _steps(5, checkpoint_at=3)
    assert is_chain(steps)
    steps[3] = replace(steps[3], **change)
    assert not is_chain(steps)
    with pytest.raises(ObjectError, match="do not follow"):
        parse_lineage(encode_lineage(steps))


def test_a_step_left_out_breaks_the_chain() -> None:
    steps = _steps(5)
    assert is_chain(steps[1:])
    assert is_chain([])
    assert not is_chain([*steps[:2], *steps[3:]])
    assert not is_chain([steps[1], steps[0]])


def _row(**changes: object) -> bytes:
    row = json.loads(encode_lineage(_steps(4)[3:]))
    return json.dumps({**row, **changes}).encode()


MEMBER = [1, hotkey_of("a"), "00" * 32, "11" * 32]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"\xff",
        _row(window=-1),
        _row(window=2**32),
        _row(window=True),
        _row(window=1.0),
        _row(root="00"),
        _row(root="zz" * 32),
        _row(root=5),
        _row(voting_stake_rao=-1),
        _row(voting_stake_rao=2**64),
        _row(voting_stake_rao=float("inf")),
        _row(pace=2),
        _row(pace=-2),
        _row(pace=True),
        _row(pace=0.0),
        _row(pace=None),
        _row(members=[], pace=1),
        _row(checkpoint="00" * 31),
        _row(voted_root="00" * 15),
        _row(members=5),
        _row(members=[MEMBER, MEMBER]),
        _row(members=[[2, *MEMBER[1:]], MEMBER]),
        _row(members=[[256, *MEMBER[1:]]]),
        _row(members=[[-1, *MEMBER[1:]]]),
        _row(members=[MEMBER[:3]]),
        _row(members=[[1, "not a key", *MEMBER[2:]]]),
        _row(members=[[1, "../../etc/passwd", *MEMBER[2:]]]),
        _row(members=[[*MEMBER[:3], "11" * 33]]),
    ],
)
def test_what_is_no_step_is_refused_by_its_line(line: bytes) -> None:
    good = encode_lineage(_steps(3))
    with pytest.raises(ObjectError, match="line 4 is not a step"):
        parse_lineage(good + line + b"\n")


@given(st.binary(max_size=200))
def test_bytes_of_anybody_are_steps_or_an_error(data: bytes) -> None:
    try:
        steps = parse_lineage(data)
    except ObjectError:
        return
    assert steps == []
    assert data.strip() == b"" or data.splitlines() == []


@pytest.mark.parametrize("agreeing", range(VOID_WINDOWS + 2))
def test_void_takes_so_many_windows_running(agreeing: int) -> None:
    root, other = b"r" * 16, b"o" * 16
    later = [root] * agreeing
    assert is_void(root, later) == (agreeing >= VOID_WINDOWS)
    assert is_void(root, [*later, other]) == (agreeing >= VOID_WINDOWS)
    assert not is_void(root, [other, *later])
    assert not is_void(root, [None, *later])


@pytest.mark.parametrize("stuck", range(VOID_WINDOWS + 2))
def test_a_window_is_found_void_with_the_last_vote_that_makes_it_so(stuck: int) -> None:
    """Nobody is named while most of the stake is stuck before window 3."""
    steps = _steps(4)
    before = steps[-1]
    for window in range(4, 4 + stuck):
        last = steps[-1]
        steps.append(
            replace(
                last,
                window=window,
                root=last.next_root,
                members=(),
                checkpoint=b"",
                voted_root=before.root[:ROOT_BYTES],
            )
        )
    assert before.members
    assert newly_void(steps) == (3 if stuck == VOID_WINDOWS else None)
    if stuck == VOID_WINDOWS:
        emptied = [replace(s, members=()) if s.window == 3 else s for s in steps]
        assert newly_void(emptied) is None, "it is taken back once"
        honest = [*steps[:-1], replace(steps[-1], voted_root=steps[-1].root[:ROOT_BYTES])]
        assert newly_void(honest) is None
        silent = [*steps[:-1], replace(steps[-1], voted_root=b"")]
        assert newly_void(silent) is None


@pytest.mark.parametrize("hotkey", [{}, [], None, 7, True, "z" * 131_000, "\x1b[2J", "\ud800"])
def test_a_hotkey_that_is_no_address_is_refused_shortly(hotkey: object) -> None:
    data = encode_lineage(_steps(3)) + _row(members=[[1, hotkey, *MEMBER[2:]]]) + b"\n"
    with pytest.raises(ObjectError, match="line 4 is not a step") as caught:
        parse_lineage(data)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_the_limit_of_a_segment_is_above_the_largest_and_close(spec: RunSpec) -> None:
    for peers, every in ((1, 1), (20, 8), (256, 3)):
        changed = replace(
            spec,
            outer=replace(spec.outer, peers_per_step=peers),
            checkpoint=replace(spec.checkpoint, every_windows=every),
        )
        hotkey = hotkey_of("m0")
        members = tuple(
            Member(
                uid=uid, hotkey=hotkey, public_key=public_key(hotkey), coldkey=bytes(32),
                digest=bytes(32),
            )
            for uid in range(256 - peers, 256)
        )  # fmt: skip
        step = LineageStep(
            window=2**32 - 1, root=bytes(32), members=members, voting_stake_rao=2**64 - 1,
            checkpoint=bytes(32), voted_root=bytes(16), pace=-1,
        )  # fmt: skip
        largest = len(encode_lineage([step] * every))
        assert largest <= lineage_limit_bytes(changed) <= 2 * largest
