"""Phases of a window, and what is left for the inner steps."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

INNER_STEPS = "inner steps"


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A part of a window's work. `hidden_s` of its seconds pass behind training, or, for a
    validator, behind other work; the others block. Bytes: over the line. `why`: who waits for whom.
    """

    name: str
    seconds: float
    hidden_s: float = 0.0
    up_bytes: float = 0.0
    down_bytes: float = 0.0
    why: str = ""

    @property
    def blocking_s(self) -> float:
        return max(0.0, self.seconds - self.hidden_s)

    @property
    def is_hidden(self) -> bool:
        """Whether nothing of the phase blocks."""
        return self.blocking_s == 0.0

    def behind(self) -> "Phase":
        """The phase as if all of it were hidden."""
        return replace(self, hidden_s=self.seconds)


def blocking_s(phases: Sequence[Phase]) -> float:
    """Seconds of all phases but the inner steps that nothing hides."""
    return sum(phase.blocking_s for phase in phases if phase.name != INNER_STEPS)


def hide(phases: Sequence[Phase], names: Collection[str]) -> list[Phase]:
    """The phases, those of `names` hidden."""
    return [phase.behind() if phase.name in names else phase for phase in phases]


def serial_utilisation(compute_s: float, up_s: float, down_s: float) -> float:
    """Share of computing where all communication follows it, both directions side by side."""
    return compute_s / (compute_s + max(up_s, down_s))
