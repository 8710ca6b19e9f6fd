"""What a validator found out about one committed payload: a value, never an exception."""

import math
from dataclasses import asdict, dataclass

NAMED = "named"
"""Status of a payload that the vote names; any other status is the reason of its refusal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One payload in one window. `gain` and its standard error in nats per token, None where
    it was not scored; `relative_gain` is what the weights are made of.
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

    @property
    def named(self) -> bool:
        return self.status == NAMED

    def as_row(self) -> dict[str, object]:
        """The verdict as a JSON object, for the verdict log.

        A gain of minus infinity becomes None, since JSON has no infinities; the relative
        gain, of which the weights are made, is always finite.
        """
        finite = self.gain is not None and math.isfinite(self.gain)
        return asdict(self) | {"gain": self.gain if finite else None}
