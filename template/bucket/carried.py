"""Companions of a validator's checkpoints, by the spec of the payloads that lead to each.

Every validator has to publish the same files, so the files of a checkpoint follow from its window,
and not from the time of its upload: a succession may change the tokenizer or the chat template.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from template.data.manifest import TokenizerEntry
from template.data.tokenizer import ByteTokenizer
from template.protocol.run import Run
from template.protocol.spec import RunSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Companions:
    """The `companion_files` of a spec, and the tokenizer's entry in the manifest of its dataset."""

    entry: TokenizerEntry
    files: Mapping[str, bytes] = field(default_factory=dict)


NO_COMPANIONS: Final = Companions(entry=ByteTokenizer.entry)


class Carried:
    """The companions of a run's specs. The loop adds, and the thread that uploads reads."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._by_spec: dict[bytes, Companions] = {}

    def has(self, spec: RunSpec) -> bool:
        """Whether the companions of a spec are here."""
        return spec.spec_id in self._by_spec

    def add(self, spec: RunSpec, companions: Companions) -> None:
        """Take the companions of a spec."""
        self._by_spec[spec.spec_id] = companions

    def of(self, window: int) -> Companions:
        """The companions of theta_window; none before the loop has added its spec's."""
        return self._by_spec.get(self._run.maker(window).spec_id, NO_COMPANIONS)
