"""The losses in a verdict log, compared with losses measured again at the same theta."""

import math
from collections.abc import Collection, Mapping

import numpy as np

from evaluation.judge import Measured
from evaluation.verdict_log import WindowLog
from evaluation.verify import compare_losses, worst_difference
from evaluation.work import HELD_OUT, QUARTERS, Floats, shown_to
from template.audit.findings import Findings
from template.audit.pool import Opened
from template.protocol.payload import Payload
from template.protocol.spec import RunSpec
from template.scoring.measure import Measurer, Step, scored_step
from template.scoring.pool import Pool
from template.training.energy import Norms
from template.training.outer import OuterState, scored_references


def measure_again(
    measurer: Measurer,
    spec: RunSpec,
    state: OuterState,
    pool: Pool,
    opened: Opened,
    uids: Collection[int],
) -> Measured:
    """Losses at theta, and after the steps of `uids` whose length is known."""
    steps = known_steps(spec, state, opened.payloads, opened.num_missing, uids)
    return measurer.measure_pool(state, pool, steps)


def known_steps(
    spec: RunSpec,
    state: OuterState,
    payloads: Mapping[int, Payload],
    num_missing: int,
    uids: Collection[int],
) -> dict[int, Step]:
    """Steps of `uids` whose coefficients are the same for all possible missing payloads.

    In a run without accepted payloads, the clip references depend on the norms of all opened
    payloads. The lower median of norms is monotonic: norms of zero and of infinity bound it.
    """
    norms = [payload.norms for payload in payloads.values()]
    zero: Norms = dict.fromkeys(state.initial_norms, 0.0)
    infinite: Norms = dict.fromkeys(state.initial_norms, math.inf)
    shortest = scored_references(state, [*norms, *[zero] * num_missing], spec.outer)
    longest = scored_references(state, [*norms, *[infinite] * num_missing], spec.outer)
    steps = {uid: scored_step(payloads[uid], shortest, state, spec) for uid in uids}
    return {
        uid: step
        for uid, step in steps.items()
        if step.coefficients == scored_step(payloads[uid], longest, state, spec).coefficients
    }


def compare_half_way(
    log: WindowLog,
    pool: Pool,
    is_H: Floats | None,
    state: OuterState,
    tolerance: float,
    found: Findings,
) -> None:
    """Losses half-way through the last outer step; a validator that just started has none.

    `is_H`: by the auditor; None without the parameters before the step.
    """
    said_H = log.measured.half_way_H
    if log.exponent != state.exponent:
        found.add_difference("exponent of alpha", state.exponent, log.exponent)
    if said_H is None:
        return
    if not state.is_last_applied:
        found.add_difference("losses half-way", "none, since no payload was applied", "some")
    elif is_H is None:
        found.add_unknown("losses half-way: the auditor lacks the parameters before the last step")
    else:
        ids_H = pool.ids_S[pool.owners_S == HELD_OUT]
        subject = f"{found.window_label}: loss half-way"
        found.wrong += compare_losses(subject, ids_H, said_H, is_H, tolerance)
        found.num_losses += is_H.size
        found.worst = max(found.worst, worst_difference(said_H, is_H))


def compare_measured(
    log: WindowLog,
    opened: Opened,
    pool: Pool,
    measured: Measured,
    tolerance: float,
    found: Findings,
) -> None:
    """Losses may differ by `tolerance`, nats per token; `measured` by the auditor."""
    opened_uids = {member.uid for member in opened.headers}
    label = found.window_label
    pairs = [(f"{label}: loss at theta", pool.ids_S, log.measured.before_SQ, measured.before_SQ)]
    for uid, logged_KQ in log.measured.after_KQ.items():
        if uid not in opened_uids:
            found.add_difference(f"uid {uid}: losses", "none, since it was not opened", "some")
        elif uid not in measured.after_KQ:
            found.add_unknown(
                f"uid {uid}: its losses were not computed again; {opened.num_missing} payloads "
                "of the window are missing"
            )
        else:
            subject = f"{label}, uid {uid}: loss after its step"
            ids_K = pool.ids_S[shown_to(pool.owners_S, uid)]
            pairs.append((subject, ids_K, logged_KQ, measured.after_KQ[uid]))
    for subject, ids, logged, actual in pairs:
        found.wrong += compare_losses(
            subject, ids, logged.mean(axis=1), actual.mean(axis=1), tolerance
        )
        # A quarter's mean is over a quarter of the tokens, and so of the roundings.
        found.wrong += compare_losses(
            f"{subject}, in a quarter",
            np.repeat(ids, QUARTERS),
            logged.ravel(),
            actual.ravel(),
            QUARTERS * tolerance,
        )
        found.num_losses += len(actual)
        found.worst = max(found.worst, worst_difference(logged.mean(axis=1), actual.mean(axis=1)))
