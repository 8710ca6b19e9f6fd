"""Following a run from spec to spec: what validators support, what is adopted, and the switch.

A spec lies under its id in the buckets of those who support it. A node fetches and checks every
supported spec long before it could hold, and says what it changes. Once a ballot has adopted it,
the node appends it to the run, and keeps it in the state folder; a validator serves it too. A node
that cannot follow, because its software is too old or does not know a key, says so in each window
and stops before the first window under the spec.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from template import version_key
from template.chain.ballots import read_records, read_standing_votes, read_votes_at
from template.context import ReadContext
from template.errors import (
    ConfigError,
    NodeTrouble,
    ObjectError,
    SpecChanged,
    SubnetError,
    TooLarge,
    Unavailable,
)
from template.peers.blobs import validators_by_stake
from template.peers.client import Peers
from template.protocol.keys import spec_key
from template.protocol.lineage import LineageStep
from template.protocol.quorum import LEAD_WINDOWS, Voter
from template.protocol.record import Support
from template.protocol.run import MAX_SPECS
from template.protocol.spec import RunSpec
from template.protocol.spec.files import MAX_SPEC_BYTES, parse_named_table
from template.protocol.strangers import fault, refusing
from template.protocol.succession import changes, check_successor
from template.sync.own_checkpoint import own_checkpoint_path
from template.sync.spec_folder import SpecFolder, check_version, spec_of_table

log = logging.getLogger(__name__)

MAX_LOOKED_AT: Final = 4
"""Supported specs looked at in one window, most stake first: a spec has 64 kB at most."""
STRANDED_SHARE: Final = 0.1
"""A succession that this share of the hotkeys cannot follow, by the versions in their records, is
warned about."""
ASK_AGAIN_WINDOWS: Final = 8
"""Windows in which a supporter's bucket is left alone that did not give what it supports."""
AWAKE_WINDOWS: Final = 2
"""Windows before the newest counted one in which a voter's word on the run's specs counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A spec that a ballot has adopted and this node has not appended to the run, and why not."""

    support: Support
    why: str
    is_final: bool = False
    """Whether this node can never follow it: its software is too old."""


def fetch_spec(
    context: ReadContext,
    peers: Peers,
    spec_id: bytes,
    first: Sequence[str],
    *,
    from_all: bool = True,
) -> RunSpec:
    """The spec with this id from the buckets of `first`, then of validators, most stake first.

    Without `from_all` from those of `first` alone.

    Unavailable if no bucket has it; ConfigError if this node cannot read it: the bytes are right,
    and a newer version may know their keys. NodeTrouble if this node could not ask.
    """
    others = validators_by_stake(context) if from_all else []
    return spec_of_table(fetch_table(context, peers, spec_id, [*first, *others]), spec_id)


def fetch_table(
    context: ReadContext, peers: Peers, spec_id: bytes, hotkeys: Iterable[str]
) -> dict[str, Any]:
    """The table of the spec with this id from the first of these buckets that has it.

    A bucket that has troubled this node is asked last. Unavailable if none has it; NodeTrouble.
    """
    key, why = spec_key(context.run.run_id, spec_id), "no bucket was asked"
    for hotkey in peers.in_order(list(dict.fromkeys(hotkeys))):
        try:
            data = peers.bucket(hotkey).get(key, max_bytes=MAX_SPEC_BYTES)
            return parse_named_table(data, spec_id)
        except NodeTrouble:
            raise
        except SubnetError as error:
            why = fault(error)
            if isinstance(error, (ObjectError, TooLarge, Unavailable)):
                # A bucket that drips costs a minute once, and not for every spec and window.
                peers.ask_last(hotkey)
    raise Unavailable(f"run spec {spec_id.hex()}: no bucket has it now ({why})")


def restore_run(context: ReadContext, peers: Peers) -> None:
    """Append to the run what was adopted before this node starts, from its disk and from others.

    ConfigError if this node cannot follow; Unavailable if a spec is in no bucket now.
    """
    folder = SpecFolder(context.run, context.state_dir)
    folder.restore()
    try:
        append_claimed(context, peers)
    except NodeTrouble:
        raise
    except Unavailable as error:
        if not own_checkpoint_path(context.state_dir).exists():
            raise
        # A node that goes on by its own state learns of successions by the ballots it counts.
        log.warning("%s; going on from this node's own state", error)


