"""Reads the public facts of a run: chain, lineage and verdict logs of strangers, within bounds.

Strangers' buckets may be slow, absent or lie: such a validator's column says so, and the rest goes
on. Columns are read side by side, each within `COLUMN_LIMIT_S`, and the logs of at most `MAX_LOGS`
validators, those with most stake. A reader that looks again asks only for what it lacks.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from evaluation.verdict_log import LogError, decode_log
from template.chain import Metagraph, WeightTimes
from template.chain.ballots import read_ballot
from template.context import ReadContext
from template.errors import (
    ChainError,
    NotFound,
    SubnetError,
    TooLarge,
    Unavailable,
)
from template.peers.client import Peers
from template.peers.notice import AskNotice
from template.protocol.keys import checkpoint_manifest_key, verdict_key
from template.protocol.lineage import LineageStep
from template.protocol.notice import VersionNotice
from template.protocol.quorum import VOID, Ballot, Decision, decide, next_reference
from template.protocol.record import LOG_DIGEST_BYTES, log_digest
from template.protocol.strangers import in_ascii
from template.public.facts import (
    CastVote,
    CheckpointFacts,
    Judgement,
    LogState,
    NeuronFacts,
    Outcome,
    ReadLog,
    RunFacts,
    SubnetFacts,
    WindowFacts,
)
from template.public.view import RunView
from template.scoring.rules import pay_rules, verdict_log_limit_bytes
from template.sync.lineage import find_voted_root, read_lineage_to, voted_state

MAX_LOGS: Final = 8
"""Validators whose logs are read: a log has megabytes in a large run."""
COLUMN_LIMIT_S: Final = 60.0
"""Longest time in which one validator's bucket may deliver its logs in one reading."""
ASKED_AGAIN: Final = 16
"""Newest windows whose missing logs are asked for again."""
ASKED_ALWAYS: Final = (LogState.NO_ANSWER, LogState.NOT_IN_TIME)
"""States that say nothing of the log: the next reading asks again, however old the window is."""
STEPS_BEFORE: Final = 64
"""Steps of the lineage before the first window: the reference stake follows from them."""
NEWEST_CHECKPOINTS: Final = 2
"""Checkpoints of which this reader asks who has them."""
MAX_DETAIL_CHARS: Final = 200
NO_DIGEST: Final = bytes(LOG_DIGEST_BYTES)


def ask_nobody() -> VersionNotice | None:
    """The `ask_notice` of a reader that shows no notice."""
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class _ChainPart:
    """What the chain says of a window. `ballot`: None until votes are final, or with `fault`."""

    registered: Mapping[str, int]
    ballot: Ballot | None
    fault: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Lineage:
    """The steps to the voted root by window, and the reference stake after each."""

    steps: Mapping[int, LineageStep]
    references_rao: Mapping[int, int]
    root: str = ""
    root_window: int = 0
    fault: str = ""


