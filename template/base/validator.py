"""The validator: score what was committed, vote, follow, set weights, publish.

One pass of the loop is one window. Everything that its weights depend on is in the
verdict logs of the last windows.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.conclusion import chosen
from evaluation.history import Entry, Histories, only, remember, settle, windows_of
from evaluation.verdict_log import LogError, WindowLog, conclude, decode_log, encode_log, split_logs
from evaluation.work import WorkSample
from template.base.standing import Standing, publish, publish_if_new
from template.bucket.publisher import Publisher
from template.bucket.retention import Sweeper
from template.chain import Metagraph
from template.chain.ballots import read_candidates, read_records
from template.context import NodeContext
from template.data.unigram import unigram_entropy
from template.errors import ChainError, StoreError, disk_trouble
from template.log_context import window_context
from template.peers.client import Peers
from template.protocol.keys import payload_key, verdict_key
from template.protocol.quorum import Decision
from template.protocol.record import ROOT_BYTES, Record, Vote, log_digest
from template.protocol.root import sample_digest
from template.scoring.rules import pay_rules
from template.scoring.window import Scored, WindowScorer
from template.sync.bootstrap import join, open_pages, save_own
from template.sync.follower import Follower
from template.sync.lineage import LineagePublisher
from template.training.checkpoint import LocalCheckpoint

log = logging.getLogger(__name__)

LOG_FILE = "verdicts.jsonl"
STUCK_SHARE = 0.75
"""Of the time for scoring a window, after which a node that is stuck before it says so."""

VOTE_MARGIN_BLOCKS = 2
"""Blocks before the vote block at which scoring stops, so that the vote gets into a block."""


class Validator:
    """A validator at work. `step` is one window; `template.base.supervisor` repeats it."""

    def __init__(self, context: NodeContext, *, sets_weights: bool = True) -> None:
        self.context = context
        self.peers = Peers(context)
        self._own_standing = Standing(context)
        self._own_standing.watch_permit()
        self._publisher = Publisher(context)
        checkpoint = join(context, self.peers, self._publisher.offer)
        self.follower = Follower(context, self.peers, checkpoint.state)
        self._publisher.offer_missing_checkpoint(checkpoint.state)
        pages = open_pages(context, self.peers, self._publisher.offer)
        self._sweeper = Sweeper(context, pages.digests)
        self._scorer = WindowScorer(context, self.peers, pages)
        self._sets_weights = sets_weights
        self._rules = pay_rules(context.spec)
        self._histories = _load_histories(checkpoint.values)
        newest = max((w for history in self._histories.values() for w in history), default=0)
        self._reputations, _ = conclude(self._histories, newest, {}, self._rules)
        self._last_voted = int(checkpoint.values.get("last_voted", -1))
        self._undelivered = [(int(w), str(h)) for w, h in checkpoint.values.get("undelivered", ())]
        self._lineage = LineagePublisher(context)
        self._scored: tuple[int, Scored, bytes] | None = None
        self._logs = _last_log(context.state_dir / LOG_FILE)
        self._scored_windows = set(map(int, checkpoint.values.get("scored_windows", ())))
        self._keeps_up = True
        context.metrics.log(0, {"unigram_entropy": unigram_entropy(self._scorer.curve)})
        self._measure()
        standing = self._standing()
        if standing is not None and standing.root == self.follower.state.root[:ROOT_BYTES]:
            self._last_voted = max(self._last_voted, standing.window)
        publish_if_new(context, Record(access=context.access, vote=standing))

    def step(self) -> bool:
        """One window: score, vote, measure, set weights, wait for the votes, follow."""
        context, schedule = self.context, self.context.schedule
        window = self.follower.next_window
        if window >= context.spec.schedule.num_windows:
            self._publisher.push(lambda: False)
            return False
        with window_context(window):
            context.waiter.until_finalized(schedule.held_out_block(window))
            self._own_standing.watch_permit()
            self._watch_pace(window)
            if window > self._last_voted and not self._too_late(window):
                self._vote(window)
            self._set_weights(window)
            context.waiter.until_finalized(schedule.vote_block(window))
            self._settle(self.follower.advance(self._vote_stuck))
            self._save()
            self._lineage.publish(self.follower.past.steps)
            self._publish_checkpoint()
            if self._has_time_to_measure(window + 1):
                self._measure()
        return True

    def _watch_pace(self, window: int) -> None:
        """Tell when this node falls behind the chain, and when it has caught up."""
        keeps_up = window <= self._last_voted or not self._too_late(window)
        if self._keeps_up and not keeps_up:
            log.warning(
                "window %d: too late to score it and vote; catching up, without loss curve. If "
                "this comes again, the machine is too slow for the run spec's windows, or shared: "
                "several neurons on one machine need OMP_NUM_THREADS=1 or so each",
                window,
            )
        elif keeps_up and not self._keeps_up:
            log.warning("window %d: caught up with the chain", window)
        self._keeps_up = keeps_up

    def _has_time_to_measure(self, next_window: int) -> bool:
        """The curve is worth no vote; the run's last point is always measured."""
        last = next_window >= self.context.spec.schedule.num_windows
        return last or not self._too_late(next_window)

    def _standing(self) -> Vote | None:
        """The vote of this hotkey that is on chain: a restart must not take it away."""
        chain = self.context.chain
        record = read_records(chain, chain.head()).get(self.context.hotkey)
        return None if record is None else record.vote

    def _too_late(self, window: int) -> bool:
        return self._spent(window, 1.0)

    def _spent(self, window: int, share: float) -> bool:
        """Whether a share of the blocks between the upload deadline and the vote is over."""
        schedule = self.context.schedule
        start = schedule.held_out_block(window)
        end = schedule.vote_block(window) - VOTE_MARGIN_BLOCKS
        return self.context.waiter.recent_head() >= start + share * (end - start)

    def _vote(self, window: int) -> None:
        context, state = self.context, self.follower.state
        scored, digest = self._scored_once(window)
        block_hash = context.chain.block_hash(context.schedule.stake_block(window))
        vote = Vote(
            window=window,
            root=state.root[:ROOT_BYTES],
            sample_digest=sample_digest(state.params, block_hash),
            uids=self._choose(scored),
            missing=frozenset(v.uid for v in scored.verdicts if v.missing),
            log_digest=digest,
        )
        if publish(context, Record(access=context.access, vote=vote)):
            self._last_voted = window
            self._save()
            log.info("window %d: named %s of %d", window, sorted(vote.uids), len(scored.verdicts))
        self._publish_logs()  # after the vote: a slow bucket must not make it late

    def _vote_stuck(self) -> None:
        """While a payload is missing: say where this node stands on the windows that go by, once it
        is too late to score them, and name nobody.
        """
        context, state = self.context, self.follower.state
        window = context.schedule.window_of(context.waiter.recent_head()) - 1
        is_over = window >= context.spec.schedule.num_windows
        if is_over or window <= max(self._last_voted, self.follower.next_window):
            return
        if not self._spent(window, STUCK_SHARE) or self._too_late(window):
            return
        block_hash = context.chain.block_hash(context.schedule.stake_block(window))
        vote = Vote(
            window=window,
            root=state.root[:ROOT_BYTES],
            sample_digest=sample_digest(state.params, block_hash),
            uids=frozenset(),
        )
        if publish(context, Record(access=context.access, vote=vote)):
            self._last_voted = window
            log.warning("window %d: stuck before theta_%d, and voted so", window, state.window + 1)

    def _scored_once(self, window: int) -> tuple[Scored, bytes]:
        """The window's scores and its log's digest; a vote that must be sent again sends the
        same.
        """
        if self._scored is None or self._scored[0] != window:
            context = self.context
            candidates = read_candidates(context.chain, context.schedule, window)
            scored = self._scorer.score(
                window,
                self.follower.state,
                list(candidates.values()),
                self._histories,
                lambda share: self._spent(window, share),
            )
            self._scored = (window, scored, log_digest(self._learn(window, scored)))
        _, scored, digest = self._scored
        self._hold(window, scored)
        return scored, digest

    def _choose(self, scored: Scored) -> frozenset[int]:
        limit = self.context.spec.outer.peers_per_step
        return chosen(scored.verdicts, self._reputations, limit)

    def _hold(self, window: int, scored: Scored) -> None:
        """To name a payload is to hold it: named frames go into this bucket before the vote."""
        for digest, frame in scored.frames.items():
            self.context.bucket.put(payload_key(self.context.spec.run_id, window, digest), frame)
            self.follower.keep(window, digest, frame)

    def _settle(self, decision: Decision) -> None:
        """What was applied, and what the voting stake could not get, of a window scored here."""
        self._scorer.decided(decision.window, {member.hotkey for member in decision.members})
        if decision.undelivered and decision.window in self._scored_windows:
            hotkeys = [member.hotkey for member in decision.undelivered]
            self._histories = settle(self._histories, decision.window, hotkeys)
            self._undelivered += [(decision.window, hotkey) for hotkey in hotkeys]

    def _learn(self, window: int, scored: Scored) -> bytes:
        """Remember the window, write its log; returns that."""
        spec = self.context.spec
        oldest = window - spec.weights.history_windows
        self._scored_windows = {w for w in self._scored_windows if w > oldest} | {window}
        known = windows_of(only(self._histories, range(window)))
        self._histories = remember(self._histories, window, scored.verdicts, self._rules.length)
        graph = self.context.chain.metagraph(self.context.schedule.stake_block(window))
        uids = {n.hotkey: n.uid for n in graph.neurons if n.hotkey in self._histories}
        self._reputations, shares = conclude(self._histories, window, uids, self._rules)
        text = encode_log(
            WindowLog(
                window=window,
                seed=scored.seed.hex(),
                ids_S=scored.pool.ids_S,
                known=known,
                undelivered=tuple(self._undelivered),
                measured=scored.measured,
                verdicts=scored.verdicts,
                uids=uids,
                reputations=self._reputations,
                shares=shares,
            )
        )
        path = self.context.state_dir / LOG_FILE
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise disk_trouble(path, error) from error
        self._undelivered = []
        self._logs = {w: data for w, data in self._logs.items() if w > oldest}
        self._logs[window] = text.encode()
        return self._logs[window]

    def _publish_logs(self) -> None:
        """Those that are not in the bucket yet: one that failed is tried again with the next."""
        for window, text in sorted(self._logs.items()):
            try:
                self.context.bucket.put(verdict_key(self.context.spec.run_id, window), text)
            except StoreError as error:
                log.warning("the verdict log of window %d is not in the bucket: %s", window, error)
                return
            del self._logs[window]

    def _set_weights(self, window: int) -> None:
        """Once per tempo; a refusal of the chain is logged and tried again next window."""
        chain = self.context.chain
        graph = chain.metagraph(chain.finalized())
        me = graph.by_hotkey(self.context.hotkey)
        if not self._sets_weights or me is None or window > self._last_voted:
            return
        if not me.validator_permit or not self._knows_enough(window):
            return
        if chain.head() - me.last_update < graph.tempo_blocks:
            return
        shares = self._weights(graph, window)
        try:
            chain.set_weights(shares)
        except ChainError as error:
            log.warning(
                "window %d: the chain did not take the weights (%s); they are set again in the "
                "next window",
                window,
                f"{error.name}: {error}" if error.name else error,
            )
            return
        self.context.metrics.log(window, {f"weight/{uid}": share for uid, share in shares.items()})
        log.info("window %d: set weights %s", window, {u: round(s, 4) for u, s in shares.items()})

    def _knows_enough(self, window: int) -> bool:
        """Whether as many windows were scored here lately as pay asks for, or as there were.

        A validator that was away would call honest miners unpaid; its older weights stand.
        """
        spec = self.context.spec.weights
        recent = {w for w in self._scored_windows if window - spec.history_windows < w <= window}
        needed = min(spec.min_windows, window + 1)
        if len(recent) < needed:
            log.info("window %d: no weights yet: scored %d of %d", window, len(recent), needed)
        return len(recent) >= needed

    def _weights(self, graph: Metagraph, window: int) -> dict[int, float]:
        uids = {n.hotkey: n.uid for n in graph.neurons if n.hotkey in self._histories}
        return conclude(self._histories, window, uids, self._rules)[1]

    def _measure(self) -> None:
        state = self.follower.state
        loss = self._scorer.held_out_loss(state)
        self.context.metrics.log(state.window, {"held_out_loss": loss})
        log.info("theta_%d: held-out loss %.4f nats per token", state.window, loss)

    def _publish_checkpoint(self) -> None:
        """What the bucket does not take before the next window is scored goes out after that."""
        self._publisher.offer_checkpoint(self.follower.state)
        window = self.follower.next_window
        scoring_block = self.context.schedule.held_out_block(window)
        is_last = window >= self.context.spec.schedule.num_windows

        def stop() -> bool:
            return not is_last and self.context.waiter.recent_head() >= scoring_block

        self._publisher.push(stop)
        if not stop():
            self._sweeper.sweep(self.follower.state.window, stop)

    def _save(self) -> None:
        values = {
            "last_voted": self._last_voted,
            "undelivered": self._undelivered,
            "scored_windows": sorted(self._scored_windows),
            "histories": {
                hotkey: {str(window): _as_list(entry) for window, entry in history.items()}
                for hotkey, history in self._histories.items()
            },
        }
        checkpoint = LocalCheckpoint(state=self.follower.state, values=values)
        save_own(self.context, checkpoint)


def _last_log(path: Path) -> dict[int, bytes]:
    """The newest verdict log on disk: a kill after the vote may have kept it from the bucket."""
    try:
        texts = split_logs(path.read_text(encoding="utf-8")) if path.exists() else []
        return {decode_log(text).window: text.encode() for text in list(texts)[-1:]}
    except (OSError, UnicodeDecodeError, LogError) as error:
        log.warning("%s: its last log cannot be read, and is not published again: %s", path, error)
        return {}


def _as_list(entry: Entry) -> list[float | None]:
    work = entry.work
    evidence = () if work is None else (work.effect, work.variance, work.square)
    return [entry.relative_gain, entry.pages, *evidence]


def _entry(numbers: list[Any]) -> Entry:
    gain, pages, *work = numbers
    sample = WorkSample(effect=work[0], variance=work[1], square=work[2]) if work else None
    return Entry(relative_gain=gain, pages=pages, work=sample)


def _load_histories(values: Mapping[str, Any]) -> Histories:
    return {
        hotkey: {int(window): _entry(numbers) for window, numbers in history.items()}
        for hotkey, history in values.get("histories", {}).items()
    }
