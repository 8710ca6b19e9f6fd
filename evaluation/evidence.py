"""The gain test: is a hotkey's work useful? One window cannot say, several can.

Late in a run an honest payload gains about two standard errors, so a test of one window refuses
half of all honest work. Evidence therefore adds up over windows, as in the work test (Wald, Ann.
Math. Stat. 1945). With a = `gain`, x a payload's gain and e its standard error over the scale of
honest gains, and `SPREAD` the spread of honest gains between windows:

    log-likelihood ratio   (a x - a^2 / 2) / (e^2 + SPREAD^2)     of a gain of a, against none

The sum over windows is kept within +-log((1 - error) / error). The gate opens for a hotkey with a
positive sum whose evidence of gain and of work reaches the upper bound together: honest work shows
on its own pages long before its gain does. The gate closes once the sum is used up.

The scale is the median gain of proven hotkeys in this window and the last ones: a crowd of payloads
without worth, never named, cannot move the scale.

The author of a payload shapes its error too: harm on one page of 64 has an error as large as the
mean, and the larger the harm, the less such a window would say. So an error counts for no more than
the lower median error of proven hotkeys in the window: honest payloads have errors alike.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from evaluation.work import WorkRules, WorkSample, WorkState

SPREAD = 0.3
"""Standard deviation of an honest miner's true gains between windows, relative to the scale."""

SCALE_WINDOWS = 6
"""Windows behind the scale, this one included: one is noisy, and many lag behind the gains."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GainRules:
    """`gain`: smallest assumed gain of honest work, relative to the scale. `error`: probability of
    either error.
    """

    gain: float
    error: float

    @property
    def bound(self) -> float:
        return math.log((1 - self.error) / self.error)

    def log_ratio(self, gain: float, standard_error: float, scale: float) -> float:
        """A window's log-likelihood ratio, cut to +-2 bounds; 0 without a scale.

        `gain` and `standard_error` in nats per token, as `scale`. A gain of minus infinity or NaN
        is the strongest evidence against.
        """
        if scale <= 0:
            return 0.0
        most = 2 * self.bound
        if not math.isfinite(gain):
            return -most
        noise = standard_error / scale
        variance = noise * noise + SPREAD**2
        if math.isinf(variance):
            return 0.0  # a scale next to nothing, in a forged log: any gain may be chance
        ratio = (self.gain * (gain / scale) - self.gain * self.gain / 2) / variance
        return min(max(ratio, -most), most)


@dataclass(frozen=True, kw_only=True, slots=True)
class GainState:
    """`log_ratio`: evidence for useful work, within the bounds. `holds`: the gate is open."""

    log_ratio: float = 0.0
    holds: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """The evidence of several windows on a hotkey: of work on its pages, and of gain."""

    work: WorkState = field(default_factory=WorkState)
    gain: GainState = field(default_factory=GainState)

    def after(
        self,
        sample: WorkSample | None,
        gain_log_ratio: float | None,
        work_rules: WorkRules,
        gain_rules: GainRules,
    ) -> "Evidence":
        """The evidence after another window; None where the window says nothing."""
        work = self.work if sample is None else self.work.after(sample, work_rules)
        if gain_log_ratio is None:
            return Evidence(work=work, gain=self.gain)
        bound, total = gain_rules.bound, self.gain.log_ratio + gain_log_ratio
        log_ratio = min(max(total, -bound), bound)
        opens = log_ratio + work.log_ratio >= bound
        gain = GainState(log_ratio=log_ratio, holds=total > 0 and (opens or self.gain.holds))
        return Evidence(work=work, gain=gain)


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """What the last windows say: evidence by hotkey, and gains of named payloads.

    `medians`: of each window with a named payload the lower median of their gains, oldest first, in
    nats per token.
    """

    evidence: Mapping[str, Evidence] = field(default_factory=dict)
    medians: tuple[float, ...] = ()

    def of(self, hotkey: str) -> Evidence:
        return self.evidence.get(hotkey, Evidence())

    def scale(self, gains: Mapping[str, float]) -> float:
        """The scale of a window with these `gains` by hotkey; 0 if nobody has proven useful.

        The median over the window's proven hotkeys (lower median) and `SCALE_WINDOWS` - 1 windows
        before.
        """
        proven = [
            gain
            for hotkey, gain in gains.items()
            if self.of(hotkey).gain.holds and math.isfinite(gain)
        ]
        recent = [*self.medians[1 - SCALE_WINDOWS :], *lower_medians({0: proven})]
        return max(0.0, statistics.median(recent)) if recent else 0.0

    def error_limit(self, errors: Mapping[str, float]) -> float:
        """The largest standard error that counts in a window with these `errors` by hotkey.

        The lower median over proven hotkeys; infinity without one.
        """
        proven = [error for hotkey, error in errors.items() if self.of(hotkey).gain.holds]
        return statistics.median_low(proven) if proven else math.inf


def lower_medians(gains: Mapping[int, Iterable[float]]) -> tuple[float, ...]:
    """The lower median of each window's gains, by ascending window; empty windows left out."""
    ordered = (sorted(some) for _, some in sorted(gains.items()))
    return tuple(statistics.median_low(some) for some in ordered if some)
