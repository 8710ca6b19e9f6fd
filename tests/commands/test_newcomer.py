"""What a newcomer finds, on a world in memory: each thing that can be missing, on one mirror or
on all of them."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.commands.newcomer import Report, look, position, table
from template.errors import Denied, SubnetError, Unavailable
from template.protocol.keys import blob_key
from template.protocol.record import Record, encode_record
from template.protocol.spec import RunSpec
from template.protocol.spec.timing import MAX_WINDOWS
from template.store import Store
from template.store.memory import MemoryStore
from template.training.theta0 import index_length, parse_index, theta0_bytes

OWNER, SECOND = hotkey_of("owner"), hotkey_of("second")


class Refusing(MemoryStore):
    """A bucket that answers everything with one error."""

    def __init__(self, error: SubnetError) -> None:
        super().__init__()
        self.error = error

    def get(self, key: str, *, max_bytes: int) -> bytes:
        raise self.error

    def get_range(self, key: str, start: int, length: int) -> bytes:
        raise self.error

    def size(self, key: str) -> int:
        raise self.error


@pytest.fixture
def world() -> World:
    """Two mirrors that hold the same; the spec names both."""
    world = build_world({"owner": 0, "second": 0})
    world.spec = replace(world.spec, data=replace(world.spec.data, mirrors=(OWNER, SECOND)))
    for key in world.buckets[OWNER].list(""):
        world.buckets[SECOND].put(key, world.buckets[OWNER].get(key, max_bytes=2**24))
    world.chain(SECOND).publish(encode_record(Record(access=world.access(SECOND))))
    world.time.block = 8
    return world


def look_at(world: World) -> Report:
    def open_bucket(hotkey: str, _access: object) -> Store:
        bucket = world.buckets[hotkey]
        return bucket if isinstance(bucket, Refusing) else bucket.reader()

    return look(world.spec, world.chain(OWNER), open_bucket)


def missing(report: Report) -> list[str]:
    return [finding.what for finding in report.findings if not finding.mirrors]


def theta0(spec: RunSpec) -> str:
    return blob_key(bytes.fromhex(spec.checkpoint.theta0_digest))


def theta0_parts(world: World) -> list[str]:
    index = world.buckets[OWNER].get(theta0(world.spec), max_bytes=index_length(world.spec))
    return [blob_key(digest) for digest, _ in parse_index(index, world.spec)]


def manifest(spec: RunSpec) -> str:
    return blob_key(bytes.fromhex(spec.data.manifest_digest))


def test_two_good_mirrors_have_it_all(world: World) -> None:
    report = look_at(world)
    assert (report.status, missing(report)) == (0, [])
    records, rest = report.findings[:2], report.findings[2:]
    assert [finding.mirrors for finding in records] == [(OWNER,), (SECOND,)]
    assert all(finding.mirrors == (OWNER, SECOND) and not finding.faults for finding in rest)
    sizes = [finding.num_bytes for finding in rest]
    lists = {key.replace("shard/", "blob/") for key in world.buckets[OWNER].list("shard/")}
    named = set(world.buckets[OWNER].list("")) - lists
    held = [world.buckets[OWNER].size(key) for key in named]
    assert sum(size for size in sizes if size is not None) == sum(held)


@pytest.mark.parametrize("which", [theta0, manifest])
def test_what_one_mirror_lacks_another_gives(world: World, which) -> None:
    world.buckets[OWNER].delete(which(world.spec))
    report = look_at(world)
    assert report.status == 0
    (finding,) = [finding for finding in report.findings if finding.faults]
    assert finding.mirrors == (SECOND,)
    assert OWNER in finding.faults[0]


@pytest.mark.parametrize("which", [theta0, manifest])
@pytest.mark.parametrize("damage", ["missing", "forged", "too long"])
def test_what_no_mirror_gives_is_named(world: World, which, damage: str) -> None:
    key = which(world.spec)
    for hotkey in (OWNER, SECOND):
        bucket = world.buckets[hotkey]
        size = bucket.size(key)
        if damage == "missing":
            bucket.delete(key)
        else:
            bucket.put(key, bytes(size if damage == "forged" else 2**27))
    report = look_at(world)
    assert report.status == 2
    expected = ["theta_0"] if which is theta0 else ["dataset manifest", "shards"]
    assert missing(report) == expected


def test_a_shard_that_is_missing_or_of_another_length_is_named(world: World) -> None:
    report = look_at(world)
    names = [f.what for f in report.findings if f.what.startswith(("shard", "held-out"))]
    shards = world.buckets[OWNER].list("shard/")
    assert len(names) == len(shards) > 1
    for hotkey in (OWNER, SECOND):
        world.buckets[hotkey].delete(shards[0])
        world.buckets[hotkey].put(shards[1], b"short")
    broken = look_at(world)
    assert broken.status == 2
    assert len(missing(broken)) == 2
    assert set(missing(broken)) <= set(names)
    assert any("5 bytes" in fault for finding in broken.findings for fault in finding.faults)


def test_a_mirror_without_a_record_is_a_fault_though_the_other_has_it_all(world: World) -> None:
    world.ledger.commitments.pop(SECOND)
    report = look_at(world)
    assert report.status == 2
    assert missing(report) == [f"access record of {SECOND[:8]}"]
    assert all(f.mirrors == (OWNER,) for f in report.findings[2:])


def test_without_any_record_nothing_is_there(world: World) -> None:
    world.ledger.commitments.clear()
    report = look_at(world)
    assert report.status == 2
    assert {"dataset manifest", "theta_0"} < set(missing(report))


@pytest.mark.parametrize(("error", "status"), [(Unavailable("away"), 1), (Denied("no"), 2)])
def test_an_outage_may_pass_and_a_refusal_does_not(world: World, error, status: int) -> None:
    for hotkey in (OWNER, SECOND):
        world.buckets[hotkey] = Refusing(error)
    report = look_at(world)
    assert report.status == status
    assert missing(report) == ["dataset manifest", "theta_0", "shards"]


def test_the_table_shows_who_gives_what_and_what_is_wrong(world: World) -> None:
    world.buckets[SECOND] = Refusing(Unavailable("away"))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(look_at(world)))
    text = console.export_text()
    (row,) = [line for line in text.splitlines() if "theta_0" in line]
    assert OWNER[:8] in row
    assert f"{SECOND}: away" in row
    assert f"{theta0_bytes(world.spec):,}" in row


def test_a_strangers_text_in_the_table_is_neither_markup_nor_an_escape(world: World) -> None:
    world.buckets[SECOND] = Refusing(Unavailable("[/b] \x1b[2J\r\u202e [red]gone"))
    console = Console(width=400, file=io.StringIO())
    console.print(table(look_at(world)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[/b] <U+001B>[2J<U+000D><U+202E> [red]gone" in text
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("block", "words"),
    [(0, "window 0 starts at block 16"), (16, "window 0 of 8"), (16 * 9, "has ended")],
)
def test_the_position_of_a_run(world: World, block: int, words: str) -> None:
    assert words in position(world.spec, block)


def test_the_position_of_a_run_without_an_end(world: World) -> None:
    schedule = replace(world.spec.schedule, num_windows=MAX_WINDOWS)
    told = position(replace(world.spec, schedule=schedule), 16)
    assert told.endswith("in window 0, without a planned end")
