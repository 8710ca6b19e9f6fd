"""A validator's memory: everything behind the next verdict log, vote and weights. Pure.

A function of the verdict logs and votes of the last windows: validators with equal logs have equal
memories.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from typing import Any

from evaluation.conclusion import Registered, Reputation, reputations_and_weights
from evaluation.history import (
    Entry,
    Histories,
    add_window,
    mark_undelivered,
    select_windows,
    windows_in,
)
from evaluation.pace import Paces, PaceSample, add_pace, pace_of, pace_sample
from evaluation.rules import PayRules
from evaluation.verdict_log import WindowLog
from evaluation.work import WorkSample
from template.chain import Metagraph
from template.errors import ConfigError
from template.protocol.quorum import Decision
from template.scoring.window import Scored

NOBODY = Registered(uids={}, burn_uid=None)
WORK_FIGURES = tuple(figure.name for figure in fields(WorkSample))


def registrations(graph: Metagraph) -> Registered:
    """Uids by hotkey at the block of `graph`, and the uid that burns."""
    return Registered(uids={n.hotkey: n.uid for n in graph.neurons}, burn_uid=graph.owner_uid)


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidatorMemory:
    """A validator's knowledge of the last windows, beside the state of the run.

    `histories`: hotkey -> window -> measured entry. `reputations`: by hotkey, after the newest
    window. `scored_windows`: windows scored here, as far back as pay looks. `undelivered`:
    (window, hotkey) pairs found undelivered by votes since the last verdict log.
    `paces`: window -> measurement of alpha. `last_voted`: the newest window voted on, or -1.
    """

    rules: PayRules
    histories: Histories = field(default_factory=dict)
    reputations: Mapping[str, Reputation] = field(default_factory=dict)
    scored_windows: frozenset[int] = frozenset()
    undelivered: tuple[tuple[int, str], ...] = ()
    paces: Paces = field(default_factory=dict)
    last_voted: int = -1

    @classmethod
    def from_values(cls, values: Mapping[str, Any], rules: PayRules) -> "ValidatorMemory":
        """The memory saved by `to_values` in the node's checkpoint; empty for no values."""
        histories = {
            hotkey: {int(window): _entry_from(numbers) for window, numbers in history.items()}
            for hotkey, history in values.get("histories", {}).items()
        }
        newest = max((w for history in histories.values() for w in history), default=0)
        reputations, _ = reputations_and_weights(histories, newest, NOBODY, rules)
        return cls(
            rules=rules,
            histories=histories,
            reputations=reputations,
            scored_windows=frozenset(map(int, values.get("scored_windows", ()))),
            undelivered=tuple((int(w), str(h)) for w, h in values.get("undelivered", ())),
            paces={
                int(window): PaceSample(exponent=exponent, mean=mean, standard_error=error)
                for window, (exponent, mean, error) in values.get("paces", {}).items()
            },
            last_voted=int(values.get("last_voted", -1)),
        )

    def to_values(self) -> dict[str, Any]:
        """Plain JSON values for the node's checkpoint."""
        return {
            "last_voted": self.last_voted,
            "undelivered": list(self.undelivered),
            "paces": {
                str(window): [sample.exponent, sample.mean, sample.standard_error]
                for window, sample in self.paces.items()
            },
            "scored_windows": sorted(self.scored_windows),
            "histories": {
                hotkey: {str(window): _numbers_of(entry) for window, entry in history.items()}
                for hotkey, history in self.histories.items()
            },
        }

    def under(self, rules: PayRules) -> "ValidatorMemory":
        """The same memory under the rules of another window."""
        return self if rules == self.rules else replace(self, rules=rules)

    def voted_on(self, window: int) -> "ValidatorMemory":
        """With a vote on `window`."""
        return replace(self, last_voted=max(self.last_voted, window))

    def record_window(
        self, window: int, scored: Scored, registered: Registered
    ) -> tuple["ValidatorMemory", WindowLog]:
        """The memory with a scored window, and the window's verdict log.

        `registered`: at the window's stake block.
        """
        histories = add_window(self.histories, window, scored.verdicts, self.rules.length)
        known = _known_to(histories, registered)
        reputations, shares = reputations_and_weights(histories, window, known, self.rules)
        sample = pace_sample(scored.exponent, scored.measured)
        paces = add_pace(self.paces, window, sample, self.rules.length)
        log = WindowLog(
            window=window,
            seed=scored.seed.hex(),
            ids_S=scored.pool.ids_S,
            known=self._windows_before(window),
            undelivered=self.undelivered,
            measured=scored.measured,
            verdicts=scored.verdicts,
            uids=known.uids,
            burn_uid=known.burn_uid,
            reputations=reputations,
            shares=shares,
            exponent=scored.exponent,
            pace=pace_of(paces),
        )
        oldest = window - self.rules.weights.history_windows
        memory = replace(
            self,
            histories=histories,
            reputations=reputations,
            scored_windows=frozenset(w for w in self.scored_windows if w > oldest) | {window},
            undelivered=(),
            paces=paces,
        )
        return memory, log

    def _windows_before(self, window: int) -> tuple[int, ...]:
        """The remembered windows before `window`."""
        remembered = {*windows_in(self.histories), *self.paces}
        return tuple(sorted(w for w in remembered if w < window))

    def settle_decision(self, decision: Decision) -> "ValidatorMemory":
        """With the payloads unavailable to the voting stake, in a window scored here."""
        if not decision.undelivered or decision.window not in self.scored_windows:
            return self
        hotkeys = [member.hotkey for member in decision.undelivered]
        return replace(
            self,
            histories=mark_undelivered(self.histories, decision.window, hotkeys),
            undelivered=(*self.undelivered, *((decision.window, hotkey) for hotkey in hotkeys)),
        )

    def num_scored(self, window: int) -> int:
        """Windows scored here among the last `history_windows` up to `window`."""
        oldest = window - self.rules.weights.history_windows
        return sum(oldest < w <= window for w in self.scored_windows)

    def num_needed(self, window: int) -> int:
        """Scored windows needed for pay: `min_windows`, or all windows of a younger run."""
        return min(self.rules.weights.min_windows, window + 1)

    def shares(self, registered: Registered, window: int) -> dict[int, float]:
        """uid -> weight after `window`, of the registered hotkeys with a history.

        What was scored since does not count: all validators set the weights of the same windows.
        """
        histories = select_windows(self.histories, range(window + 1))
        known = _known_to(histories, registered)
        return reputations_and_weights(histories, window, known, self.rules)[1]


