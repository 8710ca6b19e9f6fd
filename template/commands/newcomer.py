"""A newcomer's view of a run spec: access records, dataset and theta_0, read from the mirrors.

Reads only; needs no wallet and no bucket. An object counts as present if any mirror serves the
bytes named by the spec. Large shards are checked by length, without a download.
"""

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from rich.table import Column, Table
from rich.text import Text

from template.base.standing import unregistered_owner
from template.chain import Chain, Metagraph
from template.chain.ballots import read_records_of_any_run
from template.cli.terminal import one_line
from template.context import OpenBucket
from template.data.manifest import MAX_MANIFEST_BYTES, Manifest, Shard, parse_manifest
from template.errors import (
    EXIT_ENDED,
    EXIT_OPERATOR,
    EXIT_TRY_AGAIN,
    ChainError,
    ConfigError,
    Denied,
    NotFound,
    ObjectError,
    RecordError,
    SubnetError,
    TooLarge,
    exit_status,
)
from template.peers.threads import start
from template.protocol.keys import blob_key, shard_key
from template.protocol.record import Record
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.store import Store
from template.sync.dataset import check_manifest
from template.sync.traces import find_traces
from template.training.theta0 import index_length, parse_index

THREADS = 16
SHORT_CHARS = 8
BURN_UID = "burn uid"
MAX_SHARDS = 256
"""Shards looked for, of a dataset with more: two requests each, at every mirror."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """An object named by a spec.

    `mirrors`: hotkeys with a correct copy; `faults`: a sentence per other mirror. `status`: the
    resulting exit status.
    """

    what: str
    mirrors: tuple[str, ...]
    faults: tuple[str, ...]
    status: int
    num_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All findings. `block`: the final block of the chain reads."""

    block: int
    findings: tuple[Finding, ...]

    @property
    def status(self) -> int:
        """2 if an operator has to change something, else 1 if something did not answer, else 0."""
        return max(finding.status for finding in self.findings)


_UNKNOWN_SHARDS = [
    Finding(what="shards", mirrors=(), faults=("the manifest names them",), status=EXIT_ENDED)
]


def look(spec: RunSpec, chain: Chain, open_bucket: OpenBucket) -> Report:
    """Look for every object of a spec on every mirror. ChainError if the chain is away."""
    graph = existing_subnet(chain)
    records = read_records_of_any_run(chain, graph.block)
    buckets: dict[str, Store] = {}
    findings = [_find_record(hotkey, records, open_bucket, buckets) for hotkey in spec.data.mirrors]
    found, manifest = _find_manifest(spec, buckets)
    findings += [found, _find_theta0(spec, buckets)]
    if manifest is None:
        findings += _UNKNOWN_SHARDS
    else:
        findings += [*_find_tokenizer(manifest, buckets), *_find_shards(manifest, buckets)]
    findings += _find_run(spec, chain, records, open_bucket)
    findings += [] if graph.owner_uid is not None else [_no_burn_uid(graph)]
    return Report(block=graph.block, findings=tuple(findings))


def existing_subnet(chain: Chain) -> Metagraph:
    """The subnet at the last final block; ConfigError for an unknown netuid."""
    try:
        return chain.metagraph(chain.finalized())
    except ChainError as error:
        if error.code == "subnet_not_exists":
            raise ConfigError(str(error)) from error
        raise


def _no_burn_uid(graph: Metagraph) -> Finding:
    fault = f"{unregistered_owner(graph)}; until then validators set no weights"
    return Finding(what=BURN_UID, mirrors=(), faults=(fault,), status=EXIT_OPERATOR)


def _find_record(
    hotkey: str,
    records: Mapping[str, Record],
    open_bucket: OpenBucket,
    buckets: dict[str, Store],
) -> Finding:
    """A mirror's access record; a usable bucket goes into `buckets`."""
    what = f"access record of {hotkey[:SHORT_CHARS]}"
    record = records.get(hotkey)
    if record is None or record.access is None:
        fault = "not on chain: its owner runs `owner.py publish`, or starts its neuron"
        return Finding(what=what, mirrors=(), faults=(fault,), status=EXIT_OPERATOR)
    try:
        buckets[hotkey] = open_bucket(hotkey, record.access)
    except SubnetError as error:
        return Finding(what=what, mirrors=(), faults=(str(error),), status=_status(error))
    return Finding(what=what, mirrors=(hotkey,), faults=(), status=EXIT_ENDED)


def _find_run(
    spec: RunSpec, chain: Chain, records: Mapping[str, Record], open_bucket: OpenBucket
) -> list[Finding]:
    """Whether the validators who vote follow this spec; no finding while nobody can tell."""

    def open_by_hotkey(hotkey: str) -> Store:
        record = records.get(hotkey)
        if record is None or record.access is None:
            raise RecordError("no access record on chain")
        return open_bucket(hotkey, record.access)

    traces = find_traces(Run(spec), chain, open_by_hotkey)
    if traces is None:
        return []
    faults, status = traces.faults, EXIT_ENDED if traces.holders else EXIT_TRY_AGAIN
    if traces.is_foreign:
        faults, status = (traces.describe(Run(spec)),), EXIT_OPERATOR
    return [Finding(what="lineage", mirrors=traces.holders, faults=faults, status=status)]


