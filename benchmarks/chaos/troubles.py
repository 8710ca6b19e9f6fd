"""Faults that proxies plant: slow, truncated and refused transfers, 5xx storms, partitions.

Owns who meets which trouble. Does not own what a trouble does to bytes (`localnet`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from benchmarks.chaos.ground import Ground, Planted
from localnet.proxy import Proxy, Trouble
from simulation.faults import ProcessFault

SLOW_BYTES_PER_S: Final = 2048
"""A payload of the localnet's takes more than a second, a checkpoint longer than a window."""

Troubles = dict[str, tuple[Proxy, Trouble]]


class Troubled(Planted):
    """Trouble in proxies; it took effect if every one of the `targets` met some of it."""

    def __init__(self, ground: Ground, targets: Sequence[str], troubles: Troubles) -> None:
        super().__init__(ground, targets)
        self._troubles = troubles

    def begin(self) -> None:
        self._before = {name: self._spoiled(name) for name in self._troubles}
        for proxy, trouble in self._troubles.values():
            proxy.begin(trouble)

    def end(self) -> None:
        for name, (proxy, trouble) in self._troubles.items():
            proxy.end()
            self.evidence[name] = {trouble.kind: self._spoiled(name) - self._before[name]}

    def _spoiled(self, name: str) -> int:
        proxy, trouble = self._troubles[name]
        return proxy.spoiled[trouble.kind]

    @property
    def took_effect(self) -> bool:
        return bool(self.evidence) and all(sum(self.evidence[n].values()) for n in self.targets)


def _slow(ground: Ground, targets: Sequence[str]) -> Troubles:
    trouble = Trouble(kind="slow", bytes_per_s=SLOW_BYTES_PER_S)
    return {name: (ground.posts[name].buckets, trouble) for name in targets}


def _truncated(ground: Ground, targets: Sequence[str]) -> Troubles:
    """Every other transfer; one that is tried again comes through."""
    return {n: (ground.posts[n].buckets, Trouble(kind="truncate", out_of=2)) for n in targets}


def _storm(ground: Ground, targets: Sequence[str]) -> Troubles:
    return {n: (ground.posts[n].buckets, Trouble(kind="error", out_of=4)) for n in targets}


def _cut_chain(ground: Ground, targets: Sequence[str]) -> Troubles:
    return {name: (ground.posts[name].chain, Trouble(kind="refuse")) for name in targets}


def _split(ground: Ground, targets: Sequence[str]) -> Troubles:
    """Each side reads the buckets of its own validators and of half of the miners."""
    validators = [name for name in ground.posts if name.startswith("val-")]
    miners = sorted(set(ground.posts) - set(validators))
    here = {*targets, *miners[::2]}
    sides = {name: name in here for name in ground.posts}
    troubles: Troubles = {}
    for name in validators:
        others = [n for n in ground.posts if sides[n] != sides[name]]
        paths = tuple(ground.posts[n].bucket_path for n in others)
        troubles[name] = (ground.posts[name].buckets, Trouble(kind="refuse", paths=paths))
    return troubles


TROUBLES: Final[Mapping[ProcessFault, Callable[[Ground, Sequence[str]], Troubles]]] = {
    ProcessFault.SLOW: _slow,
    ProcessFault.TRUNCATED: _truncated,
    ProcessFault.STORM: _storm,
    ProcessFault.CUT_CHAIN: _cut_chain,
    ProcessFault.SPLIT_BUCKETS: _split,
}
