"""The parts of a payslip: statements with figures, each with its source, its rule and a command."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from template.protocol.keys import lineage_key, verdict_key
from template.public.facts import RunFacts
from template.sync.lineage import segment_start

Value = float | int | str | bool | None
RAO: Final = 10**9


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure under a stable name. `unit`: "" for a count, a word or a share of 1."""

    name: str
    value: Value
    unit: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statement:
    """One thing said about a hotkey in a window.

    `topic`: a stable word. `words`: one or more sentences. `sources`: the public objects that the
    figures are read from. `rule`: how they follow. `where`: the code or page that has the rule.
    `command`: recomputes the figures from public objects.
    """

    topic: str
    words: str
    figures: tuple[Figure, ...] = ()
    sources: tuple[str, ...] = ()
    rule: str = ""
    where: str = ""
    command: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidatorRow:
    """What one validator says of a payload, and pays for it.

    `stake_share`: of the stake with a permit. `vote`: "named", "missing", "neither", "no vote" or
    "unknown". `fetched`: None where unknown. `log`: a `LogState` value. Gains in nats per token.
    `logged_share`: by its log; `weight`: on chain now; None where unknown.
    """

    uid: int
    hotkey: str
    stake_share: float
    vote: str
    log: str
    log_detail: str
    fetched: bool | None
    status: str
    detail: str
    gain: float | None
    gain_error: float | None
    logged_share: float | None
    weight: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Payslip:
    """A hotkey in a window. `causes`: the first decides, others say why pay is not more; names of
    `causes.CAUSES`. `role`: "miner" or "validator". `uid` None: not registered.
    """

    run_id: str
    window: int
    hotkey: str
    uid: int | None
    role: str
    causes: tuple[str, ...]
    headline: str
    statements: tuple[Statement, ...]
    validators: tuple[ValidatorRow, ...]

    @property
    def cause(self) -> str:
        return self.causes[0]

    def statement(self, topic: str) -> Statement | None:
        return next((each for each in self.statements if each.topic == topic), None)

    def figure(self, name: str) -> Value:
        """The first figure of a name; None without one."""
        found = (f.value for each in self.statements for f in each.figures if f.name == name)
        return next(found, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Commands:
    """Commands that recompute, and names of the objects they read."""

    facts: RunFacts
    run_file: str = "run.toml"

    @property
    def _chain(self) -> str:
        flag = "chain_endpoint" if "://" in self.facts.network else "network"
        return f"--netuid {self.facts.netuid} --subtensor.{flag} {self.facts.network}"

    def audit(self, validator: str, window: int) -> str:
        """All that a verdict log says of a window, from chain, buckets and losses."""
        return (
            f"tessera recompute --run {self.run_file} {self._chain} --validator {validator} "
            f"--first {window} --last {window}"
        )

    @property
    def replay(self) -> str:
        """Every accepted payload and the model, from the votes' root."""
        return f"tessera replay --run {self.run_file} {self._chain}"

    def explain(self, hotkey: str, window: int) -> str:
        chain = self._chain
        return f"tessera explain {hotkey} --window {window} --run {self.run_file} {chain} --json"

    def btcli(self, what: str) -> str:
        return f"btcli query {what} --netuid {self.facts.netuid} -n {self.facts.network}"

    def commitments_at(self, block: int) -> str:
        return f"commitments of subnet {self.facts.netuid} on chain after block {block}"

    def metagraph_at(self, block: int) -> str:
        return f"metagraph of subnet {self.facts.netuid} on chain after block {block}"

    def log_of(self, validator: str, window: int) -> str:
        return f"{verdict_key(self.facts.run.run_id, window)} in the bucket of {validator}"

    def logs_of(self, validator: str, windows: Sequence[int]) -> str:
        """Several logs as one object; `windows` ascending, at least one."""
        if len(windows) == 1:
            return self.log_of(validator, windows[0])
        run_id, first, last = self.facts.run.run_id, windows[0], windows[-1]
        name = verdict_key(run_id, last).rpartition("/")[2]
        return f"{verdict_key(run_id, first)} to {name} in the bucket of {validator}"

    def lineage_of(self, window: int) -> str:
        start = segment_start(window, self.facts.run)
        return f"{lineage_key(self.facts.run.run_id, start)} in any validator's bucket"


def nats(value: float) -> str:
    """A difference of losses, with its sign."""
    return f"{value:+.5f}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def hotkeys_by_stake(stakes: Mapping[str, int], hotkeys: Sequence[str]) -> list[str]:
    """Most stake first, ties by name."""
    return sorted(hotkeys, key=lambda hotkey: (-stakes.get(hotkey, 0), hotkey))


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, as in 1 page and 2 pages."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
