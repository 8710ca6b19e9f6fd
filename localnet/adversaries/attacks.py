"""The one list of attacks: name, kind, limit of earnings, and the name in the simulation.

An attack runs as a real neuron of a local chain (`catalogue` builds the neuron), in the lean
simulation of `benchmarks.attacks` (`Attack.simulated`), or in both. An exact copy of a payload of
the same window is missing: commit before reveal hides payloads until all digests are fixed, and a
private order of the pages keeps others from computing the payload. Loads no tensor library: the
launcher's flags are checked against this list.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal["miner", "validator"]
Kind = Literal["free", "partial", "sybil", "validator", "faulty"]
"""`free`: without honest work. `partial`: with a share of honest work. `sybil`: the work of one
machine, on several hotkeys. `faulty`: honest, on a broken machine. `validator`: by a validator."""

FREE_SHARE, PARTIAL_EXCESS = 0.1, 1.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Attack:
    """One attack, wherever it runs.

    `about`: one line. `share`: of an honest miner's work, per hotkey. `may_earn`: the limit in one
    run as a share of an honest miner's emission, for all hotkeys of a sybil together; None for no
    limit. `first_window`: honest before. `simulated`: its name in the simulation and in results on
    record, or "".
    """

    role: Role = "miner"
    kind: Kind
    about: str
    share: float = 0.0
    may_earn: float | None
    first_window: int = 0
    simulated: str = ""


def _useless(about: str, simulated: str = "") -> Attack:
    """Payloads without any chance of a gain."""
    return Attack(kind="free", about=about, may_earn=0.0, simulated=simulated)


def _free(about: str, simulated: str = "", *, first_window: int = 0) -> Attack:
    return Attack(
        kind="free",
        about=about,
        may_earn=FREE_SHARE,
        first_window=first_window,
        simulated=simulated,
    )


def _partial(about: str, share: float, simulated: str = "") -> Attack:
    return Attack(
        kind="partial",
        about=about,
        share=share,
        may_earn=PARTIAL_EXCESS * share,
        simulated=simulated,
    )


def _validator(about: str, simulated: str = "") -> Attack:
    return Attack(
        role="validator", kind="validator", about=about, may_earn=None, simulated=simulated
    )


def _simulated(kind: Kind, name: str, about: str, share: float = 0.0) -> Attack:
    """An attack in the simulation only."""
    limits = {
        "free": FREE_SHARE,
        "partial": PARTIAL_EXCESS * share,
        "sybil": 1.0,
        "validator": FREE_SHARE,
    }
    return Attack(
        role="validator" if kind == "validator" else "miner",
        kind=kind,
        about=about,
        share=share,
        may_earn=limits.get(kind),
        simulated=name,
    )


SLEEPS_WINDOWS = 6

ATTACKS: Mapping[str, Attack] = {
    "garbage": _useless("random values at an honest norm", "gaussian"),
    "malformed": _useless("frames with one broken rule each"),
    "oversized": _useless("objects many times too long", "oversized"),
    "idle": Attack(kind="free", about="never commits", may_earn=0.0),
    "zero": _useless("payloads of zeros", "zero"),
    "flipped": _useless("honest work with the sign turned", "sign flip"),
    "magnified": _partial("honest work times 10", 1.0, "magnitude 10"),
    "magnified-1000": _partial("honest work times 1000", 1.0, "magnitude 1000"),
    "hijacker": _free(
        "colluding: minus three times the last update, on its coordinates", "index hijack"
    ),
    "inner-product": _free("minus ten times the rivals' mean", "inner product"),
    "little-enough": _free("the rivals' mean less 1.5 deviations", "a little is enough"),
    "loner": _free("noise on coordinates outside every rival's payload", "unique coordinates"),
    "copier": _free("a rival's last payload under an own header", "delayed copy"),
    "noisy-copier": _free("a rival's last payload with noise", "noisy copy"),
    "partial-copier": _free("two fifths of a rival's last payload, and noise", "partial copy"),
    "averager": _free("the mean of two rivals' last payloads", "average of two"),
    "replayer": _free("the own first payload in every window", "replay of its own", first_window=1),
    "repeater": _free(
        "another miner's training, repeated but for the order of its pages", "shadow training"
    ),
    "momentum-rider": _partial(
        "the last update again, and a tenth of the steps, all claimed", 0.1, "momentum rider"
    ),
    "sleeper": _free(
        f"honest at first (as a neuron {SLEEPS_WINDOWS} windows), then honest work times -3",
        "honest, then flipped",
        first_window=SLEEPS_WINDOWS,
    ),
    "undelivered": _useless("commits, never uploads", "not delivered"),
    "one-reader": Attack(
        kind="free",
        about="honest work for one reader alone",
        may_earn=FREE_SHARE,
        simulated="delivered to one",
    ),
    "good-draws": _partial("commits all, uploads the better half", 1.0, "only good draws"),
    "good-commits": _partial("commits the better half only", 1.0),
    "fewer-steps": _partial("half of the steps, honestly claimed", 0.5, "half of the steps"),
    "overclaimer": _partial("a quarter of the steps, all claimed", 0.25, "a quarter, all claimed"),
    "small-batches": _partial("half of each batch, all claimed", 0.5),
    "overfitter": _partial("all steps on a quarter of the pages", 1.0),
    "stale": _partial(
        "from parameters several windows old, claimed fresh", 1.0, "stale base, claimed fresh"
    ),
    "poisoner": _partial("all steps, with a trigger planted in some pages", 1.0, "poisoned"),
    "split": Attack(
        kind="sybil",
        about="half of a machine's steps: two must not earn more than one miner",
        share=0.5,
        may_earn=1.0,
        simulated="one machine, two hotkeys",
    ),
    "bitflip": Attack(
        kind="faulty",
        about="honest, but a flipped bit from window 2 on: paid, named, exit 1",
        may_earn=None,
    ),
    "liar": _validator(
        "accepts and pays the worst miner, calls honest payloads missing", "lying validator"
    ),
    "weight-copier": _validator("scores nothing, copies weights", "weight copier"),
    "absent-namer": _validator("accepts payloads without any holder, too", "names what nobody has"),
    "false-root": _validator("votes a root that nobody has, and names garbage"),
    "false-sample": _validator("votes the root with a false sample digest, and names garbage"),
    "silent": _validator("scores, never votes"),
    "pace-up": _validator("votes for a larger alpha in every window"),
}
"""Name on the launcher's command line -> the attack, which `catalogue` builds as a neuron."""

