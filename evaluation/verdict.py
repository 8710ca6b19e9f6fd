"""What a validator found out about one committed payload: a value, never an exception."""

import math
from dataclasses import asdict, dataclass

NAMED = "named"
"""Status of a payload that the vote names; any other status is the reason of its refusal."""

SCORED = "scored"
"""Between measuring a payload and deciding whether to name it."""

MEASURED = (NAMED, SCORED, "no_gain", "no_work")
"""Statuses that only a measured payload can have."""

NOT_SCORED = "not_scored"
UNAVAILABLE = "unavailable"
MISSING = ("not_delivered", "access_denied", "no_access", "too_large", "digest", UNAVAILABLE)
"""The committed bytes could not be had. Whose fault that is the voting stake decides."""

BLAMELESS = (NOT_SCORED, *MISSING)
"""May be this validator's own fault: the window is left out of the miner's record."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One payload in one window. `gain` and its standard error in nats per token, None where
    it was not scored; `relative_gain` is what the weights are made of. `work_effect`,
    `work_variance` and `work_square`: the work test's figures, None where it owned no sequence of
    the pool.
    """

    window: int
    uid: int
    hotkey: str
    digest: str
    status: str
    detail: str = ""
    gain: float | None = None
    gain_standard_error: float | None = None
    relative_gain: float | None = None
    pages_consumed: int | None = None
    base_window: int | None = None
    work_effect: float | None = None
    work_variance: float | None = None
    work_square: float | None = None

    @property
    def named(self) -> bool:
        return self.status == NAMED

    @property
    def missing(self) -> bool:
        return self.status in MISSING

    @property
    def blameless(self) -> bool:
        return self.status in BLAMELESS

    def as_row(self) -> dict[str, object]:
        """The verdict as a JSON object, for the verdict log.

        A gain of minus infinity becomes None, since JSON has no infinities; the relative
        gain, of which the weights are made, is always finite.
        """
        finite = self.gain is not None and math.isfinite(self.gain)
        return asdict(self) | {"gain": self.gain if finite else None}
