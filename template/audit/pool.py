"""The pool in a verdict log, compared with the pool drawn from the opened payloads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.verdict import MEASURED, NOT_SCORED
from evaluation.verdict_log import WindowLog
from evaluation.verify import compare_pages, find_skipped, uids_in_pool_order
from template.audit.findings import Findings
from template.audit.payloads import Checked, logged_header
from template.protocol.payload import Payload, PayloadHeader
from template.protocol.root import Member
from template.protocol.spec import RunSpec
from template.scoring.pool import Pool
from template.scoring.rules import admits_claim, part_to_train

Draw = Callable[[Mapping[Member, PayloadHeader]], Pool]
"""Draws the pool of the window for headers in the order of the payloads."""

ListSeed = Callable[[str, int], bytes]
"""Hotkey and window -> the seed of the page list, 32 bytes."""

ShardsOf = Callable[[np.ndarray], np.ndarray]
"""Ids of pages -> numbers of their shards."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """The payloads opened by the validator, in the validator's order.

    `payloads`: uid -> payload, for payloads still in a bucket.
    """

    headers: Mapping[Member, PayloadHeader]
    payloads: Mapping[int, Payload]

    @property
    def num_missing(self) -> int:
        return len(self.headers) - len(self.payloads)


def list_opened(
    log: WindowLog,
    order: Sequence[Member],
    checked: Mapping[int, Checked],
    spec: RunSpec,
    list_seed: ListSeed,
    found: Findings,
) -> Opened:
    """Opened payloads by the log, in the order of the draw.

    A fetched payload gives the header, compared with the logged header; else the log gives it, and
    says which part of the model a payload trained that no bucket has any more.
    """
    verdicts = {verdict.uid: verdict for verdict in log.verdicts}
    headers, payloads = {}, {}
    for member in order:
        verdict = verdicts.get(member.uid)
        header = None if verdict is None else logged_header(verdict, member)
        if verdict is None or header is None or verdict.status not in (*MEASURED, NOT_SCORED):
            continue
        payload = checked[member.uid].payload if member.uid in checked else None
        if payload is not None:
            payloads[member.uid] = payload
            compare_headers(member.uid, header, payload.header, found)
            header = payload.header
        if admits_header(spec, header, list_seed, member.hotkey):
            headers[member] = header
        else:
            found.add_difference(
                f"uid {member.uid}: a payload with these claims", "refused", "opened"
            )
    return Opened(headers=headers, payloads=payloads)


def admits_header(spec: RunSpec, header: PayloadHeader, list_seed: ListSeed, hotkey: str) -> bool:
    """Whether staleness, claimed pages and the part of the model are as the run has them.

    ChainError if `list_seed` does not know the block of the draw.
    """
    return (
        0 <= header.base_window <= header.window
        and header.staleness <= spec.outer.max_staleness
        and admits_claim(spec, header)
        and header.blocks.parts <= spec.training.max_parts
        and header.blocks == part_to_train(header, list_seed, hotkey)
    )


def compare_headers(
    uid: int, logged: PayloadHeader, actual: PayloadHeader, found: Findings
) -> None:
    """The header fields repeated in the log."""
    pairs = (
        ("pages_consumed", actual.pages_consumed, logged.pages_consumed),
        ("base_window", actual.base_window, logged.base_window),
        ("width", actual.width, logged.width),
        ("part of the model", str(actual.blocks), str(logged.blocks)),
    )
    for name, claimed, in_log in pairs:
        if claimed != in_log:
            found.add_difference(f"uid {uid}: {name}", claimed, in_log)


def compare_pool(
    log: WindowLog,
    opened: Opened,
    draw: Draw,
    knows_past: bool,
    shards_of: ShardsOf,
    found: Findings,
) -> Pool | None:
    """The pool to measure, as drawn; None if the logged pool has another size.

    `knows_past`: whether the auditor has every log behind the order of the payloads.
    """
    drawn = draw(opened.headers)
    pool = _leave_out(log, drawn, shards_of)
    if pool.ids_S.size != drawn.ids_S.size:
        found.add_unknown(
            f"pool: {drawn.ids_S.size - pool.ids_S.size} pages are left out: no bucket had their "
            "shards, by this validator's word"
        )
    order = [member.uid for member in opened.headers]
    logged_order = uids_in_pool_order(log.measured.owners_S)
    different = compare_pages(log, pool.ids_S, pool.owners_S)
    if different and sorted(logged_order) == sorted(order) != logged_order:
        by_uid = {member.uid: (member, header) for member, header in opened.headers.items()}
        reordered = dict(by_uid[uid] for uid in logged_order)
        other = draw(reordered)
        other = _leave_out(log, other, shards_of)
        different_reordered = compare_pages(log, other.ids_S, other.owners_S)
        if len(different_reordered) < len(different):
            pool, different = other, different_reordered
            if knows_past:
                found.add_difference("order of the payloads", order, logged_order)
            order = logged_order
    found.wrong += different
    _compare_owners(log, order, logged_order, found)
    if pool.ids_S.size == log.ids_S.size:
        return pool
    found.add_unknown("losses: not compared, because the pools differ in size")
    return None


def _leave_out(log: WindowLog, pool: Pool, shards_of: ShardsOf) -> Pool:
    """The pool without the shards of which the log has no page.

    A validator leaves out whole shards that no bucket has, and never single pages.
    """
    shards_S = shards_of(pool.ids_S)
    return pool.select(np.isin(shards_S, shards_of(log.ids_S)))


def _compare_owners(
    log: WindowLog, order: Sequence[int], logged_order: Sequence[int], found: Findings
) -> None:
    """Every owner of pages opened a payload; measured payloads are the first in the order."""
    for uid in sorted(set(logged_order) - set(order)):
        found.wrong.append(
            f"{found.window_label}, uid {uid}: owns pages, but no payload to claim them"
        )
    for uid, later_uid in find_skipped(order, log.measured.after_KQ.keys()).items():
        found.wrong.append(
            f"{found.window_label}, uid {uid}: not measured, though uid {later_uid} behind it was"
        )