def append_claimed(context: ReadContext, peers: Peers) -> None:
    """Append the specs that most of the stake stands under, back to those known here.

    SpecChanged if the run has another spec than they: the wrong ones are removed from the disk.
    """
    newest = _claimed_by_majority(context, peers)
    folder = SpecFolder(context.run, context.state_dir)
    if newest is None:
        return
    missing: list[RunSpec] = []
    known = {spec.spec_id: spec for spec in context.run}
    while newest not in known:
        spec = fetch_spec(context, peers, newest, ())
        if spec.continues is None or len(missing) >= MAX_SPECS:
            raise ConfigError(
                f"--run {context.run_file}: the validators follow another run, {newest.hex()}"
            )
        missing.append(spec)
        newest = bytes.fromhex(spec.continues.spec)
    if missing and newest != context.run.newest.spec_id:
        wrong = context.run.specs[context.run.specs.index(known[newest]) + 1]
        folder.forget_from(wrong.first_window)
        raise SpecChanged(
            f"window {wrong.first_window}: most of the stake stands under a run without spec "
            f"{wrong.spec_id.hex()}, which this node had: start again"
        )
    for spec in reversed(missing):
        check_version(spec)
        context.run.extend(spec)
        folder.save(spec)
        log.info("window %d on: run spec %s", spec.first_window, spec.spec_id.hex())


def _claimed_by_majority(context: ReadContext, peers: Peers) -> bytes | None:
    """Id of the newest adopted spec by more than half of the voters' stake; None: the first.

    A voter's support counts as a claim that the spec was adopted once the spec's ballot is over,
    and before as a claim that the spec before it was. Unavailable if there are claims and none has
    so much stake.
    """
    # By block: a newcomer does not know how long the windows under later specs are.
    voters = read_votes_at(context.chain, context.run, context.chain.finalized())
    window = _usual_window(voters)
    awake = [voter for voter in voters if voter.vote.window >= window - AWAKE_WINDOWS]
    if all(voter.support is None for voter in awake):
        return None
    peers.refresh()
    # Sleepers count: a minority that is awake alone must not lead a newcomer elsewhere.
    total_rao = sum(voter.stake_rao for voter in voters)
    found = _find_claim(context, peers, awake, total_rao)
    if found is None:
        raise Unavailable(
            "which spec the run stands under is not known: no spec has the word of more than half "
            "of the validators' stake, since half of it is away or they disagree; retry later"
        )
    return None if found == context.run.run_id else found


def _find_claim(
    context: ReadContext, peers: Peers, awake: Sequence[Voter], total_rao: int
) -> bytes | None:
    """The claim of more than half of the stake, most stake first; None if no claim has so much.

    Buckets are asked only as long as their answers decide: a minority must not slow a start.
    """
    stakes_rao: dict[bytes, int] = {}
    unclear: list[Voter] = []
    for voter in awake:
        if (claim := _clear_claim(context, voter)) is None:
            unclear.append(voter)
        else:
            stakes_rao[claim] = stakes_rao.get(claim, 0) + voter.stake_rao
    unclear.sort(key=lambda voter: (-voter.stake_rao, voter.uid))
    left_rao = sum(voter.stake_rao for voter in unclear)
    before: dict[bytes, bytes] = {}
    for voter in unclear:
        best_rao = max(stakes_rao.values(), default=0)
        if 2 * best_rao > total_rao or 2 * (best_rao + left_rao) <= total_rao:
            break
        assert voter.support is not None, "a voter without support claims the first spec"
        spec_id = voter.support.spec
        if spec_id not in before and (found := _spec_before(context, peers, voter)) is not None:
            before[spec_id] = found
        if (claim := before.get(spec_id)) is not None:
            stakes_rao[claim] = stakes_rao.get(claim, 0) + voter.stake_rao
        left_rao -= voter.stake_rao
    return next((claim for claim, rao in stakes_rao.items() if 2 * rao > total_rao), None)


def _usual_window(voters: Sequence[Voter]) -> int:
    """The newest window that half of the stake has voted on, or a later one; 0 without stake."""
    half_rao, passed_rao = sum(voter.stake_rao for voter in voters) / 2, 0
    for voter in sorted(voters, key=lambda voter: -voter.vote.window):
        passed_rao += voter.stake_rao
        if passed_rao >= half_rao:
            return voter.vote.window
    return 0


