"""The chain, the clock and the buckets of a subnet in a single process.

`FakeChain` keeps the promises of the `Chain` protocol: reads at any past block, and the same
answer every time. Time is counted in blocks, and the next block comes when every running node
waits. Does not own the nodes (`simulation.swarm`) or faults (`simulation.faults`).
"""

import hashlib
import threading
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from template.chain import Metagraph, Neuron, WeightTimes
from template.chain.commands import Commands
from template.chain.waiter import Waiter
from template.context import NodeContext
from template.errors import ChainError
from template.protocol.record import Access, AccessKind
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.store.memory import MemoryStore
from template.training.model import payload_format

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


PUBLIC_TIMES = WeightTimes(rate_limit_blocks=0, cutoff_blocks=5000, reveal_epochs=0)
"""The public chain's cut-off; no rate limit, and weights in the clear."""


def hotkey_of(name: str) -> str:
    """A valid SS58 address; its key is the SHA-256 of the name."""
    body = bytes([42]) + hashlib.sha256(name.encode()).digest()
    raw = body + hashlib.blake2b(b"SS58PRE" + body, digest_size=64).digest()[:2]
    number, text = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = _ALPHABET[digit] + text
    return text


class VirtualTime:
    """A clock of blocks: the next block comes when every running node waits."""

    def __init__(self) -> None:
        self.block = 0
        self._running = 0
        self._waiting = 0
        self._condition = threading.Condition()

    def enter(self) -> None:
        """Count a node as running."""
        with self._condition:
            self._running += 1

    def leave(self) -> None:
        """Count a running node as ended."""
        with self._condition:
            self._running -= 1
            self._pass_if_all_wait()

    def sleep(self, _seconds: float) -> None:
        """Wait for the next block, however many seconds were asked for."""
        with self._condition:
            self._waiting += 1
            block = self.block
            self._pass_if_all_wait()
            while self.block == block:
                self._condition.wait()

    def now_s(self) -> float:
        """The block number as seconds: one block a second."""
        return float(self.block)

    def _pass_if_all_wait(self) -> None:
        # Without a running node, a caller that waits is alone: nobody else would bring the block.
        if self._waiting and self._waiting >= self._running:
            self.block += 1
            self._waiting = 0
            self._condition.notify_all()


@dataclass
class Ledger:
    """The state shared by all `FakeChain`s of a world."""

    time: VirtualTime
    neurons: tuple[Neuron, ...] = ()
    finality_lag: int = 2
    kept_blocks: int = 10**9
    """Blocks behind the head with readable state."""
    commitments: dict[str, tuple[list[int], list[bytes]]] = field(default_factory=dict)
    """hotkey -> (blocks in ascending order, the record published in each)."""
    weights: dict[str, list[dict[int, float]]] = field(default_factory=dict)
    weight_blocks: dict[str, list[int]] = field(default_factory=dict)
    """hotkey -> the block of each of its `weights`."""
    owner_hotkey: str | None = None
    """None: the hotkey of uid 0."""
    least_version_key: int = 0
    weight_times: WeightTimes = PUBLIC_TIMES
    """What the chain says; this ledger itself takes every row, at once and for ever."""
    dropped: dict[str, int] = field(default_factory=dict)
    """hotkey -> the first block without its registration."""
    reorganised: list[tuple[int, int]] = field(default_factory=list)
    """(block, depth): at `block`, the `depth` blocks before were replaced."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def neurons_at(self, block: int) -> tuple[Neuron, ...]:
        """Neurons registered after a block."""
        return tuple(n for n in self.neurons if self.dropped.get(n.hotkey, block + 1) > block)

    def head(self) -> int:
        """The best block; after a reorganisation it climbs two blocks at a time."""
        block = self.time.block
        behind = [depth - (block - since) for since, depth in self.reorganised]
        return block - max(0, *behind, 0)

    def reorganise(self, depth: int, keep: bool) -> int:
        """Replace the last `depth` blocks; returns the number of records in these blocks.

        With `keep` the records come again in the next block, otherwise the records are lost.
        Raises ValueError if any of the blocks is final.
        """
        if not 0 < depth <= self.finality_lag:
            raise ValueError(f"depth {depth}: 1 to {self.finality_lag} blocks are not finalised")
        with self.lock:
            block, moved = self.time.block, 0
            self.reorganised.append((block, depth))
            for blocks, values in self.commitments.values():
                first, end = bisect_right(blocks, block - depth), bisect_right(blocks, block)
                moved += end - first
                blocks[first:end] = [block + 1] * (end - first) if keep else []
                values[first:end] = values[first:end] if keep else []
        return moved

    def salt(self, block: int) -> bytes:
        """Bytes that give a block another hash than the replaced block of the same number."""
        times = sum(since - depth < block <= since for since, depth in self.reorganised)
        return bytes(times)


class FakeChain:
    """A hotkey's view of a ledger. A write lands in the next block, as on a real chain."""

    def __init__(self, ledger: Ledger, hotkey: str) -> None:
        self._ledger = ledger
        self._hotkey = hotkey

    def head(self) -> int:
        return self._ledger.head()

    def finalized(self) -> int:
        return max(0, self._ledger.time.block - self._ledger.finality_lag)

    def block_hash(self, block: int) -> bytes:
        self._require(block)
        number = block.to_bytes(8, "little")
        return hashlib.sha256(b"block" + number + self._ledger.salt(block)).digest()

    def metagraph(self, block: int) -> Metagraph:
        self._require_state(block)
        return Metagraph(
            netuid=1,
            block=block,
            tempo_blocks=8,
            owner_hotkey=self._ledger.owner_hotkey or self._ledger.neurons[0].hotkey,
            neurons=tuple(self._dated(neuron, block) for neuron in self._ledger.neurons_at(block)),
        )

    def _dated(self, neuron: Neuron, block: int) -> Neuron:
        """The neuron with the block of its last weights up to `block`."""
        with self._ledger.lock:
            blocks = self._ledger.weight_blocks.get(neuron.hotkey, [])
            position = bisect_right(blocks, block)
        return replace(neuron, last_update=blocks[position - 1]) if position else neuron

    def commitments(self, block: int) -> Mapping[str, bytes]:
        self._require_state(block)
        found = {}
        with self._ledger.lock:
            for hotkey, (blocks, values) in self._ledger.commitments.items():
                position = bisect_right(blocks, block)
                if position:
                    found[hotkey] = values[position - 1]
        return found

    def weights(self, block: int) -> Mapping[int, Mapping[int, float]]:
        self._require_state(block)
        found = {}
        with self._ledger.lock:
            for neuron in self._ledger.neurons_at(block):
                blocks = self._ledger.weight_blocks.get(neuron.hotkey, [])
                position = bisect_right(blocks, block)
                if position:
                    found[neuron.uid] = self._ledger.weights[neuron.hotkey][position - 1]
        return found

    def weight_times(self, block: int) -> WeightTimes:
        self._require_state(block)
        return self._ledger.weight_times

    def least_version_key(self) -> int:
        return self._ledger.least_version_key

    def publish(self, record: bytes) -> None:
        with self._ledger.lock:
            blocks, values = self._ledger.commitments.setdefault(self._hotkey, ([], []))
            blocks.append(self._ledger.time.block + 1)
            values.append(record)

    def set_weights(self, weights: Mapping[int, float]) -> None:
        with self._ledger.lock:
            self._ledger.weights.setdefault(self._hotkey, []).append(dict(weights))
            blocks = self._ledger.weight_blocks.setdefault(self._hotkey, [])
            blocks.append(self._ledger.time.block + 1)

    def _require_state(self, block: int) -> None:
        self._require(block)
        if block < self.head() - self._ledger.kept_blocks:
            raise ChainError(f"state of block {block} is discarded", code="rpc")

    def _require(self, block: int) -> None:
        if not 0 <= block <= self.head():
            raise ChainError(f"block {block} does not exist yet", code="unknown_block")