def _known_to(histories: Histories, registered: Registered) -> Registered:
    """The registered hotkeys with a history."""
    uids = {hotkey: uid for hotkey, uid in registered.uids.items() if hotkey in histories}
    return replace(registered, uids=uids)


def _numbers_of(entry: Entry) -> list[float | None]:
    work = entry.work
    evidence = () if work is None else astuple(work)
    return [
        entry.relative_gain, entry.pages, entry.gain_log_ratio, entry.named_gain,
        entry.model_share, entry.width, entry.half_gap, *evidence,
    ]  # fmt: skip


def _entry_from(numbers: Sequence[Any]) -> Entry:
    relative_gain, pages, gain_log_ratio, named_gain, model_share, width, half_gap, *work = numbers
    return Entry(
        relative_gain=relative_gain,
        pages=pages,
        work=_sample_from(work) if work else None,
        gain_log_ratio=gain_log_ratio,
        named_gain=named_gain,
        model_share=model_share,
        width=width,
        half_gap=half_gap,
    )


def _sample_from(figures: Sequence[Any]) -> WorkSample:
    if len(figures) != len(WORK_FIGURES):
        raise ConfigError(
            f"--neuron.state_dir: the saved accounts have {len(figures)} figures of the work test, "
            f"and this version has {len(WORK_FIGURES)}: start the version that wrote them, or "
            "remove the state file to join anew"
        )
    names = dict(zip(WORK_FIGURES, figures, strict=True))
    names["quarter_profile"] = tuple(names["quarter_profile"])
    return WorkSample(**names)
