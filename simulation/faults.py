"""The catalogue of faults: name, event, target, and the claims checked afterwards.

A fault can be played in up to three places: in a swarm of a single process (seeded schedules),
on a localnet of real processes (`benchmarks.chaos`), and on single neurons, whose operator must
get a clear answer. Tests compare the faults of each place with the catalogue. Does not own
how a fault is planted, nor the draw of a plan.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Target(StrEnum):
    """The nodes and services that a fault may hit."""

    NODE = "any miner or validator"
    MINER = "a miner"
    VALIDATOR = "a validator"
    TOP_VALIDATOR = "the validator with most stake"
    LAST_VALIDATOR = "the validator with least stake, in every vote the minority"
    SECOND_VALIDATOR = "the validator with second most stake, less than half of it"
    LAST_VALIDATOR_OR_MINER = "the validator with least stake, or a miner"
    LAST_TWO_VALIDATORS = "the two validators with least stake, together a majority"
    CHAIN = "the chain"
    BUCKETS = "the buckets"
    RUN_FILE = "the run spec or dataset that a node reads"


class Claim(StrEnum):
    """A statement checked after a fault by the tests of each place."""

    ONE_MODEL = "all nodes end at one window, root and model, and report equal decisions"
    PAYLOADS_KEPT = "every accepted payload can be fetched by a stranger"
    RUN_GOES_ON = "the run loses few windows, and all nodes stand together again soon after"
    REPLAYS = "a replay of the whole run ends at the same digest"
    ONE_ANSWER = "one line names cause and remedy; the exit status says whether a restart helps"


class ProcessFault(StrEnum):
    """Faults on a localnet of real processes; the value is the name in the results."""

    KILL_MINER = "kill -9 of a miner"
    KILL_VALIDATOR = "kill -9 of a validator"
    KILL_TOP_VALIDATOR = "kill -9 of the top-stake validator"
    KILL_CHAIN = "kill -9 of the chain"
    KILL_BUCKETS = "kill -9 of the bucket server"
    PAUSE_ONE = "pause of one window"
    PAUSE_THREE = "pause of three windows"
    LEAVE = "half of the miners leave at once"
    SLOW = "slow transfers"
    TRUNCATED = "truncated transfers"
    STORM = "storm of 5xx answers"
    CLOCK = "clock 10 minutes off"
    FULL_DISK = "full disk"
    CUT_CHAIN = "validator cut off from the chain"
    SPLIT_BUCKETS = "validators split, each from the others' buckets"
    LIE_ROOT = "a liar alone awake votes a false root"
    LIE_SAMPLE = "a liar alone awake votes a false sample digest"


class OperatorFault(StrEnum):
    """Faults with a clear answer for the operator of the neuron."""

    SPEC_UNKNOWN_KEY = "bad run spec: unknown key"
    SPEC_WRONG_TYPE = "bad run spec: wrong type"
    SPEC_OTHER_DIGEST = "bad run spec: other digest"
    WRONG_READ_CREDENTIALS = "wrong read credentials"
    WRONG_WRITE_CREDENTIALS = "wrong write credentials"
    BUCKET_MISSING = "bucket missing"
    BUCKET_NOT_WRITABLE = "bucket not writable"
    MISSING_WALLET = "missing wallet"
    LOCKED_WALLET = "locked wallet"
    UNREGISTERED = "unregistered hotkey"
    DEREGISTERED = "deregistered in mid-run"
    CHAIN_DOWN_AT_START = "chain down at the start"
    CHAIN_DOWN_IN_MID_RUN = "chain down in mid-run"
    SLOW_RPC = "RPC slow"
    SOCKET_DROPPED = "socket dropped"
    WEIGHTS_TOO_SOON = "weights too soon"
    NO_PERMIT = "not enough stake for a permit"
    COMMITMENT_TOO_LONG = "commitment too long"
    WRONG_SHARD = "dataset shard with a wrong digest"
    DISK_FULL = "disk full"
    CLOCK_OFF = "clock an hour off"


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """How a schedule draws a fault: `least` to `most` targets at once, for up to
    `max_windows` windows. The fault needs `windows_after` more windows to be over.
    """

    least: int = 1
    most: int = 1
    max_windows: int = 1
    windows_after: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultKind:
    """An entry. `draw`: in a swarm, under the entry's name. `processes`: on a localnet, with the
    duration of each in windows. `operator`: on single neurons.
    """

    event: str
    target: Target
    draw: Draw | None = None
    processes: Mapping[ProcessFault, int] | None = None
    operator: tuple[OperatorFault, ...] = ()

    @property
    def claims(self) -> frozenset[Claim]:
        """The claims checked afterwards, by the places where the fault is played."""
        found: set[Claim] = set()
        if self.draw is not None:
            found |= {Claim.ONE_MODEL, Claim.PAYLOADS_KEPT}
        if self.processes is not None:
            found |= {Claim.ONE_MODEL, Claim.PAYLOADS_KEPT, Claim.RUN_GOES_ON, Claim.REPLAYS}
        if self.operator:
            found.add(Claim.ONE_ANSWER)
        return frozenset(found)


_NODE, _MINER, _LAST = Target.NODE, Target.MINER, Target.LAST_VALIDATOR
_P, _O = ProcessFault, OperatorFault

FAULTS: Final[Mapping[str, FaultKind]] = {
    "kill": FaultKind(
        target=_NODE,
        event="the process dies in the middle of any call, and is started again",
        draw=Draw(),
        processes={_P.KILL_MINER: 0, _P.KILL_VALIDATOR: 0},
    ),
    "kill_top": FaultKind(
        target=Target.TOP_VALIDATOR,
        event="the same, while this validator scores",
        draw=Draw(),
        processes={_P.KILL_TOP_VALIDATOR: 0},
    ),
    "pause": FaultKind(
        target=_NODE,
        event="the process stands still for one to three windows",
        draw=Draw(max_windows=3),
        processes={_P.PAUSE_ONE: 1, _P.PAUSE_THREE: 3},
    ),
    "half_leave": FaultKind(
        target=_MINER,
        event="half of the miners end at once",
        draw=Draw(),
        processes={_P.LEAVE: 2},
    ),
    "dropped_uid": FaultKind(
        target=Target.LAST_VALIDATOR_OR_MINER,
        event="the hotkey loses its registration in mid-run",
        draw=Draw(),
        operator=(_O.DEREGISTERED,),
    ),
    "bucket_down": FaultKind(
        target=_NODE,
        event="the bucket does not answer, or answers 5xx",
        draw=Draw(max_windows=2),
        processes={_P.STORM: 1, _P.KILL_BUCKETS: 0, _P.SPLIT_BUCKETS: 1},
    ),
    "bucket_gone": FaultKind(
        target=_MINER,
        event="the bucket does not exist any more",
        draw=Draw(),
        operator=(_O.BUCKET_MISSING,),
    ),
    "bucket_slow": FaultKind(
        target=_MINER,
        event="answers of the bucket come blocks later",
        draw=Draw(max_windows=2),
        processes={_P.SLOW: 1},
    ),
    "truncated": FaultKind(
        target=_MINER,
        event="answers of the bucket end early",
        draw=Draw(max_windows=2),
        processes={_P.TRUNCATED: 1},
    ),
    "other_bytes": FaultKind(
        target=_MINER,
        event="answers of the bucket differ in one bit",
        draw=Draw(max_windows=2),
    ),
    "deleted": FaultKind(
        target=_MINER,
        event="the payload is deleted from the miner's bucket after the vote",
        draw=Draw(),
    ),
    "shown_to_few": FaultKind(
        target=_MINER,
        event="one or two validators alone can fetch the payload",
        draw=Draw(max_windows=2),
    ),
    "chain_down": FaultKind(
        target=_NODE,
        event="no answer from the chain",
        draw=Draw(most=3, max_windows=2),
        processes={_P.KILL_CHAIN: 0, _P.CUT_CHAIN: 1},
        operator=(_O.CHAIN_DOWN_IN_MID_RUN, _O.CHAIN_DOWN_AT_START),
    ),
    "old_finality": FaultKind(
        target=_NODE,
        event="the chain's finality stands still for these nodes",
        draw=Draw(most=3, max_windows=2),
    ),
    "partition": FaultKind(
        target=_NODE,
        event="finality stands still for all, and records of these nodes do not reach the chain",
        draw=Draw(most=3, max_windows=2),
    ),
    "reorganised": FaultKind(
        target=Target.CHAIN,
        event="the last blocks before finality are replaced, with or without their records",
        draw=Draw(),
    ),
    "full_disk": FaultKind(
        target=_NODE,
        event="the state file cannot be written",
        draw=Draw(),
        processes={_P.FULL_DISK: 1},
        operator=(_O.DISK_FULL,),
    ),
    "wrong_root": FaultKind(
        target=_LAST, event="the validator votes for a wrong root", draw=Draw()
    ),
    "names_unheld": FaultKind(
        target=_LAST,
        event="the validator accepts a payload that does not exist",
        draw=Draw(),
    ),
    "flipped_bit": FaultKind(
        target=Target.LAST_VALIDATOR_OR_MINER,
        event="a bit of the model flips in memory",
        draw=Draw(),
    ),
    "void": FaultKind(
        target=Target.LAST_TWO_VALIDATORS,
        event="a majority accepts a payload that no other node can fetch",
        draw=Draw(least=2, most=2, windows_after=6),
    ),
    "clock_off": FaultKind(
        target=_NODE,
        event="the wall clock is minutes or an hour off",
        processes={_P.CLOCK: 2},
        operator=(_O.CLOCK_OFF,),
    ),
    "bad_run_spec": FaultKind(
        target=Target.RUN_FILE,
        event="the run file is not the one of the run",
        operator=(_O.SPEC_UNKNOWN_KEY, _O.SPEC_WRONG_TYPE, _O.SPEC_OTHER_DIGEST),
    ),
    "wrong_shard": FaultKind(
        target=Target.RUN_FILE,
        event="a dataset shard has a wrong digest",
        operator=(_O.WRONG_SHARD,),
    ),
    "bucket_denied": FaultKind(
        target=_NODE,
        event="credentials are wrong, or may not write",
        operator=(_O.WRONG_READ_CREDENTIALS, _O.WRONG_WRITE_CREDENTIALS, _O.BUCKET_NOT_WRITABLE),
    ),
    "no_wallet": FaultKind(
        target=_NODE,
        event="the wallet is missing or locked",
        operator=(_O.MISSING_WALLET, _O.LOCKED_WALLET),
    ),
    "not_admitted": FaultKind(
        target=_NODE,
        event="the hotkey is not registered, or a validator lacks the stake for a permit",
        operator=(_O.UNREGISTERED, _O.NO_PERMIT),
    ),
    "bad_wire": FaultKind(
        target=Target.CHAIN,
        event="answers of the chain are slow, or its socket is dropped",
        operator=(_O.SLOW_RPC, _O.SOCKET_DROPPED),
    ),
    "refused_extrinsic": FaultKind(
        target=_NODE,
        event="the chain refuses weights set too soon, or a commitment over the limit",
        operator=(_O.WEIGHTS_TOO_SOON, _O.COMMITMENT_TOO_LONG),
    ),
    "lie_alone": FaultKind(
        target=Target.SECOND_VALIDATOR,
        event="the validator votes falsely and names garbage, while all other validators sleep",
        processes={_P.LIE_ROOT: 1, _P.LIE_SAMPLE: 1},
    ),
}
"""Name -> fault. The seeded schedules draw by position: a new fault goes to the end."""

SWARM_DRAWS: Final[Mapping[str, Draw]] = {
    name: kind.draw for name, kind in FAULTS.items() if kind.draw is not None
}
PROCESS_WINDOWS: Final[Mapping[ProcessFault, int]] = {
    played: windows
    for kind in FAULTS.values()
    for played, windows in (kind.processes or {}).items()
}
"""Windows for which each fault on a localnet is held; a kill is over at once."""
