"""A large object into a file: on behind what is there, from any bucket, and never wrong bytes."""

import hashlib
import os
from pathlib import Path

import pytest

from simulation.swarm import build_world
from simulation.world import hotkey_of
from template.errors import EXIT_OPERATOR, NotFound, StateError, Unavailable, exit_status
from template.peers.client import Peers
from template.protocol.keys import blob_key
from template.protocol.record import Record, encode_record
from template.store.memory import MemoryStore
from template.store.types import Take

NAMES = ("owner", "val-a", "val-b")
HOTKEYS = tuple(hotkey_of(name) for name in NAMES)
DATA = os.urandom(100_000)
DIGEST = hashlib.sha256(DATA).digest()
PIECE = 1_000


class Killed(BaseException):
    """The process ends."""


class Line(MemoryStore):
    """A bucket behind a line that breaks: counts the bytes sent, and where each answer began."""

    def __init__(self) -> None:
        super().__init__()
        self.breaks_after: int | None = None
        self.error: BaseException = Unavailable("the line broke")
        self.starts: list[int] = []
        self.sent = 0

    def reader(self) -> "Line":
        return self

    def stream(self, key: str, take: Take, *, start: int = 0, max_bytes: int) -> None:
        self.starts.append(start)
        data, sent = self.get(key, max_bytes=max_bytes), 0
        for place in range(start, len(data), PIECE):
            if self.breaks_after is not None and sent >= self.breaks_after:
                raise self.error
            piece = data[place : place + PIECE]
            sent += len(piece)
            self.sent += len(piece)
            take(piece)


@pytest.fixture
def lines() -> dict[str, Line]:
    return {hotkey: Line() for hotkey in HOTKEYS}


@pytest.fixture
def peers(lines, tmp_path) -> Peers:
    world = build_world(dict.fromkeys(NAMES, 1000))
    for hotkey, line in lines.items():
        world.buckets[hotkey] = line
        line.put(blob_key(DIGEST), DATA)
        world.chain(hotkey).publish(encode_record(Record(access=world.access(hotkey))))
    world.time.block += 8
    peers = Peers(world.context(hotkey_of("val-a"), tmp_path / "node"))
    peers.refresh()
    return peers


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "blob.coming"


def fetch(peers: Peers, path: Path, hotkeys=HOTKEYS, digest: bytes = DIGEST) -> None:
    peers.fetch_blob_into(hotkeys, digest, len(DATA), path)


@pytest.mark.parametrize("num_bytes", [0, PIECE, 99_000])
def test_another_process_goes_on_behind_the_bytes_that_the_file_has(
    peers, lines, path, num_bytes: int
) -> None:
    first = lines[HOTKEYS[0]]
    first.breaks_after, first.error = num_bytes, Killed()
    with pytest.raises(Killed):
        fetch(peers, path)
    had = path.stat().st_size if path.exists() else 0
    assert had == first.sent
    first.breaks_after = None
    fetch(peers, path)
    assert path.read_bytes() == DATA
    assert first.starts == [0, had]
    assert first.sent == len(DATA), "no byte twice"


def test_the_next_bucket_goes_on_where_the_one_before_broke_off(peers, lines, path) -> None:
    one, two, three = (lines[hotkey] for hotkey in HOTKEYS)
    one.breaks_after, two.breaks_after = 30_000, 50_000
    fetch(peers, path)
    assert path.read_bytes() == DATA
    assert [line.sent for line in (one, two, three)] == [30_000, 50_000, 20_000]
    assert peers.is_troubled(HOTKEYS[0])


def test_a_whole_file_is_asked_of_nobody(peers, lines, path) -> None:
    """The process ended between the last byte and the file's name."""
    path.write_bytes(DATA)
    fetch(peers, path)
    assert not any(line.starts for line in lines.values())
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(
    "there", [DATA[:500][::-1], b"x", bytes(len(DATA)), DATA + b"y", b"\0" * 200_000]
)
def test_bytes_that_do_not_fit_are_thrown_away_and_nobody_is_blamed(
    peers, lines, path, there: bytes, caplog
) -> None:
    """Of a bucket before, of a disk that lost them, or of a file too long."""
    path.write_bytes(there)
    fetch(peers, path)
    assert path.read_bytes() == DATA
    assert lines[HOTKEYS[0]].starts[-1] == 0
    assert not lines[HOTKEYS[1]].starts, "the first bucket gave the right bytes"
    assert not peers.is_troubled(HOTKEYS[0])
    assert not [line for line in caplog.messages if "tell its owner" in line]


@pytest.mark.parametrize("lie", [DATA[::-1], DATA[:-1], DATA + b"\0"])
def test_a_bucket_of_other_bytes_is_named_and_the_next_one_asked(
    peers, lines, path, lie: bytes, caplog
) -> None:
    lines[HOTKEYS[0]].put(blob_key(DIGEST), lie)
    fetch(peers, path)
    assert path.read_bytes() == DATA
    assert lines[HOTKEYS[1]].starts == [0], "not behind the wrong bytes"
    assert [line for line in caplog.messages if "tell its owner" in line]
    if len(lie) != len(DATA):
        assert not lines[HOTKEYS[0]].starts, "another length is not downloaded"


def test_a_liar_that_breaks_off_costs_no_more_than_its_bytes(peers, lines, path) -> None:
    lines[HOTKEYS[0]].put(blob_key(DIGEST), DATA[::-1])
    lines[HOTKEYS[0]].breaks_after = 90_000
    fetch(peers, path)
    assert path.read_bytes() == DATA
    assert lines[HOTKEYS[1]].sent == 10_000 + len(DATA)


def test_without_a_bucket_the_error_says_whether_to_try_again(peers, lines, path) -> None:
    for line in lines.values():
        line.delete(blob_key(DIGEST))
    with pytest.raises(NotFound):
        fetch(peers, path)
    lines[HOTKEYS[1]].put(blob_key(DIGEST), DATA)
    lines[HOTKEYS[1]].breaks_after = 4_000
    with pytest.raises(Unavailable):
        fetch(peers, path)
    assert path.read_bytes() == DATA[:4_000], "kept for the next try"


def test_a_disk_that_refuses_is_no_buckets_fault(peers, lines, path) -> None:
    path.mkdir()
    with pytest.raises(StateError) as caught:
        fetch(peers, path)
    assert exit_status(caught.value) == EXIT_OPERATOR
    missing = path / "no folder" / "file"
    with pytest.raises(StateError):
        fetch(peers, missing)
    assert not any(peers.is_troubled(hotkey) for hotkey in HOTKEYS)
