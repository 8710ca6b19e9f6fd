"""Rank 0's handles of what the ranks hold together: theta, pseudo-gradients and error feedback.

A handle is one version, and the ranks forget the version when the last reference to the handle
ends. The frequent questions are answered by every rank for its own bands.
"""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from compression import HeldUpdates, Plan, round_to_short
from compression.norms import norm_of_squares
from template.errors import ConfigError
from template.protocol.root import digest_of_sample, sample_pieces
from template.protocol.tree import digest_of_leaves, join_leaves
from template.ranks.loop import Team
from template.training.spread import Factored, SavedFile, Shapes, Spreader, SpreadTensors


class Held:
    """Something that every rank keeps under a number, for as long as rank 0 refers to this."""

    def __init__(self, team: Team) -> None:
        self.team = team
        self.number = team.number()
        weakref.finalize(self, team.drop, self.number).atexit = False


class Bands(SpreadTensors):
    """Tensors that lie on the ranks."""

    def __init__(self, held: Held, shapes: Shapes) -> None:
        self._held, self._shapes = held, dict(shapes)
        self._team = held.team

    @property
    def shapes(self) -> Shapes:
        return self._shapes

    @property
    def number(self) -> int:
        """The number on every rank's shelf."""
        return self._held.number

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor, brought here from all ranks: a rare thing."""
        whole: Tensor = self._team.tell(
            "give", number=self.number, name=name, shape=self._shapes[name]
        )
        return whole

    def updated(self, updates: Factored, plan: Plan | None, *, is_short: bool = False) -> "Bands":
        return self._made(_held(self._team, list(updates), plan), is_short=is_short)

    def _made(self, held: "HeldBodies | None", *, is_short: bool) -> "Bands":
        """New bands on every rank."""
        made = Bands(Held(self._team), self._shapes)
        updates = None if held is None else held.number
        self._team.tell(
            "update", number=made.number, source=self.number, updates=updates, is_short=is_short
        )
        return made

    def with_updates(
        self, updates: Factored, plan: Plan | None, *, is_short: bool = False
    ) -> "UpdatedBands":
        kept = list(updates)
        whole = None if plan is None else HeldUpdates(kept, plan)
        return UpdatedBands(self, _held(self._team, kept, plan), whole, is_short=is_short)

    def joined(self, other: "Bands") -> "Bands":
        """Both in one, without a copy."""
        made = Bands(Held(self._team), {**self._shapes, **other.shapes})
        self._team.tell("join", number=made.number, sources=[self.number, other.number])
        return made

    def digest(self) -> bytes:
        found = self._team.call("leaves", number=self.number)
        leaves = [{name: bytes.fromhex(text) for name, text in own.items()} for own in found]
        return digest_of_leaves(self._shapes, join_leaves(leaves))

    def sample(self, block_hash: bytes) -> bytes:
        parts = self._team.call(
            "sample", number=self.number, shapes=self._shapes, block_hash=block_hash.hex()
        )
        pieces = sample_pieces(self._shapes, block_hash, self._team.group.size)
        return digest_of_sample(block_hash, pieces, parts)

    def norms(self) -> dict[str, float]:
        found = self._team.call("squares", number=self.number)
        sums = {name: [np.array(own[name], np.int64) for own in found] for name in self._shapes}
        return {name: norm_of_squares(np.sum(parts, axis=0)) for name, parts in sums.items()}

    def are_finite(self) -> bool:
        return all(self._team.call("finite", number=self.number))

    def save(self, folder: Path, stem: str, metadata: Mapping[str, str]) -> list[SavedFile]:
        found = self._team.call(
            "save",
            number=self.number,
            shapes=self._shapes,
            folder=str(folder),
            stem=stem,
            metadata=dict(metadata),
        )
        return [SavedFile(name=name, num_bytes=num_bytes) for name, num_bytes in found]


class HeldBodies(Held):
    """Bodies with factors: on every rank its own chunks of each body."""

    def __init__(self, team: Team, updates: Factored, top_k: int) -> None:
        super().__init__(team)
        kept = list(updates)
        bodies, factors = [body for body, _ in kept], [dict(by_name) for _, by_name in kept]
        team.tell("hold", bodies, number=self.number, factors=factors, top_k=top_k)


def _held(
    team: Team, kept: Sequence[tuple[memoryview, Mapping[str, float]]], plan: Plan | None
) -> HeldBodies | None:
    return None if plan is None else HeldBodies(team, kept, plan.top_k)


class UpdatedBands(Bands):
    """Bands with updates, made tensor by tensor when read; `is_short`: rounded to 24 bits."""

    def __init__(
        self, source: Bands, bodies: HeldBodies | None, whole: HeldUpdates | None, *, is_short: bool
    ) -> None:
        super().__init__(source._held, source.shapes)
        self._bodies, self._whole, self.is_short = bodies, whole, is_short

    @property
    def updates(self) -> int | None:
        """The number of the updates on every rank's shelf, if any."""
        return None if self._bodies is None else self._bodies.number

    def __getitem__(self, name: str) -> Tensor:
        made = super().__getitem__(name)
        if self._whole is not None:
            self._whole.add_to(made, name)
        if self.is_short:
            round_to_short(made)
        return made

    def made(self) -> Bands:
        """The same, each rank with bands of its own."""
        return self._made(self._bodies, is_short=self.is_short)

    def updated(self, updates: Factored, plan: Plan | None, *, is_short: bool = False) -> Bands:
        return self.made().updated(updates, plan, is_short=is_short)

    def with_updates(
        self, updates: Factored, plan: Plan | None, *, is_short: bool = False
    ) -> "UpdatedBands":
        return self.made().with_updates(updates, plan, is_short=is_short)

    def joined(self, other: Bands) -> Bands:
        return self.made().joined(other)

    def digest(self) -> bytes:
        return self.made().digest()

    def sample(self, block_hash: bytes) -> bytes:
        return self.made().sample(block_hash)

    def norms(self) -> dict[str, float]:
        return self.made().norms()

    def are_finite(self) -> bool:
        return self.made().are_finite()

    def save(self, folder: Path, stem: str, metadata: Mapping[str, str]) -> list[SavedFile]:
        return self.made().save(folder, stem, metadata)


