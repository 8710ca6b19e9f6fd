"""The chain on disk: every block with the block's changes, to restore after a restart.

Owns an append-only file of JSON lines. The first line holds the chain's secret and config, each
further line a block: hash, extrinsics and changes of the state. A restart loads the changes and
recomputes every hash without executing calls: a later version of this code restores the blocks
of an earlier version, and 10,000 blocks load within seconds. As in substrate, the pool is lost.

A block is on the disk (`fdatasync`) before any client learns of the block, so neither a killed
process nor a power cut takes a published block back. At most the unfinished last line is lost;
the next start cuts this line off. The running chain locks the file against a second process.
"""

import base64
import fcntl
import json
import logging
import os
import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from localnet.chain.blocks import Changes, StoredBlock
from localnet.chain.chain import LocalChain, ProducedBlock, draw_secret
from localnet.chain.config import ChainConfig
from localnet.chain.metadata import ChainMetadata, compact, read_compact
from template.errors import ConfigError, SubnetError

_MAGIC = b'{"journal": "local chain, version 2"'
_FIRST_LINES = 2
_PRINTABLE = (bool, int, float)

logger = logging.getLogger(__name__)


class JournalError(SubnetError):
    """A block could not be written: the chain must stop, and may start again later."""


class Journal:
    """The file, locked and open for appending, with mode 0600 to protect the chain's secret.

    Raises ConfigError if the file cannot be opened, or another process holds the lock.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise ConfigError(
                f"--state {path}: {error.strerror}; give a file in a folder that you can write to"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise ConfigError(
                f"--state {path}: another chain runs on this file ({error.strerror}); stop it, or "
                "give another file"
            ) from error

    def start(self, config: ChainConfig, secret: bytes, genesis: ProducedBlock) -> None:
        """Write the first two lines of a new chain, in place of whatever is there."""
        header = {"secret": secret.hex(), "config": json.loads(config.to_json())}
        first = _MAGIC + b", " + json.dumps(header).encode()[1:] + b"\n"
        self.truncate(0)
        self._append(first + _encode_block(genesis))
        _sync_folder(self._path)

    def write_block(self, made: ProducedBlock) -> None:
        """Write a new block; return once the block is on the disk."""
        self._append(_encode_block(made))

    def lines(self) -> Iterator[bytes]:
        """The whole lines, each with the line end; leaves an unfinished last line out."""
        with self._path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))

    def truncate(self, size_bytes: int) -> None:
        """Cut off the bytes after this length; a shorter file stays unchanged."""
        if os.fstat(self._descriptor).st_size > size_bytes:
            os.ftruncate(self._descriptor, size_bytes)

    def close(self) -> None:
        """Close and unlock the file."""
        os.close(self._descriptor)

    def _append(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise JournalError(
                f"--state {self._path}: {error.strerror}, so the chain stops; no block that "
                "anybody saw is lost. Make room there and start it again with the same flags"
            ) from error


def open_chain(
    path: Path, config: ChainConfig, metadata: ChainMetadata, *, now_ms: int
) -> tuple[LocalChain, Journal]:
    """Continue the chain in `path`, or start a chain there.

    Raises ConfigError for a file written with different flags, a damaged file, a file without a
    journal, or a file locked by another process.
    """
    journal = Journal(path)
    try:
        return _open(journal, path, config, metadata, now_ms), journal
    except BaseException:
        journal.close()
        raise


def _open(
    journal: Journal, path: Path, config: ChainConfig, metadata: ChainMetadata, now_ms: int
) -> LocalChain:
    with path.open("rb") as file:
        beginning = file.read(len(_MAGIC))
    if not _MAGIC.startswith(beginning):
        raise ConfigError(f"--state {path} is not a journal of this chain: give another file")
    chain = _Loader(journal, path, config, metadata).load()
    if chain is None:
        secret = draw_secret(config.seed)
        chain = LocalChain(config, metadata, secret=secret, now_ms=now_ms)
        journal.start(config, secret, chain.genesis)
    return chain


class _Loader:
    """Turns the lines of a journal into a chain."""

    def __init__(
        self, journal: Journal, path: Path, config: ChainConfig, metadata: ChainMetadata
    ) -> None:
        self._journal = journal
        self._path = path
        self._config = config
        self._metadata = metadata

    def load(self) -> LocalChain | None:
        """The chain up to the last whole line, None without a block.

        Cuts off the bytes after the last whole line.
        """
        sizes = [len(line) for line in self._journal.lines()]
        # Nobody heard of a chain whose first write, of two lines, did not get through.
        if len(sizes) < _FIRST_LINES:
            return None
        try:
            chain = self._chain(len(sizes))
        except ValueError as error:
            # One bad line at the end was being written when the power went.
            chain = self._without_last(sizes, error)
            sizes.pop()
        self._journal.truncate(sum(sizes))
        return chain

    def _without_last(self, sizes: list[int], error: ValueError) -> LocalChain:
        if len(sizes) == _FIRST_LINES:
            raise self._damaged(error) from error
        try:
            chain = self._chain(len(sizes) - 1)
        except ValueError as earlier:
            raise self._damaged(earlier) from earlier
        logger.warning("--state %s: dropped a last block that was not written in full", self._path)
        return chain

    def _chain(self, num_lines: int) -> LocalChain:
        lines = islice(self._journal.lines(), num_lines)
        try:
            header = json.loads(next(lines))
            written, secret = dict(header["config"]), bytes.fromhex(header["secret"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("its first line cannot be read") from error
        self._check_config(written)
        return LocalChain(
            self._config,
            self._metadata,
            secret=secret,
            now_ms=0,
            history=_decode_blocks(lines),
        )

    def _check_config(self, written: dict[str, Any]) -> None:
        """Raise ConfigError with the names of flags different from the chain's first start."""
        was, now = _flat(written), _flat(json.loads(self._config.to_json()))
        others = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
        if not others:
            return
        differences = ", ".join(_difference(name, was.get(name), now.get(name)) for name in others)
        raise ConfigError(
            f"--state {self._path} was written with another {differences}: start with the flags of "
            "its first start, or give another file"
        )

    def _damaged(self, error: ValueError) -> ConfigError:
        return ConfigError(
            f"--state {self._path} is damaged ({error}): restore it from a copy, or give another "
            "file for a new chain"
        )


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config, including the fields of the subnet defaults."""
    return {**config, **config.get("subnet", {}), "subnet": None}


def _difference(name: str, was: object, now: object) -> str:
    """A flag's name, with numeric values only: text may be secret or long."""
    flag = "--endow" if name == "endowments_rao" else "--" + name.replace("_", "-")
    for unit in ("-blocks", "-s", "-rao"):
        flag = flag.removesuffix(unit)
    values = isinstance(was, _PRINTABLE) and isinstance(now, _PRINTABLE)
    return f"{flag} ({name} was {was}, is {now})" if values else flag


