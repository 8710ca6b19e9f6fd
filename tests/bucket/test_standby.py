"""Payloads kept on disk for others: looked for in every window, put when nobody serves them."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.bucket.background import Background
from template.bucket.budget import payload_windows
from template.bucket.named_folder import NAMED_FOLDER
from template.bucket.standby import Standby
from template.context import NodeContext
from template.errors import Unavailable
from template.protocol.holders import HOLDERS, Holding, turn_of
from template.protocol.keys import payload_key
from template.protocol.payload import payload_digest
from template.protocol.record import Record, encode_record
from template.store.memory import MemoryStore

NAMES = [f"val-{letter}" for letter in "abcdefgh"]
MINER = "m0"
WINDOW = 4


class Counting(MemoryStore):
    """Counts the requests of its readers; may be silent, or cut a changed byte into answers."""

    def __init__(self) -> None:
        super().__init__()
        self.gets: list[str] = []
        self.puts: list[str] = []
        self.is_silent = False

    def reader(self) -> MemoryStore:
        return self

    def put(self, key: str, data: bytes) -> None:
        self.puts.append(key)
        super().put(key, data)

    def _ask(self, key: str) -> None:
        self.gets.append(key)
        if self.is_silent:
            raise Unavailable("no answer")

    def get_range(self, key: str, start: int, length: int) -> bytes:
        self._ask(key)
        return super().get_range(key, start, length)

    def stream(self, key: str, take: Any, *, start: int = 0, max_bytes: int) -> None:
        self._ask(key)
        super().stream(key, take, start=start, max_bytes=max_bytes)


class Case:
    """One node's standby with one payload of a miner, at any place of the line."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        for hotkey in world.buckets:
            world.buckets[hotkey] = Counting()
            world.chain(hotkey).publish(encode_record(Record(access=world.access(hotkey))))
        world.time.block += 10
        stakes = {hotkey_of(name): 1000 for name in NAMES}
        self.holding = Holding(seed=bytes(32), stakes=stakes)
        length = world.context(hotkey_of(NAMES[0]), folder / "probe").form_at(0).num_bytes
        self.frame = bytes(number % 251 for number in range(length))
        self.digest = payload_digest(self.frame)
        self.line = self.holding.line(self.digest)
        self.key = payload_key(world.spec.run_id, WINDOW, self.digest)

    def context(self, place: int) -> NodeContext:
        hotkey = self.line[place]
        context = self.world.context(hotkey, self.folder / str(place))
        return replace(context, note_work=lambda _begins: None)

    def node(self, place: int) -> Standby:
        """A new process at a place of the line."""
        context = self.context(place)
        return Standby(context, Background(context.note_work))

    def keeping(self, place: int) -> Standby:
        node = self.node(place)
        authors = {self.digest: hotkey_of(MINER)}
        node.keep(WINDOW, {self.digest: self.frame}, authors, self.holding)
        node.settle(WINDOW)
        return node

    def bucket(self, place: int) -> Counting:
        return self._bucket_of(self.line[place])

    @property
    def miners(self) -> Counting:
        return self._bucket_of(hotkey_of(MINER))

    def _bucket_of(self, hotkey: str) -> Counting:
        bucket = self.world.buckets[hotkey]
        assert isinstance(bucket, Counting)
        return bucket

    def serve(self, *places: int, data: bytes | None = None) -> None:
        for place in places:
            self.bucket(place).put(self.key, self.frame if data is None else data)
            self.bucket(place).puts.clear()


@pytest.fixture
def case(tmp_path) -> Case:
    world = build_world({"owner": 0, **dict.fromkeys(NAMES, 1000), MINER: 0})
    return Case(world, tmp_path)


def test_while_the_miner_serves_nobody_puts_and_each_look_is_one_request(case) -> None:
    case.miners.put(case.key, case.frame)
    places = range(HOLDERS, len(NAMES))
    nodes = {place: case.keeping(place) for place in places}
    for window in range(WINDOW, WINDOW + 5):
        case.miners.gets.clear()
        for node in nodes.values():
            node.settle(window)
            node.look()
            node.look()
        whole = sum(turn_of(place) == window - WINDOW for place in places)
        assert len(case.miners.gets) == len(nodes) + whole
    assert all(case.bucket(place).puts == [] for place in range(len(NAMES)))
    assert all(case.bucket(place).gets == [] for place in range(len(NAMES)))


def test_without_the_miner_two_holders_are_enough(case) -> None:
    case.serve(0, 2)
    node = case.keeping(HOLDERS)
    node.look()
    assert node.is_waiting
    assert case.bucket(HOLDERS).puts == []
    assert len(case.bucket(0).gets) == len(case.bucket(2).gets) == 1
    case.miners.put(case.key, case.frame)
    node.look()
    assert not node.is_waiting, "the miner is back"


@pytest.mark.parametrize("served", [[], [1]])
def test_without_miner_and_holders_the_next_in_line_put_theirs_in_turns(case, served) -> None:
    case.serve(*served)
    nodes = {place: case.keeping(place) for place in range(HOLDERS, len(NAMES))}
    puts = []
    for _ in range(4):
        for place in reversed(nodes):  # who looks first does not put first
            nodes[place].look()
        puts.append([place for place in nodes if case.bucket(place).puts])
        case.world.time.block += nodes[HOLDERS].turn_blocks
    assert puts[0] == [HOLDERS]
    assert all(set(a) <= set(b) for a, b in pairwise(puts))
    assert 2 <= len(puts[-1]) + len(served) <= 3, "and not everybody"
    assert case.bucket(HOLDERS).get(case.key, max_bytes=2**20) == case.frame
    folder = case.context(HOLDERS).state_dir / NAMED_FOLDER
    assert list(folder.glob("*/*.payload")) == [], "it lies in the bucket now"


