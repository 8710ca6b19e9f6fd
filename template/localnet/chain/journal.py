"""The chain on disk: what made each block, so that a restarted process makes it again.

Owns one append-only file of JSON lines: the first holds the secret and the genesis time,
each further one a block's time, extrinsics and hash. It survives a killed process; it is
not synced to disk at every block, so a power cut may lose the last ones.
"""

import json
import os
from pathlib import Path
from typing import Any, TextIO

from template.errors import ConfigError
from template.localnet.chain.chain import LocalChain, ProducedBlock, draw_secret
from template.localnet.chain.config import ChainConfig
from template.localnet.chain.extrinsics import InvalidTransaction
from template.localnet.chain.metadata import ChainMetadata


class Journal:
    """Where blocks are written as they are made. The file holds a secret: mode 0600."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._file: TextIO = os.fdopen(descriptor, "a", encoding="ascii")

    def write_genesis(self, secret: bytes, chain: LocalChain) -> None:
        self._write(
            {
                "secret": secret.hex(),
                "now_ms": chain.now_ms,
                "hash": chain.genesis_hash.hex(),
            }
        )

    def write_block(self, chain: LocalChain, made: ProducedBlock) -> None:
        """Append the block that has just been made; its first extrinsic is its own time."""
        signed = [raw.hex() for raw in made.block.extrinsics[1:]]
        self._write({"now_ms": chain.now_ms, "extrinsics": signed, "hash": made.block.hash.hex()})

    def close(self) -> None:
        self._file.close()

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


def open_chain(
    path: Path, config: ChainConfig, metadata: ChainMetadata, *, now_ms: int
) -> tuple[LocalChain, Journal]:
    """Continue the chain in `path`, or start one there.

    A last line that was cut off by a kill is dropped. Raises ConfigError if the file was
    written with other flags, or is no journal.
    """
    records = _read(path)
    if not records:
        secret = draw_secret(config.seed)
        chain = LocalChain(config, metadata, secret=secret, now_ms=now_ms)
        journal = Journal(path)
        journal.write_genesis(secret, chain)
        return chain, journal
    try:
        chain = _replay(records, config, metadata)
    except (KeyError, TypeError, ValueError, InvalidTransaction) as error:
        raise ConfigError(f"{path} is not a chain's journal: {error!r}; delete it") from error
    return chain, Journal(path)


def _replay(
    records: list[dict[str, Any]], config: ChainConfig, metadata: ChainMetadata
) -> LocalChain:
    genesis, *blocks = records
    secret = bytes.fromhex(genesis["secret"])
    chain = LocalChain(config, metadata, secret=secret, now_ms=genesis["now_ms"])
    if chain.genesis_hash.hex() != genesis["hash"]:
        raise ConfigError("the state was written with other flags: use those, or a new file")
    for record in blocks:
        for raw in record["extrinsics"]:
            chain.submit(bytes.fromhex(raw))
        made = chain.produce_block(record["now_ms"])
        if made.block.hash.hex() != record["hash"]:
            raise ValueError(f"block {made.block.header.number} replays differently")
    return chain


def _read(path: Path) -> list[dict[str, Any]]:
    """Whole lines of the file, which is truncated to them; [] if there is none."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except ValueError as error:
        raise ConfigError(f"{path} is not a chain's journal: {error}; delete it") from error