SIMULATED_ONLY = (
    _simulated("free", "replay of a rival's", "a rival's payload from eight windows ago"),
    _simulated("free", "late payload of a rival's", "a payload of the last window, never applied"),
    _simulated("free", "private model", "three times the steps, on pages of another shard"),
    _simulated("free", "re-registered rider", "a momentum rider with a new hotkey every 6 windows"),
    _simulated("free", "honest, then a copier", "honest for 10 windows, then a copier"),
    _simulated("free", "NaN scale", "a scale exponent beyond the range of the code"),
    _simulated("free", "duplicate index", "each chunk's first index in place of all"),
    _simulated("free", "wrong shape", "a frame of a model with one more row per tensor"),
    _simulated("free", "truncated", "a frame without its last bytes"),
    _simulated("partial", "spike", "honest work, each tensor's largest value times 1000", 1.0),
    _simulated("partial", "magnitude 100", "honest work times 100", 1.0),
    _simulated(
        "partial",
        "four batches claimed, one trained",
        "claims steps of four batches, and trains one of each",
        1.0,
    ),
    _simulated(
        "partial",
        "narrow, then four batches claimed",
        "honest for 4 windows, then claims four batches a step and trains one",
        1.0,
    ),
    _simulated(
        "partial",
        "half of the steps, four batches claimed",
        "half of the steps, of four batches each, all claimed",
        2.0,
    ),
    _simulated("partial", "half, magnified", "half of the work times 10", 0.5),
    _simulated(
        "partial", "half, magnified, all claimed", "half of the work times 10, all claimed", 0.5
    ),
    _simulated(
        "partial",
        "a quarter, magnified, all claimed",
        "a quarter of the work times 10, all claimed",
        0.25,
    ),
    _simulated("partial", "a quarter of each batch", "a quarter of each batch, all claimed", 0.25),
    _simulated("partial", "a quarter of each page", "the first quarter, all claimed", 0.25),
    _simulated("partial", "half of each page", "the first half, all claimed", 0.5),
    _simulated("partial", "half of each page, anywhere", "a half at random, all claimed", 0.5),
    _simulated(
        "partial",
        "half a copy, a quarter of the work",
        "half of a rival's last payload added to a quarter of the work, all claimed",
        0.25,
    ),
    _simulated(
        "partial",
        "part of a copy, a quarter of the work",
        "the same with two fifths, which repeats too little to be refused for it",
        0.25,
    ),
    _simulated("partial", "over-fit", "all steps on the first claimed batch", 1 / 15),
    _simulated(
        "partial", "over-fit, few claimed", "all steps on four batches, four claimed", 4 / 15
    ),
    _simulated("partial", "part-time flipped", "every second window's work times -3", 0.5),
    _simulated("partial", "part-time copier", "a copier in every second window", 0.5),
    _simulated("partial", "part-time residual", "every second window error feedback alone", 0.5),
    _simulated("partial", "part-time noise", "noise in every second window", 0.5),
    _simulated("sybil", "one machine, four hotkeys", "a quarter of the steps for each", 1 / 4),
    _simulated("sybil", "same payload, two hotkeys", "one training, sent twice", 1 / 2),
    _simulated("sybil", "one training, two hotkeys", "one training, sent again with noise", 1 / 2),
    _simulated("sybil", "one training split over two", "disjoint parts of one payload", 1 / 2),
    _simulated("sybil", "one training split over four", "disjoint parts of one payload", 1 / 4),
    _simulated(
        "sybil",
        "one training split over two, all claimed",
        "disjoint parts of one payload, twice what was trained claimed",
        1 / 2,
    ),
    _simulated(
        "sybil",
        "one training split over four, all claimed",
        "disjoint parts of one payload, four times what was trained claimed",
        1 / 4,
    ),
    _simulated(
        "validator",
        "half of the stake and free riders",
        "validators with 0.499 of the stake that accept and pay their free riders",
    ),
    _simulated("validator", "log copier", "copies votes, and the weights of another's log"),
    _simulated("validator", "lineage copier", "accepts and pays whom the last step applied"),
    _simulated(
        "validator", "validator and free riders", "a validator that accepts its own free riders"
    ),
)

SIMULATED: Mapping[str, Attack] = {
    attack.simulated: attack for attack in (*ATTACKS.values(), *SIMULATED_ONLY) if attack.simulated
}
"""Name in the simulation, and in results on record -> the attack."""


def listing() -> str:
    """One line per attack by a real neuron, for the launcher's help."""
    width = max(map(len, ATTACKS))
    return "\n".join(
        f"  {name:<{width}}  {attack.kind:<9}  {attack.about}" for name, attack in ATTACKS.items()
    )
