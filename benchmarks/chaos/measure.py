"""What each fault did to the run: pure functions of what the nodes' rows said, and when.

All times are blocks of the chain, as the watcher saw them: a node's own clock may be off, and
while the chain is down no window passes. Does not own how rows are read (`watch`).
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.chaos.plan import CALM_WINDOWS, EVERY_WINDOWS
from evaluation.verdict import MEASURED, NAMED
from template.protocol.schedule import Schedule

MEASURED_NOT_NAMED: Final = frozenset(MEASURED) - {NAMED}
AWAY: Final = "half of the reference stake or more is away"
"""The reason for which a window with a liar's vote alone is a no-op (D83)."""
HEALING_LIMIT_WINDOWS: Final = 12
"""Who does not stand with the others after so many windows is not counted as healed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """A node said that it stands at `state_window`, by the decision of `window`; `block` was
    the chain's head when that was read. `digest` over all tensors, hex; `accepted`: uids;
    `no_op`: why there are none.
    """

    node: str
    window: int
    state_window: int
    root: str
    digest: str
    accepted: tuple[int, ...]
    block: int
    no_op: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A process of `node` was seen to have ended; `block` was the chain's head."""

    node: str
    status: int
    block: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Happened:
    """A fault as it was planted: in the windows of these two blocks, to those of `targets`."""

    name: str
    targets: tuple[str, ...]
    window: int
    began_block: int
    ended_block: int
    took_effect: bool
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run. `produced`: (window, uid) of an accepted payload -> whether some bucket gave the
    bytes of its digest. `voters`: window -> names whose votes on it counted. `judged`: windows
    whose payloads were measured, and none found good enough (`judged_windows`).
    """

    schedule: Schedule
    num_windows: int
    nodes: tuple[str, ...]
    validators: tuple[str, ...]
    sights: tuple[Sight, ...]
    faults: tuple[Happened, ...]
    produced: Mapping[tuple[int, int], bool]
    voters: Mapping[int, frozenset[str]] = field(default_factory=dict)
    judged: frozenset[int] = frozenset()
    ends: tuple[Ended, ...] = ()

    @property
    def last_window(self) -> int:
        """The last whose state anybody waits for: the run's end."""
        return self.num_windows


def results(run: Run) -> list[dict[str, Any]]:
    """One row per fault, in the order of the run."""
    lost = lost_windows(run)
    calm = len([w for w in lost if w in calm_windows()]) / len(calm_windows())
    expected = int(calm * EVERY_WINDOWS)
    return [_result(run, fault, lost, expected) for fault in run.faults]


def calm_windows() -> range:
    """Windows that no fault reaches, without the first: nodes may still be starting."""
    return range(1, CALM_WINDOWS - 1)


def _result(run: Run, fault: Happened, lost: Sequence[int], expected: int) -> dict[str, Any]:
    reach = reach_of(fault)
    return {
        "name": fault.name,
        "window": fault.window,
        "targets": list(fault.targets),
        "took_effect": fault.took_effect,
        "evidence": dict(fault.evidence),
        "windows_lost": max(0, len([w for w in lost if w in reach]) - expected),
        "apart_windows": apart_windows(run, fault),
        "heal_windows": heal_windows(run, fault),
        "digests_equal": digests_equal(run, reach),
        "payloads_lost": len([1 for (w, _), ok in run.produced.items() if w in reach and not ok]),
        "votes_missing": votes_missing(run, fault),
        "no_ops": no_ops(run, reach),
        "exits": exits(run, fault),
    }


def reach_of(fault: Happened) -> range:
    """The windows whose fate it may change: the one before is still being voted on."""
    return range(fault.window - 1, fault.window - 1 + EVERY_WINDOWS)


def lost_windows(run: Run) -> list[int]:
    """Windows in which nothing was accepted, or that most validators had not applied a window
    late.

    Not those that the validators judged: payloads without enough gain are not accepted in a run
    without faults either, ever more often as the loss flattens out.
    """
    return [w for w in range(run.num_windows) if _is_lost(run, w)]


def judged_windows(logs: Iterable[Sequence[Mapping[str, Any]]]) -> frozenset[int]:
    """Windows of which more than half of the validators measured every payload, one at least,
    and named none. `logs`: of each validator the rows of its verdict log.
    """
    refusals: Counter[int] = Counter()
    num_logs = 0
    for rows in logs:
        num_logs += 1
        statuses: dict[int, set[str]] = {}
        for row in rows:
            if row.get("kind") == "verdict":
                statuses.setdefault(row["window"], set()).add(row["status"])
        refusals.update(w for w, said in statuses.items() if said <= MEASURED_NOT_NAMED)
    return frozenset(w for w, count in refusals.items() if 2 * count > num_logs)


def _is_lost(run: Run, window: int) -> bool:
    deadline = run.schedule.first_block(window + 3)
    rows = [s for s in run.sights if s.window == window and s.node in run.validators]
    roots = Counter(sight.root for sight in _firsts(rows) if sight.block < deadline)
    if not roots:
        return True
    root, votes = roots.most_common(1)[0]
    accepted = {sight.accepted for sight in rows if sight.root == root}
    if 2 * votes <= len(run.validators):
        return True
    return accepted == {()} and window not in run.judged


def _firsts(sights: Iterable[Sight]) -> Iterable[Sight]:
    """Of each node its first."""
    first: dict[str, Sight] = {}
    for sight in sights:
        first.setdefault(sight.node, sight)
    return first.values()


