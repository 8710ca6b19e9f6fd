"""Objects named by digest in the run spec: the dataset and theta_0, from mirror or validator."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Protocol

from torch import Tensor

from template.bucket.carried import Companions
from template.bucket.publisher import Publisher
from template.context import ReadContext
from template.data.kept import KeptFiles
from template.data.manifest import (
    MAX_MANIFEST_BYTES,
    Manifest,
    Shard,
    TokenizerEntry,
    manifest_digest,
    parse_manifest,
)
from template.data.pages import CacheLimits, OnRead, PageReader
from template.data.source import IsRight
from template.errors import (
    ConfigError,
    NodeTrouble,
    NotFound,
    ObjectError,
    StoreError,
    Unavailable,
)
from template.peers.blobs import fetch_from_any, fetch_into_from_any, fetch_range_from_any
from template.peers.client import Peers
from template.protocol.keys import shard_key
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.protocol.strangers import quoted
from template.training.companions import companion_files
from template.training.theta0 import load_theta0

CACHE_FOLDER = "segments"
MAX_PADDING = 1024
"""Words of a model that no token has, fewer than that: vocabularies are rounded up to a multiple of
128, or of 128 for each of 8 devices. More would be parameters that nothing trains."""


def downloaded_parts(state_dir: Path) -> KeptFiles:
    """Parts of theta_0 or of a checkpoint on disk: an interrupted download continues."""
    return KeptFiles(state_dir / "joining", ".part")


def ignore_object(_sha256: str, _data: bytes) -> None:
    """The `on_read` of a node without copies to publish."""


class Offers(Protocol):
    """Takes files that other nodes may need from this node's bucket, as `bucket.Publisher`."""

    def offer_file(self, sha256: str, path: Path) -> None:
        """A file's digest and place; it may be removed after the call, and does not change."""


class NotOffered:
    """The `Offers` of a node without a bucket for others."""

    def offer_file(self, sha256: str, path: Path) -> None:
        """As in `Offers`."""


NOT_OFFERED = NotOffered()


def open_pages(
    context: ReadContext,
    peers: Peers,
    on_read: OnRead = ignore_object,
    limits: CacheLimits | None = None,
    reads_ahead: bool = False,
    spec: RunSpec | None = None,
) -> PageReader:
    """The dataset of a spec, of the run's first without one, fetched by segments when read.

    `reads_ahead` as in `PageReader`. `on_read` gets the manifest; shards are for `bucket.mirror` to
    copy. A dataset of a spec that the run has not adopted is Unavailable as long as no bucket has
    it.
    """
    spec = context.run.first if spec is None else spec
    peers.refresh()
    key, digest = "data.manifest_digest", spec.data.manifest_digest
    data = fetch_named_object(context, peers, key, digest, MAX_MANIFEST_BYTES, spec)
    try:
        manifest = parse_manifest(data)
    except ObjectError as error:
        raise _wrong_object(context, key, error, spec) from error
    check_manifest(manifest, spec, bytes.fromhex(digest))
    on_read(digest, data)
    folder = context.state_dir / CACHE_FOLDER
    return PageReader(
        manifest,
        PeersSource(context, peers, spec.data.mirrors),
        cache_dir=folder,
        limits=limits,
        reads_ahead=reads_ahead,
    )


class Datasets:
    """The datasets of a run, each opened when first asked for."""

    def __init__(self, open_spec: Callable[[RunSpec], PageReader], run: Run) -> None:
        """`open_spec` opens the dataset of a spec, as `open_pages`."""
        self._open, self._run = open_spec, run
        self._opened: dict[str, PageReader] = {}
        self._lock = Lock()

    def at(self, window: int) -> PageReader:
        """The dataset of a window. ConfigError and Unavailable as of `open_pages`."""
        return self.of(self._run.at(window))

    def of(self, spec: RunSpec) -> PageReader:
        """The dataset of a spec of the run."""
        digest = spec.data.manifest_digest
        with self._lock:
            if digest not in self._opened:
                self._opened[digest] = self._open(spec)
            found = self._opened[digest]
        check_manifest(found.manifest, spec, bytes.fromhex(digest))  # of another spec's, perhaps
        return found


def open_datasets(
    context: ReadContext,
    peers: Peers,
    window: int,
    on_read: OnRead = ignore_object,
    *,
    reads_ahead: bool = False,
) -> Datasets:
    """The datasets of a run, that of `window` opened now; other arguments as of `open_pages`."""

    def open_spec(spec: RunSpec) -> PageReader:
        return open_pages(context, peers, on_read, reads_ahead=reads_ahead, spec=spec)

    datasets = Datasets(open_spec, context.run)
    datasets.at(window)  # a run without its data is told at the start
    return datasets


