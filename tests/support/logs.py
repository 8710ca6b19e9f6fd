"""Verdict logs made up of random figures, in the form that a validator writes."""

import numpy as np

from evaluation.conclusion import Reputation
from evaluation.evidence import Evidence, GainState
from evaluation.judge import Measured
from evaluation.rating import Rating
from evaluation.verdict import Verdict
from evaluation.verdict_log import WindowLog
from evaluation.work import HELD_OUT, QUARTERS, WorkState, shown_to

NUM_HELD = 4


def made_up_log(
    window: int,
    *,
    num_pages: int = 8,
    num_payloads: int = 2,
    num_uids: int = 3,
    num_hotkeys: int = 3,
    detail: str = "says no",
) -> WindowLog:
    """`num_payloads` of `num_uids` payloads are measured, on `num_pages` pages."""
    rng = np.random.default_rng(window)
    uids = range(256 - num_uids, 256)
    measured_uids = list(uids)[:num_payloads]
    owners_S = np.full(num_pages, HELD_OUT, dtype=np.int64)
    owners_S[NUM_HELD:] = measured_uids[0] if measured_uids else HELD_OUT
    hotkeys = [f"{number:048d}" for number in range(num_hotkeys)]
    verdicts = tuple(
        Verdict(
            window=window, uid=uid, hotkey=hotkeys[number % num_hotkeys], digest="ab" * 32,
            status="not_delivered", detail=detail, gain=-float(rng.random()) / 1e99,
            gain_standard_error=float(rng.random()) / 1e99,
            relative_gain=-float(rng.random()) / 1e99, pages_consumed=2**32 - 1,
            base_window=2**32 - 1, width=2**16 - 1, part=2**16 - 2, parts=2**16 - 1,
            model_share=float(rng.random()) / 1e6, work_effect=-float(rng.random()) / 1e99,
            work_variance=float(rng.random()) * 1e99, page_effect=-float(rng.random()) / 1e99,
            page_square=float(rng.random()) / 1e99,
            alike=tuple(measured_uids) if uid in measured_uids else (),
            gain_log_ratio=-float(rng.random()) / 1e99,
        )
        for number, uid in enumerate(uids)
    )  # fmt: skip
    reputation = Reputation(
        evidence=Evidence(
            work=WorkState(log_ratio=-float(rng.random()) / 1e99, holds=False),
            gain=GainState(log_ratio=-float(rng.random()) / 1e99, holds=False),
        ),
        rating=Rating(mu=-float(rng.random()) / 1e99, sigma=float(rng.random()) / 1e99),
    )
    return WindowLog(
        window=window,
        seed=f"{window:064x}",
        ids_S=np.arange(num_pages) + 10**9,
        known=tuple(range(max(0, window - 32), window)),
        undelivered=tuple((max(0, window - 1), hotkey) for hotkey in hotkeys[:num_uids]),
        measured=Measured(
            owners_S=owners_S,
            before_SQ=-rng.random((num_pages, QUARTERS)) / 1e99,
            after_KQ={
                uid: -rng.random((int(shown_to(owners_S, uid).sum()), QUARTERS)) / 1e99
                for uid in measured_uids
            },
            half_way_H=-rng.random(int((owners_S == HELD_OUT).sum())) / 1e99,
        ),
        verdicts=verdicts,
        uids=dict(zip(hotkeys, uids, strict=False)),
        burn_uid=2**16 - 1,
        reputations=dict.fromkeys(hotkeys, reputation),
        shares={uid: float(rng.random()) / 1e99 for uid in uids},
        exponent=-64,
        pace=-1,
    )
