"""The outcome of checking and measuring a committed payload: a value, never an exception."""

import math
from dataclasses import asdict, dataclass

NAMED = "named"
"""Status of a useful payload, to be accepted by the vote; other statuses are refusals."""

SCORED = "scored"
"""Status between measuring a payload and the decision on acceptance."""

NOT_AUTHOR = "not_author"
"""Useful, but alike to a payload of the window with more evidence of work on its own pages."""

MEASURED = (NAMED, SCORED, "no_gain", "no_work", NOT_AUTHOR)
"""Statuses of measured payloads."""

NOT_SCORED = "not_scored"
UNAVAILABLE = "unavailable"
NOT_DRAWN = "not_drawn"
"""Outside the window's sample: left unscored by every validator."""

MISSING = ("not_delivered", "access_denied", "no_access", "too_large", "digest", UNAVAILABLE)
"""The committed bytes were unavailable. The voting stake decides whether the miner is at fault."""

BLAMELESS = (NOT_SCORED, NOT_DRAWN, *MISSING)
"""Not held against the miner: no fault of the miner is known to this validator."""


FIGURES = (
    "gain", "gain_standard_error", "relative_gain", "work_effect", "work_variance",
    "page_effect", "page_square", "quarter_profile", "half_gap",
)  # fmt: skip
"""The measured fields of a verdict that follow from the window's losses alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A payload in a window.

    `gain` and standard error in nats per token, None without a score; weights are made from
    `relative_gain`. `work_effect`, `work_variance`, `page_effect` and `page_square`: figures
    of the work test, None for a payload without own sequences in the pool; `quarter_profile`: of
    each quarter, empty without own sequences.
    `gain_log_ratio`: the window's evidence in the gain test; depends on the windows before.
    `half_gap`: gain on the first half of the held-out pages less the gain on the second half, in
    nats per token, for the duels of pay; None for a gain that is not finite.
    `width`, `part`, `parts`: as in the payload's header; `model_share`: the part's share of the
    model's parameters. `alike`: uids of the window whose opened payloads share too many kept
    positions, ascending.
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
    width: int = 1
    part: int = 0
    parts: int = 1
    model_share: float = 1.0
    alike: tuple[int, ...] = ()
    work_effect: float | None = None
    work_variance: float | None = None
    page_effect: float | None = None
    page_square: float | None = None
    quarter_profile: tuple[float, ...] = ()
    gain_log_ratio: float | None = None
    half_gap: float | None = None

    @property
    def named(self) -> bool:
        return self.status == NAMED

    @property
    def measured(self) -> bool:
        return self.status in MEASURED

    @property
    def missing(self) -> bool:
        return self.status in MISSING

    @property
    def blameless(self) -> bool:
        return self.status in BLAMELESS

    def as_row(self) -> dict[str, object]:
        """The verdict as a JSON object, for the verdict log.

        A gain of minus infinity becomes None, since JSON has no infinities; the relative
        gain is always finite.
        """
        finite = self.gain is not None and math.isfinite(self.gain)
        return asdict(self) | {"gain": self.gain if finite else None}