def fetch_tokenizer(
    context: ReadContext,
    peers: Peers,
    entry: TokenizerEntry,
    on_read: OnRead = ignore_object,
    spec: RunSpec | None = None,
) -> bytes:
    """The `tokenizer.json` of a spec's dataset, of the right digest and unparsed; empty for `byte`.

    `spec`: the run's first without one.
    """
    if not entry.num_bytes:
        return b""
    key = "data.tokenizer"
    data = fetch_named_object(context, peers, key, entry.sha256, entry.num_bytes, spec)
    if len(data) != entry.num_bytes:
        raise ConfigError(
            f"{_named_in(context, spec)}: {key} has {len(data)} bytes, the manifest says "
            f"{entry.num_bytes}. Ask the subnet's owner"
        )
    on_read(entry.sha256, data)
    return data


def fetch_companions(
    context: ReadContext,
    peers: Peers,
    entry: TokenizerEntry,
    spec: RunSpec,
    on_read: OnRead = ignore_object,
) -> dict[str, bytes]:
    """The `companion_files` of checkpoints that the payloads of `spec` lead to.

    `entry`: of the spec's dataset; `on_read` gets the `tokenizer.json`.
    """
    data = fetch_tokenizer(context, peers, entry, on_read, spec)
    try:
        return companion_files(spec, entry, data)
    except ObjectError as error:
        raise _wrong_object(context, "data.tokenizer", error, spec) from error


def carry_companions(
    context: ReadContext, peers: Peers, datasets: Datasets, publisher: Publisher, spec: RunSpec
) -> None:
    """Give the validator's publisher the companions of checkpoints that a spec's payloads lead to.

    Nothing the second time. Errors as of `fetch_companions`.
    """
    if publisher.carried.has(spec):
        return
    entry = datasets.of(spec).manifest.tokenizer
    files = fetch_companions(context, peers, entry, spec, publisher.offer)
    publisher.carried.add(spec, Companions(entry=entry, files=files))


class PeersSource:
    """The `Source` of a node: mirrors first, of the dataset's spec and the run, then the
    validators' copies.
    """

    def __init__(self, context: ReadContext, peers: Peers, first: Sequence[str] = ()) -> None:
        """`first`: the mirrors of the dataset's spec, which the run may not have adopted yet."""
        self._context, self._peers, self._first = context, peers, tuple(first)

    def digest_list(self, shard: Shard, *, is_patient: bool) -> bytes:
        digest, num_bytes = bytes.fromhex(shard.sha256), shard.list_bytes
        if not is_patient:
            return self._peers.fetch_blob(self._mirrors(), digest, num_bytes)
        with _telling(shard):
            return fetch_from_any(
                self._context, self._peers, digest, num_bytes, exact=True, first=self._first
            )

    def segments(
        self, shard: Shard, start: int, length: int, is_right: IsRight, *, is_patient: bool
    ) -> bytes:
        key = shard_key(bytes.fromhex(shard.sha256))
        if not is_patient:
            return self._peers.fetch_range(self._mirrors(), key, start, length, is_right)
        with _telling(shard):
            return fetch_range_from_any(
                self._context, self._peers, key, start, length, is_right, first=self._first
            )

    def _mirrors(self) -> list[str]:
        """Mirrors that answered lately. Validators are looked up on chain: not from any thread."""
        of_run = (h for s in reversed(self._context.run.specs) for h in s.data.mirrors)
        mirrors = dict.fromkeys((*self._first, *of_run))
        return [h for h in mirrors if not self._peers.is_troubled(h)]


@contextmanager
def _telling(shard: Shard) -> Iterator[None]:
    """Every StoreError but this node's own trouble as Unavailable, with the remedy."""
    try:
        yield
    except NodeTrouble:
        raise
    except StoreError as error:
        raise Unavailable(
            f"dataset shard {shard.sha256}: no mirror of data.mirrors and no validator serves it "
            f"({error}); tell the owners of these buckets"
        ) from error


def fetch_theta0(
    context: ReadContext, peers: Peers, offers: Offers = NOT_OFFERED
) -> Mapping[str, Tensor]:
    """The run's first parameters; `offers` gets index and parts.

    Parts stay on disk until the node has saved a checkpoint: an interrupted download goes on, in
    the middle of a part too.
    """
    key, kept = "checkpoint.theta0_digest", downloaded_parts(context.state_dir)

    def read_index(digest: bytes, num_bytes: int) -> bytes:
        data = kept.get(digest, num_bytes)
        if data is None:
            data = fetch_named_object(context, peers, key, digest.hex(), num_bytes)
            kept.put(digest, data)
        offers.offer_file(digest.hex(), kept.path(digest))
        return data

    def read_part(digest: bytes, num_bytes: int) -> Path:
        path = kept.find(digest, num_bytes)
        if path is None:
            with _naming(context, key):
                fetch_into_from_any(context, peers, digest, num_bytes, kept.coming(digest))
            path = kept.accept(digest)
        offers.offer_file(digest.hex(), path)
        return path

    try:
        return load_theta0(read_index, context.run.first, read_part, context.spreader)
    except ObjectError as error:
        raise _wrong_object(context, key, error) from error