class RecordingMetrics:
    """Keeps every row: (window, values)."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, object]]] = []

    def log(self, window: int, values: Mapping[str, object]) -> None:
        self.rows.append((window, dict(values)))

    def close(self) -> None:
        pass

    def series(self, key: str) -> dict[int, Any]:
        """window -> the last value logged under `key`."""
        return {window: values[key] for window, values in self.rows if key in values}


class World:
    """Buckets and a ledger for a set of hotkeys; makes contexts for their nodes."""

    def __init__(self, spec: RunSpec, neurons: tuple[Neuron, ...]) -> None:
        self.spec = spec
        self.time = VirtualTime()
        self.ledger = Ledger(
            time=self.time, neurons=neurons, finality_lag=spec.schedule.finality_lag_blocks
        )
        self.buckets = {n.hotkey: MemoryStore() for n in neurons}
        self.run = Run(spec)

    def access(self, hotkey: str) -> Access:
        return Access(
            kind=AccessKind.S3,
            account="http://127.0.0.1:1",
            access_key_id=f"ro-{hotkey[:6]}",
            secret_access_key="public",
        )

    def chain(self, hotkey: str) -> FakeChain:
        return FakeChain(self.ledger, hotkey)

    def context(self, hotkey: str, state_dir: Path) -> NodeContext:
        """A new context for a node; a node that starts again gets another."""
        chain = self.chain(hotkey)
        state_dir.mkdir(parents=True, exist_ok=True)
        return NodeContext(
            run=Run(self.spec),
            make_format=payload_format,
            hotkey=hotkey,
            access=self.access(hotkey),
            chain=chain,
            waiter=Waiter(chain, sleep=self.time.sleep, now_s=self.time.now_s),
            bucket=self.buckets[hotkey],
            open_bucket=lambda peer, _access: self.buckets[peer].reader(),
            metrics=RecordingMetrics(),
            state_dir=state_dir,
            device="cpu",
            run_file=Path("run.toml"),
            commands=Commands(netuid=1, network="local", wallet="-w test -H test"),
            works_beside=False,
            # The same again and again, so that a world played twice is the same to the bit, and a
            # node that starts again too.
            random_bytes=lambda num_bytes: hashlib.sha256(hotkey.encode()).digest()[:num_bytes],
            # Work beside the loop takes no block of time, as work in the loop takes none.
            note_work=lambda begins: self.time.enter() if begins else self.time.leave(),
        )
