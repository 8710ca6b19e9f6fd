"""Reading the owner's notice from a world in memory: a good one, and all that is none."""

import logging
from dataclasses import replace

import pytest

from simulation.swarm import build_world
from simulation.world import FakeChain, World, hotkey_of
from template.chain.bittensor import verify_signature
from template.errors import ChainError, Denied, NodeTrouble, RecordError, SubnetError, Unavailable
from template.peers.notice import read_notice
from template.protocol.keys import notice_key
from template.protocol.notice import MAX_NOTICE_BYTES
from template.protocol.record import Record, encode_record
from template.store import Store
from template.store.memory import MemoryStore
from tests.support.notices import NOTICE, OWNER, STRANGER, asking, own_subnet, put, signed

OTHER = hotkey_of("other")


@pytest.fixture
def world() -> World:
    return build_world({"owner": 0, "other": 0})


@pytest.fixture
def bucket(world: World) -> MemoryStore:
    return own_subnet(world)


def test_the_newest_notice_of_the_owner_is_read(world, bucket) -> None:
    put(bucket, signed())
    assert asking(world)() == NOTICE
    newer = replace(NOTICE, version="10.0.0", kind="tag")
    put(bucket, signed(newer))
    assert asking(world)() == newer


def test_a_notice_of_another_subnet_owner_counts_no_more(world, bucket) -> None:
    """The signature must be that of the hotkey that owns the subnet now."""
    put(bucket, signed())
    assert asking(world)() == NOTICE
    world.ledger.owner_hotkey = OTHER
    world.chain(OTHER).publish(encode_record(Record(access=world.access(OTHER))))
    world.time.block += 8
    put(world.buckets[OTHER], signed())
    assert asking(world)() is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "NotFound|no object"),
        (b"garbage", "refused"),
        (signed(key=STRANGER), "signature is not the owner's"),
        (signed(netuid=2), "signature is not the owner's"),
        (signed() + b" " * MAX_NOTICE_BYTES, "more than 1024"),
        (b"{" * MAX_NOTICE_BYTES, "refused"),
    ],
)
def test_what_is_no_notice_of_the_owner_is_none_and_a_line(
    world, bucket, caplog, data, words
) -> None:
    if data is not None:
        put(bucket, data)
    with caplog.at_level(logging.DEBUG, "template.peers.notice"):
        assert asking(world)() is None
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.getMessage().startswith("no notice of a version from the subnet's owner: ")
    assert any(word in record.getMessage() for word in words.split("|"))


class Counting(MemoryStore):
    """A bucket that answers with an error, and keeps what it was asked for."""

    def __init__(self, error: SubnetError | None = None) -> None:
        super().__init__()
        self.error, self.asked, self.num_closed = error, list[tuple[str, int]](), 0

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self.asked.append((key, max_bytes))
        if self.error is not None:
            raise self.error
        return super().get(key, max_bytes=max_bytes)

    def close(self) -> None:
        self.num_closed += 1


@pytest.mark.parametrize("error", [None, Unavailable("slow"), Denied("no"), NodeTrouble("full")])
def test_a_reading_is_one_bounded_get_and_leaves_nothing_open(world, bucket, error) -> None:
    counting = Counting(error)
    put(counting, signed())
    found = read_notice(world.chain(OTHER), lambda *_: counting, verify_signature)
    assert found == (NOTICE if error is None else None)
    assert counting.asked == [(notice_key(), MAX_NOTICE_BYTES)]
    assert counting.num_closed == 1


def test_an_owner_without_a_usable_bucket_has_no_notice(world, bucket) -> None:
    def refuse(_hotkey: str, _access: object) -> Store:
        raise RecordError("an endpoint inside this network")

    put(bucket, signed())
    assert read_notice(world.chain(OTHER), refuse, verify_signature) is None
    world.ledger.commitments.pop(OWNER.ss58_address)
    assert asking(world)() is None


def test_a_chain_that_does_not_answer_is_no_notice(world, bucket) -> None:
    class Away(FakeChain):
        def finalized(self) -> int:
            raise ChainError("away")

    put(bucket, signed())
    opened = list[str]()

    def open_bucket(hotkey: str, _access: object) -> Store:
        opened.append(hotkey)
        return bucket.reader()

    assert read_notice(Away(world.ledger, OTHER), open_bucket, verify_signature) is None
    assert opened == []
    assert read_notice(world.chain(OTHER), open_bucket, verify_signature) == NOTICE
    assert opened == [OWNER.ss58_address]