def _find_manifest(spec: RunSpec, buckets: Mapping[str, Store]) -> tuple[Finding, Manifest | None]:
    parsed: list[Manifest] = []
    digest = bytes.fromhex(spec.data.manifest_digest)

    def get(bucket: Store) -> int:
        data = _get(bucket, digest, MAX_MANIFEST_BYTES)
        manifest = parse_manifest(data)
        check_manifest(manifest, spec, digest)
        parsed.append(manifest)
        return len(data)

    finding = _ask("dataset manifest", buckets, get)
    return finding, parsed[0] if parsed else None


def _find_theta0(spec: RunSpec, buckets: Mapping[str, Store]) -> Finding:
    digest, num_bytes = bytes.fromhex(spec.checkpoint.theta0_digest), index_length(spec)

    def get(bucket: Store) -> int:
        index = _get(bucket, digest, num_bytes)
        parts = parse_index(index, spec)
        for part, length in parts:
            _demand_length(bucket, blob_key(part), "a part", length)
        return len(index) + sum(length for _, length in parts)

    return _ask("theta_0", buckets, get)


def _find_shards(manifest: Manifest, buckets: Mapping[str, Store]) -> list[Finding]:
    """The length of shards and of their digest lists; of many shards, of some spread evenly."""
    shards = shards_to_look_at(manifest)

    def find(index: int) -> Finding:
        what, shard = shards[index]
        digest = bytes.fromhex(shard.sha256)

        def measure(bucket: Store) -> int:
            _demand_length(bucket, blob_key(digest), "digest list", shard.list_bytes)
            num_bytes = manifest.shard_bytes(shard)
            _demand_length(bucket, shard_key(digest), "shard", num_bytes)
            return num_bytes

        return _ask(what, buckets, measure)

    with ThreadPoolExecutor(THREADS) as pool:
        started = [start(pool, partial(find, index)) for index in range(len(shards))]
    return [future.result() for future in started]


def shards_to_look_at(manifest: Manifest) -> list[tuple[str, Shard]]:
    """Name and shard of at most `MAX_SHARDS` shards, and of the held-out shard."""
    total = len(manifest.shards)
    count = min(MAX_SHARDS, total)
    numbers = [place * total // count for place in range(count)]
    of = "" if count == total else f" of {total:,}"
    named = [(f"shard {number}{of}", manifest.shards[number]) for number in numbers]
    return [*named, ("held-out shard", manifest.held_out)]


def _find_tokenizer(manifest: Manifest, buckets: Mapping[str, Store]) -> list[Finding]:
    entry = manifest.tokenizer
    if not entry.num_bytes:
        return []
    digest = bytes.fromhex(entry.sha256)
    return [_ask("tokenizer", buckets, lambda b: len(_get(b, digest, entry.num_bytes)))]


def _demand_length(bucket: Store, key: str, what: str, wanted_bytes: int) -> int:
    """The length of an object; ObjectError unless as stated."""
    num_bytes = bucket.size(key)
    if num_bytes != wanted_bytes:
        raise ObjectError(f"{what} has {num_bytes} bytes, the manifest says {wanted_bytes}")
    return num_bytes


def _get(bucket: Store, digest: bytes, max_bytes: int) -> bytes:
    data = bucket.get(blob_key(digest), max_bytes=max_bytes)
    if hashlib.sha256(data).digest() != digest:
        raise ObjectError("other bytes lie under this digest: its owner publishes again")
    return data


def _ask(what: str, buckets: Mapping[str, Store], ask: Callable[[Store], int]) -> Finding:
    """Ask every mirror; `ask` returns the object's length or raises the fault."""
    mirrors, faults, sizes = [], [], []
    status = EXIT_ENDED
    for hotkey, bucket in buckets.items():
        try:
            sizes.append(ask(bucket))
            mirrors.append(hotkey)
        except SubnetError as error:
            faults.append(f"{hotkey}: {error}")
            status = max(status, _status(error))
    if not buckets:
        faults.append("no mirror's bucket is known")
        status = EXIT_OPERATOR
    return Finding(
        what=what,
        mirrors=tuple(mirrors),
        faults=tuple(faults),
        status=EXIT_ENDED if mirrors else status,
        num_bytes=sizes[0] if sizes else None,
    )


def _status(error: SubnetError) -> int:
    """A missing, wrong or forbidden object needs action by the owner; an outage may pass."""
    lasting = NotFound | Denied | TooLarge | ObjectError | RecordError
    return EXIT_OPERATOR if isinstance(error, lasting) else exit_status(error)


def table(report: Report) -> Table:
    """The findings, a row each."""
    shown = Table("object", Column("bytes", justify="right"), "given by", "what is wrong")
    for finding in report.findings:
        num_bytes = "" if finding.num_bytes is None else f"{finding.num_bytes:,}"
        given_by = ", ".join(hotkey[:SHORT_CHARS] for hotkey in finding.mirrors) or "NOBODY"
        cells = (finding.what, num_bytes, given_by, "; ".join(finding.faults))
        # As texts: square brackets in a fault are no markup.
        shown.add_row(*(Text(one_line(cell)) for cell in cells))
    return shown


def position(spec: RunSpec, head: int) -> str:
    """The current window at block `head` by the run's first spec, as a sentence."""
    schedule = spec.schedule
    window = schedule.schedule().window_of(head)
    if window < 0:
        return f"block {head:,}: window 0 starts at block {schedule.start_block:,}"
    if window >= schedule.num_windows:
        return (
            f"block {head:,}: by its first spec the run has ended; its last window was "
            f"{schedule.num_windows - 1}"
        )
    end = f" of {schedule.num_windows}" if schedule.has_end else ", without a planned end"
    return f"block {head:,}: by its first spec in window {window}{end}"
