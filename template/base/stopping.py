"""A miner's stop: committed payloads go up within a bound, and the log says what will be missed.

A payload that validators draw and cannot read has the worst verdict, and a stop may last. So what
is committed is uploaded even before the end of its window, when others could still send it as
their own: of payloads alike, the one with more work on its own pages counts. A payload that surely
nobody reads in its window stays secret; the state folder keeps it, and a restart uploads it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from template.base.pace import ScoringPace
from template.base.pending import PendingPayload
from template.context import NodeContext
from template.errors import SubnetError
from template.peers.threads import start
from template.protocol.keys import payload_key
from template.scoring.window import FETCH_SHARE

log = logging.getLogger(__name__)

T = TypeVar("T")

STOP_UPLOAD_S: Final = 5.0
"""Longest time of a stop for chain and bucket. The process itself ends 8 s after the signal."""
ASK_SHARE: Final = 0.3
"""The part of that time for asking the chain who reads a payload; without an answer it goes up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """The outcome of a stop. `missing`: committed payload -> why it is not in the bucket."""

    uploaded: tuple[PendingPayload, ...] = ()
    unread: tuple[PendingPayload, ...] = ()
    missing: tuple[tuple[PendingPayload, str], ...] = ()


def deliver(
    context: NodeContext,
    committed: Sequence[PendingPayload],
    is_unread: Callable[[PendingPayload], bool],
    limit_s: float,
) -> Delivery:
    """Upload `committed`, but for payloads that surely nobody reads, within `limit_s`.

    Chain and bucket may be away, and are waited for no longer than that.
    """
    end_s = time.monotonic() + limit_s
    unread: list[PendingPayload] = []
    _within(ASK_SHARE * limit_s, lambda: unread.extend(p for p in committed if is_unread(p)))
    left_out = tuple(unread)  # an answer that comes later changes nothing
    wanted = [payload for payload in committed if payload not in left_out]
    done: list[PendingPayload] = []

    def upload() -> None:
        for payload in reversed(wanted):
            key = payload_key(context.run.run_id, payload.window, payload.digest)
            context.bucket.put(key, payload.frame)
            done.append(payload)

    why = _within(max(0.0, end_s - time.monotonic()), upload) if wanted else ""
    uploaded = tuple(done)
    missing = tuple((p, why) for p in wanted if p not in uploaded)
    return Delivery(uploaded=uploaded, unread=left_out, missing=missing)


def tell_delivery(context: NodeContext, delivery: Delivery) -> None:
    """Say what was uploaded, what was not, what that costs, and when to be back."""
    pace = ScoringPace(context)
    for payload in delivery.uploaded:
        log.info(
            "window %d: the committed payload is uploaded, and validators can read it while this "
            "miner is away",
            payload.window,
        )
    for payload in delivery.unread:
        log.info(
            "window %d: no validator reads the payload in its window, outside the sample or late "
            "as it is (late and drawn, it counts as undelivered): it stays secret in the state "
            "folder, and is uploaded after a restart",
            payload.window,
        )
    for payload, why in delivery.missing:
        log.error(
            "window %d: the committed payload is NOT uploaded (%s): a validator that draws it "
            "counts it as undelivered, the worst verdict, and pay looks at the last %d windows. "
            "Start this miner again at once, before %s at the latest",
            payload.window,
            why,
            context.run.at(payload.window).weights.history_windows,
            context.waiter.when(pace.block_of(payload.window, FETCH_SHARE)),
        )


def tell_missed(context: NodeContext, last_committed: int) -> None:
    """Say from which window on a miner that is away is missing, and when to be back."""
    schedule = context.schedule
    window = max(0, last_committed + 1, schedule.window_of(context.waiter.expected_head()))
    if window < context.run.num_windows:
        log.info(
            "windows from %d on are missed while this miner is away; the payload of window %d has "
            "to be committed until %s",
            window,
            window,
            context.waiter.when(schedule.commit_block(window)),
        )


def _within(limit_s: float, call: Callable[[], None]) -> str:
    """Call in a thread, and wait for `limit_s` at most; why it is not done, or ""."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stop")
    try:
        start(pool, call).result(limit_s)
    except SubnetError as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {limit_s:.0f} s"
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return ""
