"""Sources: the files and datasets that inputs name, and the parts that workers read.

Owns the kinds of sources and how a source is cut into parts. `readers` reads a part.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from template.data.corpus import SDIST_SHA256
from template.data.preparing.extras import load_datasets, open_parquet
from template.errors import ConfigError
from template.files import reason, remedy

TEXT: Final = "text"
JSONL: Final = "jsonl"
GZIP: Final = "jsonl.gz"
ZSTD: Final = "jsonl.zst"
PARQUET: Final = "parquet"
HUB: Final = "datasets"
WORKS: Final = "works"
"""The kinds of a source; `works` is the text that `make text` fetches."""

HUB_PREFIX: Final = "hf:"
DEFAULT_SPLIT: Final = "train"
_SUFFIXES: Final = {
    **dict.fromkeys((".txt", ".text", ".md"), TEXT),
    **{
        f".{name}{packed}": kind
        for name in ("jsonl", "ndjson", "json")
        for packed, kind in (("", JSONL), (".gz", GZIP), (".zst", ZSTD))
    },
    ".parquet": PARQUET,
}
KNOWN_SUFFIXES: Final = ", ".join(_SUFFIXES)
_DATASETS_FILES: Final = ("dataset_info.json", "dataset_dict.json")
MAX_FILES_OF_PART: Final = 1_000
HUB_ROWS_OF_PART: Final = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file, or a `datasets` dataset: `path` is its folder, or `hf:NAME[@REVISION][:SPLIT]`.

    `name`: the path from the input on, which tells a reader of the card nothing of this machine.
    `num_bytes` of a dataset of the hub is the size of its rows in memory. `changed_ns`: time of
    the last change, 0 for a dataset.
    """

    path: str
    name: str
    kind: str
    num_bytes: int
    changed_ns: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What one worker reads at a time: sources `first` to `last`, whole or from `start` to `end`.

    `start` and `end` are bytes of JSON lines, row groups of Parquet, rows of `datasets`; `end` 0
    means whole sources. `num_bytes`: of the input, for the progress.
    """

    first: int
    last: int
    start: int = 0
    end: int = 0
    num_bytes: int = 0


def find_sources(inputs: Sequence[str]) -> tuple[list[Source], list[str]]:
    """The sources of all inputs in order, folders sorted by path, and files left out of folders.

    Raises ConfigError for an input that is not there, given twice, or of an unknown kind.
    """
    sources: list[Source] = []
    left_out: list[str] = []
    for name in inputs:
        if name.startswith(HUB_PREFIX):
            sources.append(_hub_source(name))
            continue
        path = Path(name)
        if any((path / marker).is_file() for marker in _DATASETS_FILES):
            sources.append(_hub_source(str(path.resolve())))
        elif path.is_dir():
            found, others = _folder_sources(path.resolve())
            sources += found
            left_out += others
        else:
            sources.append(_file_source(path))
    _refuse_repeats(sources)
    return sources, left_out


def _folder_sources(folder: Path) -> tuple[list[Source], list[str]]:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    known = [path for path in files if _kind(path) is not None]
    if not known:
        raise ConfigError(
            f"input {folder}: no file in it ends in {KNOWN_SUFFIXES}; name a folder of texts, "
            "JSON lines or Parquet files"
        )
    others = [str(path) for path in files if _kind(path) is None]
    return [_file_source(path, folder.parent) for path in known], others


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), None)


def _file_source(path: Path, above: Path | None = None) -> Source:
    """The source of a file; `above`: the folder that its name begins under, if not its own."""
    try:
        stat = path.stat()
    except OSError as error:
        raise ConfigError(
            f"input {path}: cannot be read ({reason(error)}); {remedy(path, error)}. A dataset of "
            f"the Hugging Face hub is named {HUB_PREFIX}OWNER/NAME"
        ) from error
    kind = _kind(path)
    if kind is None:
        if not path.name.endswith(".tar.gz") or file_sha256(path) != SDIST_SHA256:
            raise ConfigError(
                f"input {path}: its name ends in none of {KNOWN_SUFFIXES}; rename it, or turn it "
                "into one of these"
            )
        kind = WORKS
    full = path.absolute()
    return Source(
        path=str(full),
        name=full.relative_to(above or full.parent).as_posix(),
        kind=kind,
        num_bytes=stat.st_size,
        changed_ns=stat.st_mtime_ns,
    )


def _refuse_repeats(sources: Iterable[Source]) -> None:
    seen: set[str] = set()
    for source in sources:
        if source.path in seen:
            raise ConfigError(f"input {source.path}: given twice; name it once")
        seen.add(source.path)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file. ConfigError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(
            f"input {path}: cannot be read ({reason(error)}); {remedy(path, error)}"
        ) from error


def open_rows(source: Source) -> Any:
    """The rows of a `datasets` source. ConfigError with the remedy if the hub has no such one."""
    return _rows(source.path)


def _hub_source(name: str) -> Source:
    rows = _rows(name)
    shown = name if name.startswith(HUB_PREFIX) else Path(name).name
    return Source(path=name, name=shown, kind=HUB, num_bytes=int(rows.data.nbytes), changed_ns=0)


def _rows(name: str) -> Any:
    datasets = load_datasets(name)
    wanted, split = name, DEFAULT_SPLIT
    try:
        if not name.startswith(HUB_PREFIX):
            found = datasets.load_from_disk(name)
            if not isinstance(found, datasets.DatasetDict):
                return found
        else:
            wanted, _, given = name.removeprefix(HUB_PREFIX).partition(":")
            split = given or DEFAULT_SPLIT
            wanted, _, revision = wanted.partition("@")
            found = {split: datasets.load_dataset(wanted, split=split, revision=revision or None)}
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"input {name}: `datasets` cannot load {wanted}: {error}") from error
    if split not in found:
        raise ConfigError(
            f"input {name}: has the splits {', '.join(found)} and no {split}; name the folder of "
            "a split"
        )
    return found[split]


def cut_sources(sources: Sequence[Source], part_bytes: int) -> Iterator[Part]:
    """Parts of about `part_bytes`, in order; texts are read many to a part."""
    first = 0
    while first < len(sources):
        source = sources[first]
        last = first
        if source.kind == TEXT:
            last = _last_text(sources, first, part_bytes)
            num_bytes = sum(source.num_bytes for source in sources[first : last + 1])
            yield Part(first=first, last=last, num_bytes=num_bytes)
        elif source.kind == JSONL:
            for start in range(0, source.num_bytes, part_bytes):
                end = min(start + part_bytes, source.num_bytes)
                yield Part(first=first, last=first, start=start, end=end, num_bytes=end - start)
        elif source.kind in (PARQUET, HUB):
            yield from _cut_rows(source, first, part_bytes)
        else:
            yield Part(first=first, last=first, num_bytes=source.num_bytes)
        first = last + 1


def _last_text(sources: Sequence[Source], first: int, part_bytes: int) -> int:
    last, num_bytes = first, sources[first].num_bytes
    while last + 1 < len(sources) and last + 1 - first < MAX_FILES_OF_PART:
        source = sources[last + 1]
        num_bytes += source.num_bytes
        if source.kind != TEXT or num_bytes > part_bytes:
            break
        last += 1
    return last


def _cut_rows(source: Source, number: int, part_bytes: int) -> Iterator[Part]:
    if source.kind == PARQUET:
        with open_parquet(source.path) as file:
            total = file.num_row_groups
        step = max(1, total * part_bytes // max(1, source.num_bytes))
    else:
        total, step = open_rows(source).num_rows, HUB_ROWS_OF_PART
    for start in range(0, total, step):
        end = min(start + step, total)
        share = source.num_bytes * end // total - source.num_bytes * start // total
        yield Part(first=number, last=number, start=start, end=end, num_bytes=share)
