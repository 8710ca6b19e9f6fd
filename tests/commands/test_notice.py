"""`owner notice` on a world in memory: whose notice is put, and what a reading back shows."""

from dataclasses import dataclass, replace

import pytest
from bittensor_core import Keypair

from simulation.swarm import build_world
from simulation.world import World
from template.chain.bittensor import verify_signature
from template.commands.notice import put_notice
from template.errors import ConfigError, RecordError, Unavailable
from template.peers.notice import fetch_notice
from template.protocol.notice import VersionNotice
from template.protocol.record import Record, encode_record
from template.store.memory import MemoryStore
from tests.support.notices import NOTICE, OWNER, STRANGER, asking, own_subnet, put, signed


@dataclass(frozen=True)
class Bucket:
    """Somebody's own bucket."""

    writer: MemoryStore
    hotkey: str = OWNER.ss58_address
    where: str = "bucket X"


@pytest.fixture
def world() -> World:
    return build_world({"owner": 0, "other": 0})


def publish(world: World, bucket: Bucket, key: Keypair = OWNER) -> list[str]:
    said: list[str] = []
    chain = world.chain(bucket.hotkey)

    def fetch() -> VersionNotice:
        return fetch_notice(chain, lambda h, _: world.buckets[h].reader(), verify_signature)

    put_notice(NOTICE, chain, bucket, sign=key.sign, fetch=fetch, say=said.append)
    return said


def test_a_notice_replaces_the_one_before_and_is_read(world) -> None:
    bucket = Bucket(own_subnet(world))
    put(bucket.writer, signed(replace(NOTICE, version="0.0.1")))
    said = publish(world, bucket)
    assert asking(world)() == NOTICE
    assert said[0] == "notice/version.json is in bucket X"
    assert f"version 9.8.7, wheel with SHA-256 {NOTICE.digest.hex()}" in said[1]


def test_only_the_hotkey_of_the_subnets_owner_may_tell(world) -> None:
    own_subnet(world)
    bucket = Bucket(MemoryStore(), hotkey=STRANGER.ss58_address)
    with pytest.raises(ConfigError, match=r"--wallet\.hotkey: .* is not the hotkey of the owner"):
        publish(world, bucket, STRANGER)
    assert bucket.writer.list("") == []


def test_an_owner_without_a_bucket_on_chain_is_told_to_publish_first(world) -> None:
    bucket = Bucket(own_subnet(world))
    world.chain(bucket.hotkey).publish(encode_record(Record()))
    world.time.block += 8
    with pytest.raises(ConfigError, match="names no bucket.*run `tessera owner publish` first"):
        publish(world, bucket)
    assert bucket.writer.list("") == []


def test_a_bucket_that_is_not_the_one_of_the_record_is_an_error(world) -> None:
    of_record = own_subnet(world)
    bucket = Bucket(MemoryStore())
    with pytest.raises(ConfigError, match=r"does not give it .*let TESSERA_BUCKET_\* name"):
        publish(world, bucket)
    put(of_record, signed(replace(NOTICE, version="0.0.1")))
    with pytest.raises(ConfigError, match=r"a notice of version 0\.0\.1 is there"):
        publish(world, bucket)
    put(of_record, signed(key=STRANGER))
    with pytest.raises(ConfigError, match="the signature is not the owner's"):
        publish(world, bucket)


@pytest.mark.parametrize(
    ("error", "raised"),
    [(RecordError("on this machine"), ConfigError), (Unavailable("away"), Unavailable)],
)
def test_a_bucket_that_cannot_be_asked_may_need_local_or_patience(world, error, raised) -> None:
    bucket = Bucket(own_subnet(world))

    def fetch() -> VersionNotice:
        raise error

    with pytest.raises(raised) as caught:
        put_notice(
            NOTICE, world.chain(bucket.hotkey), bucket, sign=OWNER.sign, fetch=fetch, say=print
        )
    assert ("--local" in str(caught.value)) == (raised is ConfigError)
