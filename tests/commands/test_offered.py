"""Finding a run by its netuid alone, on a world in memory, with owners and buckets that mislead."""

from dataclasses import replace

import pytest

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.commands.newcomer import look
from template.commands.offered import describe_offer, find_run
from template.errors import ConfigError, Denied, RecordError, SubnetError, Unavailable
from template.protocol.keys import run_spec_key
from template.protocol.record import Record, encode_record
from template.protocol.spec import spec_to_toml
from template.protocol.spec.files import MAX_SPEC_BYTES
from template.store import Store
from template.store.memory import MemoryStore

OWNER, OTHER = hotkey_of("owner"), hotkey_of("other")


class Refusing(MemoryStore):
    """A bucket that answers everything with one error."""

    def __init__(self, error: SubnetError) -> None:
        super().__init__()
        self.error = error

    def get(self, key: str, *, max_bytes: int) -> bytes:
        raise self.error


@pytest.fixture
def world() -> World:
    """A run that the subnet's owner offers."""
    world = build_world({"owner": 0, "other": 0})
    offer(world, OWNER, world.spec.run_id)
    world.buckets[OWNER].put(run_spec_key(world.spec.run_id), spec_to_toml(world.spec).encode())
    return world


def offer(world: World, hotkey: str, run_id: bytes | None, *, with_access: bool = True) -> None:
    access = world.access(hotkey) if with_access else None
    world.chain(hotkey).publish(encode_record(Record(access=access, offer=run_id)))
    world.time.block += 8


def open_bucket(world: World, hotkey: str) -> Store:
    bucket = world.buckets[hotkey]
    return bucket if isinstance(bucket, Refusing) else bucket.reader()


def find(world: World):
    return find_run(world.chain(OTHER), lambda hotkey, _: open_bucket(world, hotkey))


def test_the_owners_offer_leads_to_the_very_text_that_was_published(world) -> None:
    found = find(world)
    assert (found.spec, found.hotkey) == (world.spec, OWNER)
    published = world.buckets[OWNER].get(run_spec_key(world.spec.run_id), max_bytes=2**16)
    assert spec_to_toml(found.spec).encode() == published
    assert "by --netuid 1 alone" in describe_offer(world.spec, world.chain(OTHER))


def test_the_offer_counts_that_the_hotkey_of_the_subnets_owner_makes(world) -> None:
    """Not the one of uid 0, and nobody else's."""
    world.ledger.owner_hotkey = OTHER
    with pytest.raises(ConfigError, match=rf"--netuid 1: .* owner, {OTHER}, .* offers no run"):
        find(world)
    assert "offers no run" in describe_offer(world.spec, world.chain(OTHER))
    offer(world, OTHER, bytes(16))
    assert f"offers another run, {'00' * 16}" in describe_offer(world.spec, world.chain(OTHER))
    offer(world, OTHER, world.spec.run_id)
    world.buckets[OTHER].put(run_spec_key(world.spec.run_id), spec_to_toml(world.spec).encode())
    assert find(world).hotkey == OTHER


@pytest.mark.parametrize("record", [None, b"\xff" * 40, Record(), "no access", "no offer"])
def test_without_an_offer_the_owner_is_to_be_asked(world, record) -> None:
    if record is None:
        world.ledger.commitments.pop(OWNER)
    elif isinstance(record, str):
        run_id = world.spec.run_id if record == "no access" else None
        offer(world, OWNER, run_id, with_access=record == "no offer")
    else:
        data = record if isinstance(record, bytes) else encode_record(record)
        world.chain(OWNER).publish(data)
        world.time.block += 8
    with pytest.raises(ConfigError, match=r"offers no run: ask the owner .*--run"):
        find(world)


def other_run(world: World) -> bytes:
    return spec_to_toml(replace(world.spec, name="another")).encode()


BODIES = {
    "another run's": (other_run, "of another run"),
    "no TOML": (lambda _: b"name = ", "not valid TOML"),
    "no text": (lambda _: b"\xff\xfe", "UnicodeDecodeError"),
    "no spec": (lambda _: b'name = "x"\n', "missing"),
    "too long": (lambda _: b"#" * (MAX_SPEC_BYTES + 1), ""),
    "many dots": (lambda _: b"a" + b".a" * 20_000 + b" = 1", "dots in a line"),
    "escapes": (lambda _: b'"\\u001b[2J" = 1\n', "unknown key"),
}


@pytest.mark.parametrize(("body", "words"), BODIES.values(), ids=BODIES)
def test_a_spec_that_is_not_the_offered_one_is_refused(world, body, words: str) -> None:
    world.buckets[OWNER].put(run_spec_key(world.spec.run_id), body(world))
    with pytest.raises(ConfigError, match=r"its spec is not to be had .*publish again") as caught:
        find(world)
    assert world.spec.run_id.hex() in str(caught.value)
    assert words in str(caught.value)
    assert str(caught.value).isprintable(), "nothing of it reaches a terminal"


def test_a_missing_spec_and_an_unusable_bucket_are_the_owners_fault(world) -> None:
    world.buckets[OWNER].delete(run_spec_key(world.spec.run_id))
    with pytest.raises(ConfigError, match="not to be had"):
        find(world)
    for error in (Denied("no"), RecordError("no bucket")):
        world.buckets[OWNER] = Refusing(error)
        with pytest.raises(ConfigError, match="not to be had") as caught:
            find(world)
        assert ("--local" in str(caught.value)) == isinstance(error, RecordError)
    world.buckets[OWNER] = Refusing(Unavailable("away"))
    with pytest.raises(Unavailable):
        find(world)


def test_an_owner_without_a_uid_is_a_finding_of_the_newcomer(world) -> None:
    def opened(hotkey: str, _access: object) -> Store:
        return open_bucket(world, hotkey)

    assert look(world.spec, world.chain(OTHER), opened).status == 0
    world.ledger.owner_hotkey = gone = hotkey_of("gone")
    report = look(world.spec, world.chain(OTHER), opened)
    (finding,) = [f for f in report.findings if not f.mirrors]
    assert (report.status, finding.what) == (2, "burn uid")
    assert f"{gone}, is not registered" in finding.faults[0]
