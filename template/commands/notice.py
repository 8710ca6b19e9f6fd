"""`owner notice`: a signed notice of a version, put into the owner's bucket and read back."""

from collections.abc import Callable
from typing import Protocol

from template.chain import Chain
from template.chain.ballots import read_records_of_any_run
from template.commands.newcomer import existing_subnet
from template.errors import ConfigError, Denied, NotFound, ObjectError, RecordError, TooLarge
from template.protocol.keys import notice_key
from template.protocol.notice import Sign, VersionNotice, encode_notice
from template.protocol.record import Record
from template.protocol.strangers import fault
from template.store import Store


class Target(Protocol):
    """The signer's own bucket; `where`: its name and endpoint, for messages."""

    @property
    def hotkey(self) -> str: ...

    @property
    def writer(self) -> Store: ...

    @property
    def where(self) -> str: ...


def put_notice(
    notice: VersionNotice,
    chain: Chain,
    bucket: Target,
    *,
    sign: Sign,
    fetch: Callable[[], VersionNotice],
    say: Callable[[str], None],
) -> None:
    """Sign the notice, put it into the bucket, and read it back as neurons do, by `fetch`.

    ConfigError for a hotkey that is not the subnet owner's, an owner without a bucket on chain, and
    a bucket other than the one of the record. Raises ChainError, and StoreError of the bucket.
    """
    graph = existing_subnet(chain)
    if bucket.hotkey != graph.owner_hotkey:
        raise ConfigError(
            f"--wallet.hotkey: {bucket.hotkey} is not the hotkey of the owner of subnet "
            f"{graph.netuid}, {graph.owner_hotkey}: neurons read a notice of that hotkey alone; "
            "name its wallet by --wallet.name and --wallet.hotkey"
        )
    record = read_records_of_any_run(chain, graph.block).get(bucket.hotkey, Record())
    if record.access is None:
        raise ConfigError(
            f"--wallet.hotkey: the record of {bucket.hotkey} at block {graph.block} names no "
            "bucket, and nobody would find the notice: run `tessera owner publish` first"
        )
    bucket.writer.put(notice_key(), encode_notice(notice, graph.netuid, sign))
    say(f"{notice_key()} is in {bucket.where}")
    _read_back(notice, bucket, fetch)
    say(
        f"neurons of subnet {graph.netuid} read it within the hour: version {notice.version}, "
        f"{notice.kind} with SHA-256 {notice.digest.hex()}; to compare: {notice.comparison}"
    )


def _read_back(notice: VersionNotice, bucket: Target, fetch: Callable[[], VersionNotice]) -> None:
    try:
        found = fetch()
    except (NotFound, Denied, TooLarge, ObjectError, RecordError) as error:
        # A bucket on this machine is refused without --local.
        local = "start again with --local on a localnet, or " * isinstance(error, RecordError)
        raise ConfigError(_elsewhere(bucket, fault(error), local)) from error
    if found != notice:
        raise ConfigError(_elsewhere(bucket, f"a notice of version {found.version} is there", ""))


def _elsewhere(bucket: Target, what: str, local: str) -> str:
    return (
        f"{bucket.where} has the notice, but the bucket that the owner's record on chain names "
        f"does not give it ({what}): {local}let TESSERA_BUCKET_* name the bucket of that record"
    )
