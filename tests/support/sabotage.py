"""Doing to the nodes of a swarm what a plan of `tests.support.schedules` says, and counting it.

Every node sees chain and buckets through a view of its own, in which the faults happen. What
a fault does to a process (a kill, a pause, a flipped bit) happens as the node makes a call, in
its own thread: the neurons are the real ones.
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from simulation.world import FakeChain, World, hotkey_of
from template.context import NodeContext
from template.errors import ChainError, NotFound, Unavailable
from template.protocol.record import PayloadCommitment, Record, encode_record
from template.protocol.spec import RunSpec
from template.store.memory import MemoryStore
from template.store.types import Source, Take
from template.sync.own_checkpoint import own_checkpoint_path
from tests.support.schedules import MINERS, ROSTER, VALIDATORS, Fault

SLOW_S = 0.3
"""Seconds after which whoever asks a slow bucket gives up."""
MAX_CALLS = 25
"""A kill comes with one of so many calls after its block: about as many as a window has."""


class Killed(BaseException):
    """The process ends here and now; it is started again."""


class Left(BaseException):
    """The process ends and does not come back."""


class TroubledWorld(World):
    """A world in which a plan comes true. `took_effect`: how often each fault was felt."""

    def __init__(self, spec: RunSpec, neurons: tuple) -> None:
        super().__init__(spec, neurons)
        self.faults: Sequence[Fault] = ()
        self._of: dict[str, list[Fault]] = {}
        self.took_effect: Counter[Fault] = Counter()
        self.contexts: dict[str, list[NodeContext]] = {name: [] for name in ROSTER}
        self.nodes: dict[str, Any] = {}
        self._calls: Counter[Fault] = Counter()
        self._threads: dict[str, int] = {}
        self._names = {hotkey_of(name): name for name in (*ROSTER, "owner")}
        self._lock = threading.Lock()

    def context(self, hotkey: str, state_dir: Path) -> NodeContext:
        """A node's context; a node that starts again gets another."""
        name, plain = self._names[hotkey], super().context(hotkey, state_dir)
        if name not in ROSTER:
            return plain
        context = replace(
            plain,
            bucket=TroubledStore(self, name, name, self.buckets[hotkey]),
            open_bucket=lambda peer, _access: TroubledStore(
                self, self._names[peer], name, self.buckets[peer].reader()
            ),
        )
        self.contexts[name].append(context)
        return context

    def chain(self, hotkey: str) -> FakeChain:
        name = self._names[hotkey]
        return TroubledChain(self, name) if name in ROSTER else FakeChain(self.ledger, hotkey)

    def plant(self, faults: Sequence[Fault]) -> None:
        """Have these faults come, none but these."""
        self.faults = faults
        for name in (*ROSTER, "chain"):
            self._of[name] = [f for f in faults if name in f.nodes]

    def begins(self, fault: Fault) -> int:
        schedule = self.spec.schedule
        windows = fault.window + fault.offset
        return schedule.start_block + int(windows * schedule.blocks_per_window)

    def ends(self, fault: Fault) -> int:
        """The block at which it is over; past all runs for what never ends."""
        windows = 2**16 if fault.kind == "bucket_gone" else fault.num_windows
        return self.begins(fault) + windows * self.spec.schedule.blocks_per_window

    def active(self, kind: str, name: str) -> Fault | None:
        """The fault of a kind that a node suffers now."""
        for fault in self._of.get(name, ()):
            if fault.kind == kind and self.begins(fault) <= self.time.block < self.ends(fault):
                return fault
        return None

    def split(self) -> Fault | None:
        """The partition that there is now, if any."""
        found = (self.active(f.kind, f.nodes[0]) for f in self.faults if f.kind == "partition")
        return next(filter(None, found), None)

    def hides(self, name: str, key: str) -> bool:
        """Whether nobody but the owner of a bucket gets this payload out of it."""
        void = [f for f in self.faults if f.kind == "void" and unheld_of(f) == name]
        return any(f"/payload/{fault.window:08d}/" in key for fault in void)

    def felt(self, fault: Fault, times: int = 1) -> None:
        with self._lock:
            self.took_effect[fault] += times

    def enter(self, name: str) -> None:
        """The calling thread is that of a node from now on."""
        self._threads[name] = threading.get_ident()

    @contextlib.contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Around every call that a node makes: what befalls its process befalls it here."""
        if self._threads.get(name) != threading.get_ident():
            yield
            return
        due = [f for f in self._of[name] if self.time.block >= self.begins(f)]
        for fault in due:
            if fault.kind in PROCESS and not self.took_effect[fault]:
                PROCESS[fault.kind](self, fault, name)
        deaths = [f for f in due if f.kind in KILLS and self._comes_now(f)]
        for fault in deaths:
            self.felt(fault)
        if any(not fault.lot & 1 for fault in deaths):
            raise Killed
        try:
            yield
        finally:
            if deaths:
                raise Killed

    def _comes_now(self, fault: Fault) -> bool:
        self._calls[fault] += 1
        return self._calls[fault] == 1 + fault.lot % MAX_CALLS


class TroubledChain(FakeChain):
    """The chain as one node sees it."""

    def __init__(self, world: TroubledWorld, name: str) -> None:
        super().__init__(world.ledger, hotkey_of(name))
        self._world, self._name = world, name

    def head(self) -> int:
        with self._called():
            head, world = super().head(), self._world
            if head < world.time.block:
                world.felt(next(f for f in world.faults if f.kind == "reorganised"))
            return head

    def finalized(self) -> int:
        with self._called():
            world, block = self._world, super().finalized()
            for fault in (world.active("old_finality", self._name), world.split()):
                if fault is not None:
                    world.felt(fault)
                    block = min(block, world.begins(fault) - world.ledger.finality_lag)
            return block

    def block_hash(self, block: int) -> bytes:
        with self._called():
            return super().block_hash(block)

    def metagraph(self, block: int):
        with self._called():
            return super().metagraph(block)

    def commitments(self, block: int) -> Mapping[str, bytes]:
        with self._called():
            return super().commitments(block)

    def publish(self, record: bytes) -> None:
        with self._called():
            split = self._world.split()
            if split is None or self._name not in split.nodes:
                super().publish(record)

    def set_weights(self, weights: Mapping[int, float]) -> None:
        with self._called():
            super().set_weights(weights)

    @contextlib.contextmanager
    def _called(self) -> Iterator[None]:
        with self._world.call(self._name):
            fault = self._world.active("chain_down", self._name)
            if fault is not None:
                self._world.felt(fault)
                raise ChainError("no answer from the chain in time", code="timeout")
            yield


class TroubledStore:
    """One node's bucket as it sees it itself, or as another one does."""

    def __init__(self, world: TroubledWorld, owner: str, user: str, store: MemoryStore) -> None:
        self._world, self._owner, self._user, self._store = world, owner, user, store

    def put(self, key: str, data: bytes) -> None:
        with self._called():
            self._store.put(key, data)

    def put_file(self, key: str, path: Path) -> None:
        with self._called():
            self._store.put_file(key, path)

    def put_source(self, key: str, source: Source) -> None:
        with self._called():
            self._store.put_source(key, source)

    def stream(self, key: str, take: Take, *, start: int = 0, max_bytes: int) -> None:
        take(self.get(key, max_bytes=max_bytes)[start:])

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.get(key, max_bytes=2**40)[start : start + length]

    def size(self, key: str) -> int:
        with self._called():
            return self._store.size(key)

    def list(self, prefix: str) -> list[str]:
        with self._called():
            return self._store.list(prefix)

    def delete(self, key: str) -> None:
        with self._called():
            self._store.delete(key)

    def close(self) -> None:
        self._store.close()

    def get(self, key: str, *, max_bytes: int) -> bytes:
        with self._called():
            data = self._store.get(key, max_bytes=max_bytes)
        if self._user != self._owner and self._world.hides(self._owner, key):
            raise NotFound("no such object")
        for kind, answer in ANSWERS.items():
            fault = self._world.active(kind, self._owner)
            if fault is not None and self._user != self._owner:
                data = answer(self._world, fault, self._user, data)
        return data

    @contextlib.contextmanager
    def _called(self) -> Iterator[None]:
        with self._world.call(self._user):
            fault = self._world.active("bucket_down", self._owner)
            if fault is not None:
                self._world.felt(fault)
                raise Unavailable(f"the bucket of {self._owner} does not answer")
            yield