class Gatherer:
    """Reads a run again and again; what cannot change is kept."""

    def __init__(
        self,
        context: ReadContext,
        *,
        netuid: int,
        network: str,
        max_logs: int = MAX_LOGS,
        clock: Callable[[], float] = time.monotonic,
        ask_notice: AskNotice = ask_nobody,
    ) -> None:
        """`network`: how the chain is named in commands, without secrets. `clock`: seconds.

        `ask_notice`: reads the owner's notice of a version; asked once in each reading.
        """
        self._context, self._netuid, self._network = context, netuid, network
        self._max_logs = max_logs
        self._clock, self._ask_notice = clock, ask_notice
        self._peers = Peers(context)
        self._parts: dict[int, _ChainPart] = {}
        self._logs: dict[tuple[int, str], ReadLog] = {}

    def last_counted(self) -> int:
        """The newest window of the run whose votes are final; negative before."""
        schedule, last = self._context.schedule, self._context.run.num_windows - 1
        return min(schedule.last_counted(self._context.chain.finalized()), last)

    def read(
        self, first: int, last: int | None = None, *, deep: Sequence[str] | None = None
    ) -> RunFacts:
        """The facts of windows `first` to `last`, by default to the newest with final votes.

        `deep`: validators whose logs of all windows are read; of the others the last window's
        alone. By default of all. Raises ChainError if the chain's present state cannot be read.
        """
        context, schedule = self._context, self._context.schedule
        finalized = context.chain.finalized()
        last_counted = self.last_counted()
        last = last_counted if last is None else last
        self._peers.refresh()
        subnet = self._read_subnet(finalized)
        lineage = self._read_lineage(first)
        windows = range(max(0, first), last + 1)
        self._forget_before(windows.start)
        for window in windows:
            self._read_chain_part(window, finalized)
        by_stake = self._by_stake(subnet)
        asked = by_stake[: self._max_logs]
        self._read_logs(windows, asked, asked if deep is None else deep)
        return RunFacts(
            run=context.run,
            netuid=self._netuid,
            network=self._network,
            head_window=schedule.window_of(finalized),
            last_counted=last_counted,
            subnet=subnet,
            windows={w: self._window(w, lineage, asked, by_stake) for w in windows},
            root=lineage.root,
            root_window=lineage.root_window,
            lineage_fault=lineage.fault,
            checkpoints=self._checkpoints(lineage, by_stake[: self._max_logs]),
        )

    def _by_stake(self, subnet: SubnetFacts) -> list[str]:
        """Hotkeys with a permit, most stake first: those that have voted before those that mine."""
        ballots = (part.ballot for part in self._parts.values())
        voters = {v.hotkey for ballot in ballots if ballot is not None for v in ballot.voters}
        found = [neuron.hotkey for neuron in subnet.validators()]
        return sorted(found, key=lambda hotkey: hotkey not in voters)

    def read_for_payslip(self, window: int) -> RunFacts:
        """The facts of a window, with the windows before that its pay rests on.

        Those are read of one validator alone, whose log of the window counts and has most stake.
        """
        of_window = RunView(self.read(window, window)).window(window)
        reference = of_window.reference
        first = window - pay_rules(self._context.run.at(window)).length
        return self.read(max(0, first), window, deep=[] if reference is None else [reference])

    def _forget_before(self, window: int) -> None:
        self._parts = {w: part for w, part in self._parts.items() if w >= window}
        self._logs = {key: read for key, read in self._logs.items() if key[0] >= window}

    def _read_subnet(self, block: int) -> SubnetFacts:
        chain = self._context.chain
        graph = chain.metagraph(block)
        try:
            weights, fault = chain.weights(block), ""
        except ChainError as error:
            weights, fault = {}, _shown(error)
        least: int | None = None  # None says that the chain did not tell, here and below
        times: WeightTimes | None = None
        with suppress(ChainError):
            least = chain.least_version_key()
        with suppress(ChainError):
            times = chain.weight_times(block)
        return replace(
            _subnet_facts(graph, weights, fault),
            notice=self._ask_notice(),
            least_version_key=least,
            weight_times=times,
        )

    def _read_lineage(self, first: int) -> _Lineage:
        context = self._context
        try:
            vote = find_voted_root(context)
            if vote is None:
                fault = "no root has the votes of more than half of the reference stake"
                return _Lineage(steps={}, references_rao={}, fault=fault)
            since = max(0, first - STEPS_BEFORE)
            steps = read_lineage_to(context, self._peers, vote, since)
        except SubnetError as error:
            return _Lineage(steps={}, references_rao={}, fault=_shown(error))
        reference_rao, references_rao = 0, {}
        for step in steps:
            reference_rao = next_reference(
                reference_rao,
                step.voting_stake_rao,
                context.run.at(step.window).outer.quorum_rules(),
            )
            references_rao[step.window] = reference_rao
        fault = "" if steps else "no validator's bucket has a lineage that leads to the voted root"
        return _Lineage(
            steps={step.window: step for step in steps},
            references_rao=references_rao,
            root=vote.root.hex(),
            root_window=voted_state(context, vote),
            fault=fault if vote.window > 0 else "",
        )

    def _read_chain_part(self, window: int, finalized: int) -> None:
        """Candidates, votes and uids of a window, once they are final."""
        known = self._parts.get(window)
        if known is not None and known.ballot is not None:
            return
        context, schedule = self._context, self._context.schedule
        if finalized < schedule.stake_block(window):
            fault = f"window {window} is not over"
            self._parts[window] = _ChainPart(registered={}, ballot=None, fault=fault)
            return
        try:
            graph = context.chain.metagraph(schedule.stake_block(window))
            is_counted = finalized >= schedule.vote_block(window)
            ballot = read_ballot(context.chain, context.run, window) if is_counted else None
        except ChainError as error:
            self._parts[window] = _ChainPart(registered={}, ballot=None, fault=_shown(error))
            return
        self._parts[window] = _ChainPart(
            registered={neuron.hotkey: neuron.uid for neuron in graph.neurons},
            ballot=ballot,
            fault="" if is_counted else f"the votes on window {window} are not final",
        )

    def _read_logs(self, windows: range, asked: Sequence[str], deep: Collection[str]) -> None:
        newest = windows[-1:]
        lacking = {h: self._lacking(windows if h in deep else newest, h) for h in asked}
        lacking = {hotkey: some for hotkey, some in lacking.items() if some}
        if not lacking:
            return
        with ThreadPoolExecutor(len(lacking), thread_name_prefix="logs") as pool:
            columns = {h: pool.submit(self._read_column, h, ws) for h, ws in lacking.items()}
            for hotkey, column in columns.items():
                for window, read in column.result().items():
                    self._logs[window, hotkey] = read

    def _lacking(self, windows: range, hotkey: str) -> list[int]:
        """Windows whose log of a validator may still come, the newest first."""
        return [
            window
            for window in reversed(windows)
            if (known := self._logs.get((window, hotkey))) is None
            or known.state in ASKED_ALWAYS
            or (known.judgement is None and window > windows.stop - 1 - ASKED_AGAIN)
        ]

    def _read_column(self, hotkey: str, windows: Iterable[int]) -> dict[int, ReadLog]:
        """A validator's logs; after a silence, or too long a time, it is asked no more.

        The bucket's time alone counts: what this machine takes to decode a log is not its fault.
        """
        found: dict[int, ReadLog] = {}
        spent_s = 0.0
        unread: ReadLog | None = None
        for window in windows:
            if unread is None and spent_s > COLUMN_LIMIT_S:
                detail = f"the logs before took more than {COLUMN_LIMIT_S:.0f} s to come"
                unread = ReadLog(state=LogState.NOT_IN_TIME, detail=detail)
            if unread is not None:
                found[window] = unread
                continue
            began_s = self._clock()
            data, is_silent = self._fetch_log(hotkey, window)
            spent_s += self._clock() - began_s
            read = data if isinstance(data, ReadLog) else self._checked_log(hotkey, window, data)
            found[window] = read
            if is_silent:
                detail = f"not asked again: {read.detail}"
                unread = ReadLog(state=LogState.NO_ANSWER, detail=detail)
        return found

    def _fetch_log(self, hotkey: str, window: int) -> tuple[bytes | ReadLog, bool]:
        """The log's bytes or why there are none, and whether the bucket was silent."""
        run = self._context.run
        limit_bytes, key = verdict_log_limit_bytes(run.at(window)), verdict_key(run.run_id, window)
        try:
            data = self._peers.bucket(hotkey).get(key, max_bytes=limit_bytes)
        except NotFound as error:
            return ReadLog(state=LogState.NOT_THERE, detail=_shown(error)), False
        except TooLarge as error:
            return ReadLog(state=LogState.NO_LOG, detail=_shown(error)), False
        except SubnetError as error:
            is_silent = isinstance(error, Unavailable)
            return ReadLog(state=LogState.NO_ANSWER, detail=_shown(error)), is_silent
        return data, False

    def _checked_log(self, hotkey: str, window: int, data: bytes) -> ReadLog:
        """The log in the bytes, if they are those that the validator voted with."""
        read = partial(ReadLog, num_bytes=len(data))
        part = self._parts.get(window)
        state = LogState.UNPROVEN
        if part is not None and part.ballot is not None:
            for voter in part.ballot.voters:
                if voter.hotkey == hotkey and voter.vote.log_digest != log_digest(data):
                    detail = f"the vote names {voter.vote.log_digest.hex()}, the bytes have "
                    detail += log_digest(data).hex()
                    return read(state=LogState.DIFFERS, detail=detail)
                if voter.hotkey == hotkey:
                    state = LogState.READ
        try:
            log = decode_log(data.decode("utf-8"))
        except (LogError, UnicodeDecodeError) as error:
            return read(state=LogState.NO_LOG, detail=_shown(error))
        if log.window != window:
            return read(state=LogState.NO_LOG, detail=f"it is the log of window {log.window}")
        return read(state=state, judgement=Judgement.of(log))

    def _window(
        self, window: int, lineage: _Lineage, asked: Sequence[str], by_stake: Sequence[str]
    ) -> WindowFacts:
        part = self._parts[window]
        ballot, step = part.ballot, lineage.steps.get(window)
        reference_rao = lineage.references_rao.get(window - 1, 0)
        rules = self._context.run.at(window).outer.quorum_rules()
        decision = None if ballot is None else decide(ballot, reference_rao, rules)
        unasked = {h: ReadLog(state=LogState.NOT_ASKED) for h in by_stake if h not in asked}
        return WindowFacts(
            window=window,
            registered=part.registered,
            committed={} if ballot is None else ballot.candidates,
            votes=() if ballot is None or decision is None else _cast_votes(ballot, decision),
            outcome=_outcome(decision, step, lineage.references_rao.get(window, 0)),
            logs={h: self._logs[window, h] for h in asked if (window, h) in self._logs} | unasked,
            chain_fault=part.fault,
        )

    def _checkpoints(
        self, lineage: _Lineage, validators: Sequence[str]
    ) -> tuple[CheckpointFacts, ...]:
        """theta_w with a digest in the lineage, newest first; of some of them who has them."""
        found = {s.window + 1: s.checkpoint.hex() for s in lineage.steps.values() if s.checkpoint}
        published = [
            window
            for window in sorted(found, reverse=True)
            if self._context.run.is_checkpoint(window)
        ]
        newest = published[:NEWEST_CHECKPOINTS]
        return tuple(
            CheckpointFacts(
                window=window,
                digest=found[window],
                holders=self._holders(window, validators) if window in newest else None,
            )
            for window in published
        )

    def _holders(self, window: int, validators: Sequence[str]) -> tuple[str, ...]:
        key = checkpoint_manifest_key(self._context.run.run_id, window)
        with ThreadPoolExecutor(max(1, len(validators)), thread_name_prefix="manifests") as pool:
            found = pool.map(partial(self._has, key), validators)
            return tuple(h for h, has in zip(validators, found, strict=True) if has)

    def _has(self, key: str, hotkey: str) -> bool:
        try:
            self._peers.bucket(hotkey).size(key)
        except SubnetError:
            return False  # a bucket that does not answer serves nobody
        return True