@pytest.mark.parametrize("fault", ["gone", "other bytes", "cut", "silent", "no record"])
def test_a_miner_that_does_not_give_the_bytes_does_not_serve(case, fault) -> None:
    case.miners.put(case.key, case.frame)
    if fault == "gone":
        case.miners.delete(case.key)
    elif fault == "other bytes":
        case.miners.put(case.key, bytes(len(case.frame)))
    elif fault == "cut":
        case.miners.put(case.key, case.frame[: len(case.frame) // 2])
    elif fault == "silent":
        case.miners.is_silent = True
    else:
        case.world.ledger.commitments.pop(hotkey_of(MINER))
    node = case.keeping(HOLDERS)
    node.look()
    assert case.bucket(HOLDERS).puts == [case.key]


def test_one_changed_byte_that_looks_miss_is_found_by_reading_to_the_end(case) -> None:
    """And colluding holders with the same byte changed do not help the miner."""
    wrong = bytes([case.frame[0] ^ 1, *case.frame[1:]])
    assert len(wrong) > 1
    case.miners.put(case.key, wrong)
    case.serve(0, 1, 2, data=wrong)
    place = HOLDERS
    context = replace(case.context(place), random_bytes=lambda n: b"\xff" * n)
    node = Standby(context, Background(context.note_work))
    node.keep(WINDOW, {case.digest: case.frame}, {case.digest: hotkey_of(MINER)}, case.holding)
    node.settle(WINDOW)
    node.look()
    assert case.bucket(place).puts == [case.key]


def test_a_silent_miner_is_waited_for_once_in_a_look(case) -> None:
    node = case.node(HOLDERS)
    frames = {payload_digest(bytes([n]) * 9): bytes([n]) * 9 for n in range(60)}
    own = case.line[HOLDERS]
    mine = {d: f for d, f in frames.items() if own not in case.holding.line(d)[:HOLDERS]}
    authors = dict.fromkeys(mine, hotkey_of(MINER))
    node.keep(WINDOW, mine, authors, case.holding)
    node.settle(WINDOW)
    case.miners.is_silent = True
    node.look()
    assert len(mine) > 10
    assert len(case.miners.gets) == 1


def test_a_restarted_node_still_serves(case) -> None:
    case.keeping(HOLDERS)
    restarted = case.node(HOLDERS)
    assert list(restarted.frames_from(WINDOW)) == [(WINDOW, case.digest, case.frame)]
    assert list(restarted.frames_from(WINDOW + 1)) == []
    restarted.look()
    assert case.bucket(HOLDERS).puts == [], "no votes were counted since"
    restarted.settle(WINDOW + 7)
    restarted.look()
    assert case.bucket(HOLDERS).puts == [case.key]
    assert list(case.node(HOLDERS).frames_from(0)) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"zz": 1}', '{"00": {"author": "x", "line": []}}']
)
def test_an_index_that_no_vote_followed_is_removed_and_told(case, text, caplog) -> None:
    case.keeping(HOLDERS)
    folder = case.context(HOLDERS).state_dir / NAMED_FOLDER / f"{WINDOW:08d}"
    (folder / "window.json").write_text(text)
    assert list(case.node(HOLDERS).frames_from(0)) == []
    assert not folder.exists()
    assert [line for line in caplog.messages if "is unreadable and removed" in line]


def test_a_damaged_file_is_told_and_not_put(case, caplog) -> None:
    node = case.keeping(HOLDERS)
    folder = case.context(HOLDERS).state_dir / NAMED_FOLDER / f"{WINDOW:08d}"
    (path,) = folder.glob("*.payload")
    path.write_bytes(bytes(len(case.frame)))
    node.look()
    assert case.bucket(HOLDERS).puts == []
    assert [line for line in caplog.messages if "is damaged or gone" in line]
    node.look()


def test_the_folder_ends_with_the_retention_of_payloads(case) -> None:
    node = case.keeping(HOLDERS)
    folder = case.context(HOLDERS).state_dir / NAMED_FOLDER
    node.drop_before(WINDOW)
    node.look()
    assert len(list(folder.iterdir())) == 1
    node.drop_before(WINDOW + 1)
    node.look()
    assert list(folder.iterdir()) == []
    node = case.keeping(HOLDERS)
    later = WINDOW + payload_windows(case.world.spec) + 1
    authors = {case.digest: hotkey_of(MINER)}
    node.keep(later, {case.digest: case.frame}, authors, case.holding)
    node.look()
    assert [path.name for path in folder.iterdir()] == [f"{later:08d}"], "whatever a sweep says"


def test_what_is_not_settled_yet_is_not_looked_for(case) -> None:
    node = case.keeping(HOLDERS)
    node.keep(WINDOW + 1, {case.digest: case.frame}, {case.digest: hotkey_of(MINER)}, case.holding)
    node.look()
    assert case.miners.gets == []