def digests_equal(run: Run, windows: range) -> bool:
    """Whether no two nodes ever said something else of the same state; False if none spoke."""
    said: dict[int, set[tuple[str, str]]] = {}
    for sight in run.sights:
        if sight.window in windows:
            said.setdefault(sight.state_window, set()).add((sight.root, sight.digest))
    return bool(said) and all(len(words) == 1 for words in said.values())


def heal_windows(run: Run, fault: Happened) -> int | None:
    """Windows from the fault's end until all nodes stand at one digest, and stay so until the
    next fault; 0 if none ever fell behind, None if they had not by HEALING_LIMIT_WINDOWS.
    """
    start = run.schedule.window_of(fault.ended_block)
    later = [f.window for f in run.faults if f.window > max(fault.window, start)]
    horizon = min(min(later, default=run.last_window + 1), run.last_window + 1)
    behind = [w for w in range(start, horizon) if not together(run, w)]
    if not behind:
        return 0
    end = behind[-1] + 1
    limit = min(start + HEALING_LIMIT_WINDOWS, run.last_window)
    while end <= limit and end >= horizon and not together(run, end):
        end += 1
    return end - start if end <= limit or end < horizon else None


def apart_windows(run: Run, fault: Happened) -> int:
    """Windows at whose end some node did not stand with the others, from the fault's beginning
    to the next fault.
    """
    after = [f.window for f in run.faults if f.window > fault.window]
    horizon = min([*after, run.last_window + 1])
    return len([w for w in range(fault.window, horizon) if not together(run, w)])


def votes_missing(run: Run, fault: Happened) -> dict[str, list[str]]:
    """Window -> who did not vote on it, of those who ever did; only windows with some."""
    everybody = frozenset().union(*run.voters.values())
    missing = {w: everybody - run.voters[w] for w in reach_of(fault) if w in run.voters}
    return {str(w): sorted(names) for w, names in missing.items() if names}


def no_ops(run: Run, windows: range) -> dict[str, dict[str, int]]:
    """Window -> reason for its empty set -> how many nodes said so; only windows with some."""
    found: dict[str, Counter[str]] = {}
    for window in windows:
        rows = _firsts(sight for sight in run.sights if sight.window == window)
        reasons = Counter(sight.no_op for sight in rows if not sight.accepted)
        if reasons:
            found[str(window)] = reasons
    return {window: dict(reasons) for window, reasons in found.items()}


def exits(run: Run, fault: Happened) -> dict[str, list[int]]:
    """Node -> exit statuses of its processes, from the fault's window to the next fault's."""
    windows = range(fault.window, fault.window + EVERY_WINDOWS)
    statuses: dict[str, list[int]] = {}
    for end in run.ends:
        if run.schedule.window_of(end.block) in windows:
            statuses.setdefault(end.node, []).append(end.status)
    return statuses


def together(run: Run, window: int) -> bool:
    """Whether at the end of `window` all nodes stand at its parameters or newer ones, and those
    are the same.
    """
    end = run.schedule.first_block(window + 1)
    words: dict[str, set[tuple[str, str]]] = {node: set() for node in run.nodes}
    stands = {
        sight.node for sight in run.sights if sight.block < end and sight.state_window >= window
    }
    for sight in run.sights:
        if sight.state_window == window and sight.node in words:
            words[sight.node].add((sight.root, sight.digest))
    said = set().union(*words.values())
    return stands >= set(run.nodes) and len(said) == 1


def final_digests(run: Run) -> dict[str, tuple[int, str]]:
    """Node -> its newest state window and digest."""
    newest: dict[str, tuple[int, str]] = {}
    for sight in run.sights:
        if sight.state_window >= newest.get(sight.node, (-1, ""))[0]:
            newest[sight.node] = (sight.state_window, sight.digest)
    return newest


def verdict(
    faults: Sequence[Mapping[str, Any]], top_kill: str, lies: Collection[str] = ()
) -> list[str]:
    """What does not hold, a sentence each; a plan without a fault is one of them.

    `top_kill`, `lies`: names of the faults of which more must hold.
    """
    wrong = [] if faults else ["no fault was planted"]
    for fault in faults:
        name = f"window {fault['window']}, {fault['name']}"
        if not fault["took_effect"]:
            wrong.append(f"{name}: did not take effect: {fault['evidence']}")
        if not fault["digests_equal"]:
            wrong.append(f"{name}: nodes differ")
        if fault["payloads_lost"]:
            wrong.append(f"{name}: {fault['payloads_lost']} accepted payloads are lost")
        if fault["heal_windows"] is None:
            wrong.append(f"{name}: the nodes did not come together again")
        if fault["name"] == top_kill and fault["windows_lost"]:
            wrong.append(f"{name}: cost {fault['windows_lost']} windows")
        if fault["name"] in lies:
            wrong += [f"{name}: {sentence}" for sentence in _wrong_of_a_lie(fault)]
    return wrong


def _wrong_of_a_lie(fault: Mapping[str, Any]) -> Iterator[str]:
    """The liar's window is empty for all for one reason, no process ends, and the run goes on."""
    reasons = fault["no_ops"].get(str(fault["window"] - 1), {})
    if set(reasons) != {AWAY}:
        yield f"window {fault['window'] - 1} is no no-op for want of stake: {reasons}"
    if fault["exits"]:
        yield f"processes ended: {fault['exits']}"
    if fault["windows_lost"] >= EVERY_WINDOWS:
        yield "no window after the lie accepted a payload"