def _encode_block(made: ProducedBlock) -> bytes:
    packed = bytearray()
    for key, value in made.changes:
        packed += compact(len(key)) + key
        packed += b"\x00" if value is None else b"\x01" + compact(len(value)) + value
    record = {
        "hash": made.block.hash.hex(),
        "extrinsics": [raw.hex() for raw in made.block.extrinsics],
        "changes": base64.b85encode(zlib.compress(bytes(packed), 1)).decode(),
    }
    return json.dumps(record).encode() + b"\n"


def _decode_blocks(lines: Iterable[bytes]) -> Iterator[StoredBlock]:
    """The blocks of whole lines; ValueError with the number of a damaged line."""
    for number, line in enumerate(lines):
        try:
            record = json.loads(line)
            changes = _unpack(zlib.decompress(base64.b85decode(record["changes"])))
            yield StoredBlock(
                hash=bytes.fromhex(record["hash"]),
                extrinsics=tuple(bytes.fromhex(raw) for raw in record["extrinsics"]),
                changes=changes,
            )
        except (ValueError, KeyError, TypeError, IndexError, zlib.error) as error:
            raise ValueError(f"the line of block {number} cannot be read") from error


def _unpack(packed: bytes) -> Changes:
    changes: Changes = []
    position = 0
    while position < len(packed):
        key, position = _read_bytes(packed, position)
        has_value, position = packed[position], position + 1
        value: bytes | None = None
        if has_value:
            value, position = _read_bytes(packed, position)
        changes.append((key, value))
    return changes


def _read_bytes(data: bytes, position: int) -> tuple[bytes, int]:
    length, start = read_compact(data, position)
    return data[start : start + length], start + length


def _sync_folder(path: Path) -> None:
    """Make the file's name survive a power cut, too."""
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
