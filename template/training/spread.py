"""Tensors that lie in bands with several processes, and the questions asked of tensors anywhere.

A `SpreadTensors` is a handle: a mapping as any other, where reading a tensor brings the tensor here
from all processes. The functions below answer without that, wherever the tensors lie.
`template.ranks` has the processes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from compression import Plan, exact_norm
from template.errors import ObjectError
from template.protocol.payload import Payload, PayloadFormat, PayloadHeader
from template.protocol.root import sample_digest, tensors_digest
from template.training.evaluator import Evaluator
from template.training.finite import are_finite
from template.training.inner_loop import Trainer

Shapes = Mapping[str, tuple[int, ...]]
Factored = Iterable[tuple[memoryview, Mapping[str, float]]]
"""Bodies of payloads with factors by tensor name, in the order of addition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedFile:
    """A file of tensors in the folder of pieces: its name, and its length."""

    name: str
    num_bytes: int


class SpreadTensors(Mapping[str, Tensor], ABC):
    """Tensors in bands with several processes; one version, which never changes by an update."""

    @property
    @abstractmethod
    def shapes(self) -> Shapes:
        """Shapes of the whole tensors."""

    @abstractmethod
    def updated(
        self, updates: Factored, plan: Plan | None, *, is_short: bool = False
    ) -> "SpreadTensors":
        """New tensors: these plus factor * body, in turn. The bits of `compression.aggregate`.

        `plan`: of all these bodies, None without any. `is_short`: rounded to 24 bits at the end.
        """

    @abstractmethod
    def with_updates(
        self, updates: Factored, plan: Plan | None, *, is_short: bool = False
    ) -> "SpreadTensors":
        """As `updated`, but made tensor by tensor when read, and not kept."""

    @abstractmethod
    def digest(self) -> bytes:
        """As `tensors_digest`."""

    @abstractmethod
    def sample(self, block_hash: bytes) -> bytes:
        """As `sample_digest`."""

    @abstractmethod
    def norms(self) -> dict[str, float]:
        """The `exact_norm` of every tensor."""

    @abstractmethod
    def are_finite(self) -> bool:
        """Whether no value is infinite or NaN."""

    @abstractmethod
    def save(self, folder: Path, stem: str, metadata: Mapping[str, str]) -> list[SavedFile]:
        """Write a file of each process's rows, on the disk at the return. StateError if refused."""

    def __iter__(self) -> Any:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class Spreader(ABC):
    """Several processes that hold tensors together."""

    @abstractmethod
    def place(
        self, tensors: Iterable[tuple[str, Tensor]], beside: SpreadTensors | None = None
    ) -> SpreadTensors:
        """Hand float32 tensors out, one after another; with those that lie `beside`, if given."""

    @abstractmethod
    def read(self, files: Sequence[Path]) -> SpreadTensors:
        """The tensors in files of `SpreadTensors.save`, by however many processes, or in one whole
        file. ValueError if a file cannot be used, StateError if a process cannot read it.
        """


class Feedback(Protocol):
    """The part of a miner's pseudo-gradients that no accepted payload carries."""

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """For a local checkpoint."""

    @property
    def revision(self) -> object:
        """Another object after every change of the tensors."""

    def follow(self, form: PayloadFormat, decay: float) -> None:
        """Encode by another spec of the run from now on."""

    def encode(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        """The frame of decay * feedback + delta; the feedback keeps the rest."""

    def keep(self, deltas: Mapping[str, Tensor]) -> None:
        """Keep a whole pseudo-gradient for the next payload."""

    def take_back(self, payload: Payload) -> None:
        """Return a share of a payload's content."""


class Ranks(Protocol):
    """The processes of a neuron of many devices: what a miner or a validator has on all of them."""

    def split(self) -> None:
        """From now on a thread within `training` shares no stream of orders with the others."""

    def training(self) -> AbstractContextManager[None]:
        """Within the block this thread trains."""

    def scorer(self) -> Evaluator: ...

    def trainer(self) -> Trainer: ...

    def feedback(
        self, decay: float, saved: Mapping[str, Tensor], returned_share: float
    ) -> Feedback: ...


class Intake:
    """Gathers parameters part by part, where they are to lie: with `spreader`, or here."""

    def __init__(self, spreader: Spreader | None) -> None:
        self._spreader = spreader
        self._here: dict[str, Tensor] = {}
        self._spread: SpreadTensors | None = None

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """ObjectError for tensors that are not float32."""
        for name, tensor in tensors.items():
            if tensor.dtype != torch.float32:
                raise ObjectError(f"checkpoint: refused: {name} is not finite float32")
        if self._spreader is None:
            self._here |= tensors
        else:
            self._spread = self._spreader.place(tensors.items(), self._spread)

    def done(self) -> Mapping[str, Tensor]:
        """All tensors."""
        return self._here if self._spread is None else self._spread


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Shapes by name."""
    if isinstance(tensors, SpreadTensors):
        return tensors.shapes
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def digest_of(tensors: Mapping[str, Tensor]) -> bytes:
    """The `tensors_digest`."""
    return tensors.digest() if isinstance(tensors, SpreadTensors) else tensors_digest(tensors)


def sample_of(tensors: Mapping[str, Tensor], block_hash: bytes) -> bytes:
    """The `sample_digest`."""
    if isinstance(tensors, SpreadTensors):
        return tensors.sample(block_hash)
    return sample_digest(tensors, block_hash)


def norms_of(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """The `exact_norm` of every tensor."""
    if isinstance(tensors, SpreadTensors):
        return tensors.norms()
    return {name: exact_norm(tensor) for name, tensor in tensors.items()}


def finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no value is infinite or NaN."""
    if isinstance(tensors, SpreadTensors):
        return tensors.are_finite()
    return are_finite(tensors.values())
