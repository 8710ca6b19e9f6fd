"""The owner of a subnet with a signing key, and notices of versions by the owner and by others."""

from bittensor_core import Keypair

from simulation.world import World
from template.chain.bittensor import verify_signature
from template.peers.notice import AskNotice, read_notice
from template.protocol.keys import notice_key
from template.protocol.notice import VersionNotice, encode_notice
from template.protocol.record import Record, encode_record
from template.store.memory import MemoryStore

NETUID = 1
OWNER, STRANGER = (Keypair.create_from_uri(name) for name in ("//Owner", "//Stranger"))
NOTICE = VersionNotice(version="9.8.7", kind="wheel", digest=bytes(range(32)))


def signed(notice: VersionNotice = NOTICE, key: Keypair = OWNER, netuid: int = NETUID) -> bytes:
    """The object that `key` puts into its bucket."""
    return encode_notice(notice, netuid, key.sign)


def own_subnet(world: World) -> MemoryStore:
    """Make `OWNER` the subnet's owner, with a record on chain; the owner's bucket."""
    hotkey: str = OWNER.ss58_address
    world.ledger.owner_hotkey = hotkey
    world.buckets[hotkey] = MemoryStore()
    world.chain(hotkey).publish(encode_record(Record(access=world.access(hotkey))))
    world.time.block += 8
    return world.buckets[hotkey]


def asking(world: World) -> AskNotice:
    """The question for the owner's notice, as a neuron or a reader of pages asks it."""
    chain = world.chain(world.ledger.neurons[0].hotkey)
    return lambda: read_notice(chain, lambda h, _: world.buckets[h].reader(), verify_signature)


def put(bucket: MemoryStore, data: bytes) -> None:
    bucket.put(notice_key(), data)
