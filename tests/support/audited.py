"""A run to be audited, who plays in it, and logs of it that are other than they were."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from evaluation.conclusion import Registered, reputations_and_weights
from evaluation.history import add_window, past_of, select_windows
from evaluation.judge import judge
from evaluation.pace import add_pace, pace_of, pace_sample
from evaluation.verdict import NOT_SCORED, Verdict
from evaluation.verdict_log import WindowLog, decode_log, encode_log
from evaluation.verify import LogHistory
from simulation.swarm import uid_of
from simulation.world import World, hotkey_of
from template.audit.auditor import Auditor
from template.audit.findings import Findings
from template.audit.logs import audit_windows, logs_in_bucket, logs_in_files
from template.base.supervisor import supervise
from template.base.validator import Validator
from template.base.work import HonestWork
from template.context import ReadContext
from template.errors import Unavailable
from template.metrics import FanOutMetrics
from template.protocol.keys import verdict_key
from template.scoring.rules import pay_rules

WINDOWS = 5
FORGED = 3
"""The window that is forged: a checkpoint was published just before it."""
HEADER_BYTES = 74


class Ancient(HonestWork):
    """Says that its base is three windows old, one more than may be."""

    def make_frame(self, header, deltas):
        return super().make_frame(replace(header, base_window=max(0, header.window - 3)), deltas)


class Replay(HonestWork):
    """Says in every window what it said first."""

    def make_frame(self, header, deltas):
        frame = super().make_frame(header, deltas)
        first = self.__dict__.setdefault("_first", frame)
        return frame[:HEADER_BYTES] + first[HEADER_BYTES:]


class Sharing(HonestWork):
    """Honest, and lends its frames to `Twin`."""

    frames: ClassVar[dict[tuple[bytes, int], bytes]] = {}

    def make_frame(self, header, deltas):
        frame = super().make_frame(header, deltas)
        self.frames[self.parts.context.run.run_id, header.window] = frame
        return frame


class Twin(HonestWork):
    """In the forged window, sends what `Sharing` sends."""

    def make_frame(self, header, deltas):
        frame, context = super().make_frame(header, deltas), self.parts.context
        key = (context.run.run_id, header.window)
        while header.window == FORGED and key not in Sharing.frames:
            context.waiter.pause()
        body = Sharing.frames[key] if header.window == FORGED else frame
        return frame[:HEADER_BYTES] + body[HEADER_BYTES:]


def deaf(world: World, context) -> Validator:
    """A validator whom the bucket of m1 does not answer."""

    class Silent:
        def stream(self, key, take, *, start=0, max_bytes):
            raise Unavailable("no answer")

    def opened(hotkey, access):
        return Silent() if hotkey == hotkey_of("m1") else world.buckets[hotkey].reader()

    node = Validator(replace(context, open_bucket=opened))
    supervise(node.step, max_failures=1)
    return node


def live(world: World, context) -> list[Findings]:
    """Somebody who audits val-a while the run goes on."""
    reading = reader(world, context.state_dir)
    auditor = Auditor(reading, hotkey_of("val-a"), WINDOWS)
    source = logs_in_bucket(reading, auditor.peers, hotkey_of("val-a"))
    return list(audit_windows(auditor, source, 0, WINDOWS - 1))


def reader(world: World, folder: Path) -> ReadContext:
    """Somebody without a hotkey, and without a way to write."""
    node = world.context(hotkey_of("owner"), folder)
    return ReadContext(
        run=node.run,
        make_format=node.make_format,
        chain=node.chain,
        waiter=node.waiter,
        open_bucket=node.open_bucket,
        metrics=FanOutMetrics([]),
        state_dir=folder,
        device="cpu",
        run_file=node.run_file,
    )


def published(world: World, name: str) -> dict[int, bytes]:
    bucket, run_id = world.buckets[hotkey_of(name)], world.spec.run_id
    return {w: bucket.get(verdict_key(run_id, w), max_bytes=2**24) for w in range(WINDOWS)}


@dataclass
class Bench:
    """Audits of val-a's logs, of which one window is another text."""

    world: World
    folder: Path

    def __post_init__(self) -> None:
        self.logs = {w: decode_log(d.decode()) for w, d in published(self.world, "val-a").items()}
        self.rules = pay_rules(self.world.spec)
        self.honest = self.logs[FORGED]

    def uid(self, name: str) -> int:
        return uid_of(self.world, name)

    def verdict(self, name: str) -> Verdict:
        return next(v for v in self.honest.verdicts if v.hotkey == hotkey_of(name))

    def audit(self, forged: WindowLog | bytes) -> Findings:
        """Findings on the forged window, from the checkpoint before it on."""
        data = forged if isinstance(forged, bytes) else encode_log(forged).encode()
        logs = {**published(self.world, "val-a"), FORGED: data}
        auditor = Auditor(reader(self.world, self.folder), hotkey_of("val-a"), FORGED + 1)
        assert auditor.next_window == FORGED, "the checkpoint was not taken"
        (found,) = audit_windows(auditor, logs_in_files(logs), FORGED, FORGED)
        return found

    def resigned(self, forged: WindowLog) -> WindowLog:
        """With all that follows from the forged losses, owners and refusals."""
        past = LogHistory()
        for window in range(FORGED):
            past = past.add_log(self.logs[window], self.rules)
        histories = select_windows(past.histories, set(forged.known))
        blanks = [_blank(verdict, forged) for verdict in forged.verdicts]
        verdicts = judge(
            blanks, forged.measured, past_of(histories, self.rules.judge), self.rules.judge
        )
        after = add_window(histories, FORGED, verdicts, self.rules.length)
        registered = Registered(uids=forged.uids, burn_uid=forged.burn_uid)
        reputations, shares = reputations_and_weights(after, FORGED, registered, self.rules)
        known = {w: sample for w, sample in past.paces.items() if w in forged.known}
        sample = pace_sample(forged.exponent, forged.measured)
        paces = add_pace(known, FORGED, sample, self.rules.length)
        return replace(
            forged,
            verdicts=verdicts,
            reputations=reputations,
            shares=shares,
            pace=pace_of(paces),
        )


