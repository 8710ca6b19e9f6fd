"""A neuron at a glance as one value, and as the JSON object of `tessera status --json`. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from template.status.phase import Phase
from template.status.rows import OwnRows

FORMAT: Final = 1
"""Version of the JSON object."""
STILL_WINDOWS: Final = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class OnChain:
    """What the chain says now. `share`: of all incentives (a miner) or dividends (a validator).

    `uid` None: not registered. `least_version_key`: the owner's `weights_version`.
    """

    head: int
    block_s: float
    uid: int | None
    stake_tao: float
    share: float
    emission_alpha: float
    permit: bool
    hotkeys: int
    least_version_key: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Glance:
    """`pid`: of the process that holds the state folder, None if nobody does. `chain`, `phase`:
    None where the chain does not answer; `fault` then says why. `lock_fault`: why nobody knows
    whether a process holds the state folder, or "". `now_s`: seconds since 1970.
    """

    role: str
    hotkey: str
    run_id: str
    version: str
    version_key: int
    now_s: float
    pid: int | None
    rows: OwnRows
    phase: Phase | None
    chain: OnChain | None
    fault: str
    lock_fault: str = ""

    @property
    def silent_s(self) -> float | None:
        """Seconds since the newest line of metrics."""
        return None if self.rows.last_s is None else max(0.0, self.now_s - self.rows.last_s)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator should look at, a sentence each."""
        return tuple(text for text, is_true in self._signs() if is_true)

    def _signs(self) -> list[tuple[str, bool]]:
        chain, has_process = self.chain, self.role != "owner"
        found = [
            (
                "no process holds the state folder: the neuron is not running",
                self.pid is None and not self.lock_fault,
            ),
            (self.lock_fault, bool(self.lock_fault)),
            (
                "this node's parameters differ from the stake majority's: it heals itself, or says "
                "in its log what it needs",
                self.rows.differs,
            ),
        ]
        found = [(text, is_true and has_process) for text, is_true in found]
        if chain is None:
            return [*found, (self.fault, True)]
        return [
            *found,
            ("the hotkey is not registered", chain.uid is None),
            (
                "the validator has no permit: votes and weights do not count",
                self.role == "validator" and chain.uid is not None and not chain.permit,
            ),
            (
                f"the subnet's owner demands version key {chain.least_version_key}, this is "
                f"{self.version_key}: install the newer version",
                chain.least_version_key > self.version_key,
            ),
        ]


def to_json(glance: Glance) -> dict[str, Any]:
    """The glance as plain values: see docs/outputs_operating.md."""
    silent_s = glance.silent_s
    return {
        "format": FORMAT,
        "role": glance.role,
        "hotkey": glance.hotkey,
        "run_id": glance.run_id,
        "version": glance.version,
        "version_key": glance.version_key,
        "pid": glance.pid,
        "silent_s": None if silent_s is None else round(silent_s, 1),
        "state_window": glance.rows.state_window,
        "weights_window": glance.rows.weights_window,
        "phase": None if glance.phase is None else _phase(glance),
        "chain": None if glance.chain is None else asdict(glance.chain),
        "windows": [_window(asdict(each)) for each in glance.rows.windows],
        "warnings": list(glance.warnings),
    }


def _phase(glance: Glance) -> dict[str, Any] | None:
    if glance.phase is None or glance.chain is None:
        return None
    head, block_s = glance.chain.head, glance.chain.block_s
    return {
        "window": glance.phase.window,
        "name": glance.phase.name,
        "text": glance.phase.text,
        "deadlines": [
            asdict(each) | {"in_s": round((each.block - head) * block_s, 1)}
            for each in glance.phase.deadlines
        ],
    }


def _window(values: Mapping[str, Any]) -> dict[str, Any]:
    return {**values, "figures": dict(values["figures"]), "refused": dict(values["refused"])}