def _clear_claim(context: ReadContext, voter: Voter) -> bytes | None:
    """Id of the spec that a voter stands under, if the record says it alone."""
    support = voter.support
    if support is None:
        return context.run.run_id
    return support.spec if voter.vote.window > support.window - LEAD_WINDOWS else None


def _spec_before(context: ReadContext, peers: Peers, voter: Voter) -> bytes | None:
    """Id of the spec before the one that a voter supports, from the voter's bucket."""
    support = voter.support
    assert support is not None
    try:
        # Proven by its id, whatever this version knows of its keys.
        table = fetch_table(context, peers, support.spec, (voter.hotkey,))
        with refusing("run spec"):
            before = bytes.fromhex(table["continues"]["spec"])
    except NodeTrouble:
        raise
    except (ObjectError, Unavailable) as error:
        log.debug("the spec that %s supports says nothing: %s", voter.hotkey, error)
        return None
    return before


class Successions:
    """Looks for supported specs, and appends those that ballots adopt to the run."""

    def __init__(self, context: ReadContext, peers: Peers) -> None:
        self._context, self._peers = context, peers
        self._folder = SpecFolder(context.run, context.state_dir)
        self._told: set[Support] = set()
        self._known: dict[bytes, RunSpec] = {}
        self._unanswered: dict[str, int] = {}
        """Supporters whose bucket did not give what they support -> the window of that look."""
        self._pending: list[Pending] = []
        """In the order of windows: each follows the one before."""
        self._told_window = -1

    def note_steps(self, steps: Iterable[LineageStep]) -> None:
        """Append what the ballots of these steps adopted. SpecChanged if the run says otherwise."""
        for step in steps:
            run, window = self._context.run, step.window + LEAD_WINDOWS
            known = run.successor(window)
            if (b"" if known is None else known.spec_id) == step.adopted:
                continue
            if known is not None:
                self._folder.forget_from(window)
                raise SpecChanged(
                    f"window {window}: the ballot adopted {step.adopted.hex() or 'no spec'}, and "
                    f"this node has {known.spec_id.hex()}: starting again from what is saved"
                )
            support = Support(window=window, spec=step.adopted)
            if all(pending.support != support for pending in self._pending):
                kept = [pending for pending in self._pending if pending.support.window < window]
                self._pending = [*kept, Pending(support=support, why="not looked at yet")]
                self._adopt_in_turn()

    def demand(self, window: int) -> None:
        """Stop before a window whose spec this node lacks.

        ConfigError where its software cannot follow, Unavailable where no bucket has the spec.
        """
        if not self._pending:
            return
        is_new, self._told_window = window != self._told_window, window
        # Before the spec's window buckets are asked once a window, and not at each look.
        if is_new or window >= self._pending[0].support.window:
            self._adopt_in_turn()
        if not self._pending:
            return
        pending = self._pending[0]
        if window < pending.support.window:
            if is_new:
                left = pending.support.window - window
                log.error("%s; this node stops in %d windows", pending.why, left)
        elif pending.is_final:
            raise ConfigError(pending.why)
        else:
            raise Unavailable(pending.why)

    def knows(self, window: int) -> bool:
        """Whether no spec was adopted for `window`, or one before, that this node lacks."""
        return not self._pending or window < self._pending[0].support.window

    def _adopt_in_turn(self) -> None:
        """Append what is pending, up to the first spec that cannot be: later ones follow it."""
        while self._pending:
            pending = self._adopt(self._pending[0].support)
            if pending is not None:
                self._pending[0] = pending
                return
            self._pending.pop(0)

    def _adopt(self, support: Support) -> Pending | None:
        """Append the spec to the run; what is pending where that cannot be."""
        context = self._context
        try:
            spec = self._checked(support, ())
            check_version(spec)
            context.run.extend(spec)
        except NodeTrouble:
            raise
        except (ConfigError, Unavailable) as error:
            is_final = isinstance(error, ConfigError)
            why = f"window {support.window} on: the stake majority has adopted a spec that this "
            why += f"node cannot follow: {error}"
            return Pending(support=support, why=why, is_final=is_final)
        self._folder.save(spec)
        context.metrics.log(spec.first_window, {"spec": spec.spec_id.hex()})
        log.warning(
            "window %d on: the stake majority has adopted run spec %s, and this node switches by "
            "itself: %s",
            spec.first_window,
            spec.spec_id.hex(),
            "; ".join(map(str, changes(context.run.at(spec.first_window - 1), spec))),
        )
        return None

    def look(self) -> None:
        """Fetch, check and tell the specs that validators support now, each once."""
        try:
            self._look()
        except SubnetError as error:
            log.debug("supported specs are not known now: %s", error)

    def _look(self) -> None:
        context = self._context
        window = context.schedule.last_counted(context.chain.finalized())
        if window < 0:
            return
        voters = read_standing_votes(context.chain, context.run, window)
        total_rao = sum(voter.stake_rao for voter in voters)
        stakes: dict[Support, int] = {}
        for voter in voters:
            if voter.support is not None and voter.support.window - LEAD_WINDOWS > window:
                stakes[voter.support] = stakes.get(voter.support, 0) + voter.stake_rao
        new = sorted(stakes.keys() - self._told, key=lambda support: -stakes[support])
        for support in new[:MAX_LOOKED_AT]:
            named = [voter.hotkey for voter in voters if voter.support == support]
            # A bucket that gives nothing ends the look, and is left alone for some windows: a look
            # must not cost a vote.
            hotkeys = [hotkey for hotkey in named if self._may_ask(hotkey, window)]
            share = stakes[support] / max(1, total_rao)
            if hotkeys and not self._tell(support, share, hotkeys[:1]):
                self._unanswered[hotkeys[0]] = window
                return

    def _may_ask(self, hotkey: str, window: int) -> bool:
        asked = self._unanswered.get(hotkey)
        return asked is None or window >= asked + ASK_AGAIN_WINDOWS

    def _tell(self, support: Support, share: float, hotkeys: Sequence[str]) -> bool:
        """Tell of a supported spec; whether these buckets gave it."""
        what = f"run spec {support.spec.hex()} for window {support.window} on"
        try:
            spec = self._checked(support, hotkeys, from_all=False)
        except NodeTrouble:
            raise
        except Unavailable as error:
            log.debug("%s: %s", what, error)
            return False  # others that support it are asked in the next window
        except (ConfigError, ObjectError) as error:
            self._told.add(support)
            supported = f"supported by {100 * share:.0f} % of the voting stake"
            log.warning("%s, %s: %s", what, supported, error)
            return True
        self._told.add(support)
        before = self._context.run.at(support.window - 1)
        log.warning(
            "%s is supported by %.0f %% of the voting stake; the votes on window %d decide. It "
            "changes: %s",
            what,
            100 * share,
            support.window - LEAD_WINDOWS,
            "; ".join(map(str, changes(before, spec))) or "nothing",
        )
        self._warn_of_versions(spec)
        return True

    def _warn_of_versions(self, spec: RunSpec) -> None:
        context = self._context
        try:
            check_version(spec)
        except ConfigError as error:
            log.error("this node could not follow: %s", error)
        least = "0.0.0" if spec.continues is None else spec.continues.least_version
        records = read_records(context.chain, context.chain.finalized(), context.run.run_id)
        saying = [record for record in records.values() if record.has_statement]
        older = sum(record.software < version_key(least) for record in saying)
        if older > STRANDED_SHARE * len(saying):
            log.warning(
                "run spec %s would strand %d of %d hotkeys: their software is older than %s",
                spec.spec_id.hex(),
                older,
                len(saying),
                least,
            )

    def _checked(self, support: Support, first: Sequence[str], *, from_all: bool = True) -> RunSpec:
        """The supported spec, which may follow the run's newest.

        ConfigError if not, if it is for another window, or if this node cannot read it.
        """
        spec = self._known.get(support.spec)
        if spec is None:
            self._peers.refresh()
            spec = fetch_spec(self._context, self._peers, support.spec, first, from_all=from_all)
            self._known[support.spec] = spec
            while len(self._known) > MAX_LOOKED_AT:
                self._known.pop(next(iter(self._known)))
        if spec.first_window != support.window:
            raise ConfigError(
                f"run spec {support.spec.hex()}: is for window {spec.first_window}, and was "
                f"supported for window {support.window}"
            )
        check_successor(self._context.run.newest, spec)
        return spec


def adopted_so_far(context: ReadContext) -> Iterator[Support]:
    """The successions of the run as records name them, oldest first."""
    for spec in context.run.specs[1:]:
        yield Support(window=spec.first_window, spec=spec.spec_id)
