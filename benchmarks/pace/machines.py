"""Machines of a simulated run, and a race: everything that fixes one run, and so its key.

A machine of speed 1 makes H inner steps of `batch_pages` pages in a window. Time is counted in
windows.
"""

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Any, Literal

from benchmarks.learning.trial import KEY_DIGITS, Trial
from template.errors import ConfigError

Weighting = Literal["equal", "root", "pages"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """How one miner works.

    `speed`: of the machine, 1 for H steps of usual batches in a window. `width`: batches in one
    inner step. `windows`: how many windows a payload takes. `share`: of H, inner steps behind a
    payload. `first`: window of the first start. `moves`: whether a round under way moves to newer
    parameters. `absent_every`: every so many windows the machine is away for one; 0 for never.
    `claims`: batches claimed of each step, 0 for those trained. `rate`: factor on the inner
    learning rate. `parts`: the miner trains one of so many parts of the model, drawn anew for each
    payload.
    """

    speed: float = 1.0
    width: int = 1
    windows: int = 1
    share: float = 1.0
    first: int = 0
    moves: bool = True
    absent_every: int = 0
    claims: int = 0
    rate: float = 1.0
    parts: int = 1

    def __post_init__(self) -> None:
        if self.busy_windows > self.windows + 1e-9:
            raise ConfigError(
                f"machine: windows: {self.busy_windows:.2f} windows of work do not fit in "
                f"{self.windows}; allow more windows, or a smaller width or share"
            )

    @property
    def busy_windows(self) -> float:
        """Windows of work behind one payload."""
        return self.width * self.share / self.speed

    @property
    def claimed(self) -> int:
        """Batches claimed of each inner step."""
        return self.claims or self.width

    def starts_in(self, window: int) -> bool:
        """Whether an idle machine starts a round in a window."""
        if self.absent_every and window % self.absent_every == self.absent_every - 1:
            return False
        return window >= self.first and (window - self.first) % self.windows == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """One run. `trial.rounds`: windows. Each payload weighs its `weighting` of claimed pages times
    `staleness_decay` to the power of the windows between base and window.

    `corrects`: stale payloads lose what points against the last outer update (HeLoCo, arXiv
    2606.00271). `divides`: by the sum of the weights of pages, or by the number of payloads.
    `forgets`: whether a part's moments start anew with each payload. `pays`: whether payloads are
    scored and paid, which changes nothing else.
    """

    trial: Trial
    machines: tuple[Machine, ...]
    weighting: Weighting = "equal"
    staleness_decay: float = 1.0
    corrects: bool = False
    divides: Literal["sum", "count"] = "sum"
    forgets: bool = False
    pays: bool = False

    def __post_init__(self) -> None:
        if len(self.machines) != self.trial.miners:
            raise ConfigError("race: machines: one for each of the trial's miners")

    @property
    def key(self) -> str:
        own = _changed(self) | {
            "trial": self.trial.canonical,
            "machines": [_changed(machine) for machine in self.machines],
        }
        canonical = json.dumps(own, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:KEY_DIGITS]


def _changed(given: "Machine | Race") -> dict[str, Any]:
    """Fields with another value than the default: a later field leaves older keys as they are."""
    return {
        field.name: value
        for field in fields(given)
        if (value := getattr(given, field.name)) != field.default
    }


def page_weight(pages: float, weighting: Weighting) -> float:
    """The weight of a payload with so many usual batches behind each step."""
    if weighting == "equal":
        return 1.0
    return pages**0.5 if weighting == "root" else pages