def fetch_named_object(
    context: ReadContext,
    peers: Peers,
    key: str,
    digest: str,
    max_bytes: int,
    spec: RunSpec | None = None,
) -> bytes:
    """The object named by `key` of a spec, from the spec's mirrors, the run's or any validator.

    `spec`: the run's first without one. ConfigError if every bucket answers and the object is in no
    bucket; Unavailable if a later try may succeed, as NodeTrouble if this node could not ask. Of a
    spec that the run has not adopted, an object in no bucket may still be uploaded: Unavailable.
    """
    first = () if spec is None else spec.data.mirrors
    with _naming(context, key, spec):
        return fetch_from_any(context, peers, bytes.fromhex(digest), max_bytes, first=first)


def _is_proposed(context: ReadContext, spec: RunSpec | None) -> bool:
    return spec is not None and spec.spec_id not in {each.spec_id for each in context.run}


def _named_in(context: ReadContext, spec: RunSpec | None) -> str:
    """Which spec names an object, for the head of an error."""
    if spec is None or spec.spec_id == context.run.run_id:
        return f"--run {context.run_file}"
    return f"run spec {spec.spec_id.hex()}"


@contextmanager
def _naming(context: ReadContext, key: str, spec: RunSpec | None = None) -> Iterator[None]:
    """The errors of `fetch_named_object`."""
    where = _named_in(context, spec)
    try:
        yield
    except NotFound as error:
        if _is_proposed(context, spec):
            raise Unavailable(
                f"{where}: {key} is at none of its data.mirrors, nor at any validator ({error}): "
                "upload the dataset with `tessera data upload`"
            ) from error
        if where != f"--run {context.run_file}":
            raise ConfigError(
                f"{where}: {key} is at none of data.mirrors, nor at any validator ({error}): ask "
                "the validators that have adopted it"
            ) from error
        raise ConfigError(
            f"--run {context.run_file}: {key} is at none of data.mirrors, nor at any validator "
            f"({error}). Get the file again from the subnet's owner, and check that --netuid and "
            "--subtensor.network are those of the run"
        ) from error
    except NodeTrouble:
        raise
    except StoreError as error:
        raise Unavailable(
            f"{where}: no mirror of data.mirrors and no validator serves {key} now ({error}). "
            "Start again later, or ask the owners of these buckets"
        ) from error


def check_manifest(manifest: Manifest, spec: RunSpec, digest: bytes) -> None:
    """ConfigError unless this is the spec's dataset, and fits the spec's model."""
    if manifest_digest(manifest) != digest:
        raise ConfigError(f"dataset manifest from the mirrors is not the spec's {digest.hex()}")
    pairs: Sequence[tuple[str, object, object]] = (
        ("data.tokenizer", spec.data.tokenizer, manifest.tokenizer.name),
        ("data.page_tokens", spec.data.page_tokens, manifest.page_tokens),
        ("data.segment_pages", spec.data.segment_pages, manifest.segment_pages),
    )
    for name, wanted, found in pairs:
        if wanted != found:
            raise ConfigError(f"run spec: {name} is {wanted!r}, the dataset's is {quoted(found)}")
    _check_vocabulary(spec.model.vocab_size, manifest.tokenizer.vocab_size)
    if spec.evaluation.held_out_pages > manifest.num_pages:
        raise ConfigError(
            f"run spec: evaluation.held_out_pages is {spec.evaluation.held_out_pages}, the dataset "
            f"has {manifest.num_pages} pages"
        )


def _check_vocabulary(num_words: int, num_tokens: int) -> None:
    """ConfigError unless the model has a word for each token, and little more than that."""
    said = f"run spec: model.vocab_size is {num_words}, the dataset's is {num_tokens}"
    if num_words < num_tokens:
        raise ConfigError(said)
    if num_words - num_tokens >= MAX_PADDING:
        raise ConfigError(f"{said}: padding takes fewer than {MAX_PADDING} words")


def _wrong_object(
    context: ReadContext, key: str, error: ObjectError, spec: RunSpec | None = None
) -> ConfigError:
    """The bytes have the digest named in the run spec, so every copy has the same fault."""
    whom = "who drafted it" if _is_proposed(context, spec) else "the subnet's owner"
    return ConfigError(f"{_named_in(context, spec)}: {key}: {error}. Ask {whom}")