def numbers_of(start: Mapping[str, Tensor]) -> tuple[int, int | None, bool]:
    """The ranks' numbers of a start and of the updates to add, and whether it is rounded."""
    if isinstance(start, UpdatedBands):
        return start.number, start.updates, start.is_short
    if isinstance(start, Bands):
        return start.number, None, False
    raise TypeError("the start of many ranks lies on the ranks")


class BandSpreader(Spreader):
    """Hands tensors out to the ranks of a team."""

    def __init__(self, team: Team) -> None:
        self.team = team

    def place(
        self, tensors: Iterable[tuple[str, Tensor]], beside: SpreadTensors | None = None
    ) -> Bands:
        held, shapes = Held(self.team), {}
        for name, tensor in tensors:
            shapes[name] = tuple(tensor.shape)
            self.team.tell("take", tensor, number=held.number, name=name, shape=shapes[name])
        made = Bands(held, shapes)
        return beside.joined(made) if isinstance(beside, Bands) else made

    def zeros(self, shapes: Shapes) -> Bands:
        """Bands of zeros, of the run's tensors."""
        held = Held(self.team)
        self.team.tell("zeros", number=held.number)
        return Bands(held, shapes)

    def read(self, files: Sequence[Path]) -> Bands:
        held = Held(self.team)
        try:
            found = self.team.call("read", number=held.number, paths=[str(path) for path in files])
        except ConfigError as error:
            raise ValueError(str(error)) from error
        shapes = {name: tuple(shape) for name, shape in found[0].items()}
        return Bands(held, shapes)

    def bands_of(self, tensors: Mapping[str, Tensor]) -> Bands:
        """The same tensors on the ranks: a handle stays itself."""
        return tensors if isinstance(tensors, Bands) else self.place(tensors.items())