def _cast_votes(ballot: Ballot, decision: Decision) -> tuple[CastVote, ...]:
    return tuple(
        CastVote(
            uid=voter.uid,
            hotkey=voter.hotkey,
            stake_rao=voter.stake_rao,
            named=voter.vote.uids,
            missing=voter.vote.missing,
            root=voter.vote.root.hex(),
            sample_digest=voter.vote.sample_digest.hex(),
            log_digest="" if voter.vote.log_digest == NO_DIGEST else voter.vote.log_digest.hex(),
            pace=voter.vote.pace,
            agrees=voter.vote.root == decision.root,
            same_tensors=decision.sample_digest in (None, voter.vote.sample_digest),
        )
        for voter in ballot.voters
    )


def _outcome(
    decision: Decision | None, step: LineageStep | None, reference_rao: int
) -> Outcome | None:
    """What was applied: by the lineage where it reaches, else by the votes."""
    undelivered = None if decision is None else frozenset(m.uid for m in decision.undelivered)
    if step is None and decision is None:
        return None
    if step is None:
        assert decision is not None
        return Outcome(
            accepted=frozenset(member.uid for member in decision.members),
            undelivered=undelivered,
            voting_stake_rao=decision.voting_stake_rao,
            reference_rao=decision.reference_rao,
            no_op=decision.no_op,
            source="votes",
        )
    return Outcome(
        accepted=frozenset(member.uid for member in step.members),
        undelivered=undelivered,
        voting_stake_rao=step.voting_stake_rao,
        reference_rao=reference_rao,
        no_op="" if step.members else _why_none(decision),
        source="lineage",
    )


def _why_none(decision: Decision | None) -> str:
    """Why a step has no payloads; votes for some of them mean that they were given up."""
    if decision is None:
        return "no payload was applied; the chain endpoint no longer has the votes that say why"
    return VOID if decision.members else decision.no_op


def _subnet_facts(
    graph: Metagraph, weights: Mapping[int, Mapping[int, float]], fault: str
) -> SubnetFacts:
    return SubnetFacts(
        block=graph.block,
        tempo_blocks=graph.tempo_blocks,
        neurons={
            neuron.hotkey: NeuronFacts(
                uid=neuron.uid,
                hotkey=neuron.hotkey,
                coldkey=neuron.coldkey,
                is_validator=neuron.validator_permit,
                stake_rao=neuron.total_stake_rao,
                incentive=neuron.incentive,
                dividends=neuron.dividends,
                emission_rao=neuron.emission_rao,
                last_update=neuron.last_update,
            )
            for neuron in graph.neurons
        },
        weights=weights,
        weights_fault=fault,
        price_tao=graph.price_tao,
        owner_uid=graph.owner_uid,
    )


def _shown(error: Exception) -> str:
    """A stranger's words, cut and in printable ASCII."""
    return in_ascii(str(error), MAX_DETAIL_CHARS)
