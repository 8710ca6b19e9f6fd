"""What faults act on, and what each of them must be able to do.

Owns the two interfaces. Does not own any fault (`faults`, `troubles`), nor the localnet.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.chaos.shim import Clock
from localnet.keeper import Service
from localnet.proxy import HttpProxy, WireProxy
from template.protocol.record import Vote

Evidence = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Post:
    """One neuron as faults reach it."""

    chain: WireProxy
    buckets: HttpProxy
    clock: Clock
    state_dir: Path
    log_path: Path
    bucket_path: str


class Ground(Protocol):
    """The targets of faults, by process name."""

    @property
    def posts(self) -> Mapping[str, Post]: ...

    def service(self, name: str) -> Service: ...

    def revive(self, name: str) -> None: ...

    def votes(self, window: int) -> Mapping[str, Vote]:
        """Votes on a window that count, by process name; none while the chain does not answer."""
        ...


class Planted(ABC):
    """One fault while it lasts; `evidence` is complete once it has ended."""

    def __init__(self, ground: Ground, targets: Sequence[str]) -> None:
        self.ground = ground
        self.targets = tuple(targets)
        self.evidence: Evidence = {}

    @abstractmethod
    def begin(self) -> None: ...

    def look(self) -> None:  # noqa: B027
        """Called a few times a second until the end."""

    def end(self) -> None:  # noqa: B027
        """Take it back."""

    @property
    @abstractmethod
    def took_effect(self) -> bool: ...
