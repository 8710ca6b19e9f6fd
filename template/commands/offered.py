"""Finding a run by its netuid: the offer in the record of the subnet's owner, and the run spec.

The offer is the run id, which the spec's own content must give: a bucket cannot pass off another
spec. Whether the validators follow the run is for `template.commands.newcomer` to see.
"""

from dataclasses import dataclass

from template.chain import Chain
from template.chain.ballots import read_records_of_any_run
from template.commands.newcomer import existing_subnet
from template.context import OpenBucket
from template.errors import ConfigError, Denied, NotFound, ObjectError, RecordError, TooLarge
from template.protocol.keys import run_spec_key
from template.protocol.record import Record
from template.protocol.spec import RunSpec, parse_spec
from template.protocol.spec.files import MAX_SPEC_BYTES
from template.protocol.strangers import fault, refusing
from template.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class OfferedRun:
    """A run spec, and the hotkey and block of the offer."""

    spec: RunSpec
    hotkey: str
    block: int


def find_run(chain: Chain, open_bucket: OpenBucket) -> OfferedRun:
    """The run offered by the subnet's owner, its spec fetched and checked.

    ConfigError without an offer, or for a spec that its bucket does not give as offered.
    """
    graph = existing_subnet(chain)
    hotkey = graph.owner_hotkey
    record = read_records_of_any_run(chain, graph.block).get(hotkey, Record())
    where = f"--netuid {graph.netuid}: the record of the subnet's owner, {hotkey}, at block"
    if record.offer is None or record.access is None:
        raise ConfigError(
            f"{where} {graph.block} offers no run: ask the owner for the run spec and name it with "
            "--run, or wait until the owner has run `tessera owner publish`"
        )
    try:
        spec = _fetch_spec(open_bucket(hotkey, record.access), record.offer)
    except (NotFound, Denied, TooLarge, ObjectError, RecordError) as error:
        # A bucket on this machine is refused without --local: the owner is then not at fault.
        local = "start again with --local on a localnet, or " * isinstance(error, RecordError)
        raise ConfigError(
            f"{where} {graph.block} offers run {record.offer.hex()}, but its spec is not to be had "
            f"({fault(error)}): {local}ask the owner to publish again"
        ) from error
    return OfferedRun(spec=spec, hotkey=hotkey, block=graph.block)


def _fetch_spec(bucket: Store, run_id: bytes) -> RunSpec:
    """A run's spec from a bucket; ObjectError for anything else under its key."""
    with refusing("run spec"):
        text = bucket.get(run_spec_key(run_id), max_bytes=MAX_SPEC_BYTES).decode("utf-8")
    try:
        spec = parse_spec(text)
    except ConfigError as error:
        raise ObjectError(f"run spec: refused: {fault(error)}") from error
    if spec.run_id != run_id:
        raise ObjectError(f"run spec: of another run, {spec.run_id.hex()}")
    return spec


def describe_offer(spec: RunSpec, chain: Chain) -> str:
    """A sentence: whether this run is the one found by the netuid alone."""
    graph = existing_subnet(chain)
    record = read_records_of_any_run(chain, graph.block).get(graph.owner_hotkey, Record())
    owner = f"the record of the subnet's owner, {graph.owner_hotkey},"
    if record.offer == spec.run_id:
        return f"{owner} offers this run: newcomers find it by --netuid {graph.netuid} alone"
    if record.offer is None:
        return f"note: {owner} offers no run: newcomers need the run spec from somebody"
    return f"note: {owner} offers another run, {record.offer.hex()}"