def _blank(verdict: Verdict, forged: WindowLog) -> Verdict:
    status = verdict.status if verdict.uid not in forged.measured.after_KQ else NOT_SCORED
    return replace(
        verdict,
        status=status,
        gain=None,
        gain_standard_error=None,
        relative_gain=None,
        work_effect=None,
        work_variance=None,
        page_effect=None,
        page_square=None,
        gain_log_ratio=None,
    )


def with_loss(bench: Bench, change: float) -> WindowLog:
    measured, uid = bench.honest.measured, bench.uid("m0")
    after_KQ = measured.after_KQ[uid].copy()
    after_KQ[5] += change
    return bench.resigned(
        replace(
            bench.honest,
            measured=replace(measured, after_KQ={**measured.after_KQ, uid: after_KQ}),
        )
    )


def with_reputation(bench: Bench, name: str, **changes: Any) -> WindowLog:
    hotkey = hotkey_of(name)
    reputation = bench.honest.reputations[hotkey]
    changed = replace(
        reputation,
        evidence=replace(
            reputation.evidence,
            work=replace(
                reputation.evidence.work, **{k: v for k, v in changes.items() if k != "mu"}
            ),
        ),
        rating=replace(reputation.rating, mu=changes.get("mu", reputation.rating.mu)),
    )
    return replace(bench.honest, reputations={**bench.honest.reputations, hotkey: changed})


def with_verdict(bench: Bench, name: str, **changes: Any) -> WindowLog:
    changed = replace(bench.verdict(name), **changes)
    verdicts = tuple(changed if v.uid == changed.uid else v for v in bench.honest.verdicts)
    return replace(bench.honest, verdicts=verdicts)