def _slow(world: TroubledWorld, fault: Fault, user: str, data: bytes) -> bytes:
    """The answer comes some blocks later, to whoever still waits for it then."""
    block, until_s = world.time.block + 1 + fault.lot % 3, time.monotonic() + SLOW_S
    world.felt(fault)
    while world.time.block < block:
        if time.monotonic() > until_s or not threading.current_thread().name.startswith("fetch"):
            raise Unavailable("the answer takes too long")
        time.sleep(0.002)
    return data


def _truncated(world: TroubledWorld, fault: Fault, user: str, data: bytes) -> bytes:
    world.felt(fault)
    return data[: fault.lot % len(data)]


def _other_bytes(world: TroubledWorld, fault: Fault, user: str, data: bytes) -> bytes:
    world.felt(fault)
    place = fault.lot % len(data)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def _gone(world: TroubledWorld, fault: Fault, user: str, data: bytes) -> bytes:
    world.felt(fault)
    raise NotFound("no such bucket")


def _shown_to_few(world: TroubledWorld, fault: Fault, user: str, data: bytes) -> bytes:
    """One validator alone sees it, or two: then it is accepted, and others must ask these."""
    first = fault.lot % len(VALIDATORS)
    shown = {VALIDATORS[first], VALIDATORS[first - fault.lot // 8 % 2]}
    if user in shown:
        return data
    world.felt(fault)
    raise NotFound("no such object")


ANSWERS: Mapping[str, Callable[[TroubledWorld, Fault, str, bytes], bytes]] = {
    "bucket_slow": _slow,
    "truncated": _truncated,
    "other_bytes": _other_bytes,
    "bucket_gone": _gone,
    "shown_to_few": _shown_to_few,
}
PROMISES = ("names_unheld", "void")
KILLS = ("kill", "kill_top")


def unheld_of(fault: Fault) -> str:
    """Whose payload of the window nobody else can have: a miner's, or the owner's who has none."""
    return (*MINERS, "owner")[fault.lot % 3] if fault.kind == "void" else "owner"


def _pause(world: TroubledWorld, fault: Fault, name: str) -> None:
    world.felt(fault)
    while world.time.block < world.ends(fault):
        world.time.sleep(0)


def _leave(world: TroubledWorld, fault: Fault, name: str) -> None:
    world.felt(fault)
    raise Left


def _fill_disk(world: TroubledWorld, fault: Fault, name: str) -> None:
    """Where the state is written there is a folder, which no file replaces."""
    path = own_checkpoint_path(world.contexts[name][-1].state_dir)
    if path.exists():
        world.felt(fault)
        path.rename(path.with_suffix(".whole"))
        path.mkdir()


def free_disk(path: Path) -> None:
    path.rmdir()
    path.with_suffix(".whole").rename(path)


def _misplace_root(world: TroubledWorld, fault: Fault, name: str) -> None:
    follower = world.nodes[name].follower
    world.felt(fault)
    wrong = replace(follower.state, root=bytes(32))
    follower.ledger = replace(follower.ledger, state=wrong)


def _flip_bit(world: TroubledWorld, fault: Fault, name: str) -> None:
    params = world.nodes[name].follower.state.params
    tensor = params[sorted(params)[fault.lot % len(params)]].view(-1)
    world.felt(fault)
    tensor.view(torch.int32)[fault.lot % tensor.numel()] ^= 1 << fault.lot % 23


PROCESS: Mapping[str, Callable[[TroubledWorld, Fault, str], None]] = {
    "pause": _pause,
    "half_leave": _leave,
    "full_disk": _fill_disk,
    "wrong_root": _misplace_root,
    "flipped_bit": _flip_bit,
}


def _delete(world: TroubledWorld, fault: Fault) -> None:
    (name,) = fault.nodes
    bucket = world.buckets[hotkey_of(name)]
    for key in bucket.list(f"{world.spec.run_id.hex()}/payload/{fault.window:08d}/"):
        world.felt(fault)
        bucket.delete(key)


def _drop(world: TroubledWorld, fault: Fault) -> None:
    for name in fault.nodes:
        world.ledger.dropped[hotkey_of(name)] = world.time.block + 1


def _reorganise(world: TroubledWorld, fault: Fault) -> None:
    """As deep as it goes: down to the last final block."""
    world.ledger.reorganise(world.ledger.finality_lag, keep=bool(fault.lot & 1))


def _promise(world: TroubledWorld, fault: Fault) -> None:
    """The owner, who runs no neuron, commits a payload that does not exist."""
    nothing = PayloadCommitment(window=fault.window, digest=bytes(31) + b"\1")
    owner = hotkey_of("owner")
    record = Record.of(world.spec.run_id, access=world.access(owner), payload=nothing)
    world.chain(owner).publish(encode_record(record))


def _events(world: TroubledWorld) -> list[tuple[int, Fault, Callable]]:
    """(block, fault, what happens then) of all that happens outside of the nodes."""
    schedule, found = world.spec.schedule.schedule(), []
    for fault in world.faults:
        if fault.kind == "deleted":
            found.append((schedule.vote_block(fault.window) + 1, fault, _delete))
        elif fault.kind == "dropped_uid":
            found.append((world.begins(fault), fault, _drop))
        elif fault.kind == "reorganised":
            found.append((world.begins(fault), fault, _reorganise))
        elif fault.kind in PROMISES and unheld_of(fault) == "owner":
            found.append((schedule.first_block(fault.window), fault, _promise))
    return sorted(found, key=lambda event: event[0])


def saboteur(world: TroubledWorld, context: NodeContext) -> None:
    """Play the faults outside of the nodes at their planned blocks."""
    for block, fault, happen in _events(world):
        context.waiter.until_head(block)
        happen(world, fault)
