"""The participants of a localnet: names, roles and behaviours, from the command line's counts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from template.cli.flags import whole_number
from template.errors import ConfigError
from template.protocol.strangers import shown

HONEST = "honest"
MAX_NODES = 64
MAX_RANKS = 8
MIN_SPEED = 0.01
MAX_WIDTH = 1024
MAX_PARTS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Participant:
    """One hotkey. `name` names the wallet, the folder and the log; `ranks`: its processes; `speed`:
    of its inner steps, as a share of this machine's; `parts`: of the model, of which it trains one;
    `width`: of its steps.
    """

    name: str
    role: str
    behaviour: str = HONEST
    stake_tao: float = 0.0
    ranks: int = 1
    speed: float = 1.0
    parts: int = 1
    width: int = 1

    @property
    def is_honest_miner(self) -> bool:
        return (self.role, self.behaviour) == ("miner", HONEST)


def parse_misbehave(text: str, known: Mapping[str, object]) -> dict[str, int]:
    """`garbage:1,idle:2` -> counts; ConfigError for an unknown behaviour or a bad count."""
    counts: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, number = part.partition(":")
        if name not in known:
            raise ConfigError(
                f"--misbehave {name}: unknown; known: {', '.join(sorted(known))}; "
                "`--misbehave help` says what each does"
            )
        counts[name] = counts.get(name, 0) + _count("--misbehave", part, number, MAX_NODES)
    return counts


def parse_ranks(text: str, roster: Sequence[Participant]) -> list[Participant]:
    """`miner-0:2,val-0:2`: the roster with two ranks for the first honest miner and validator.

    `validator-0` is another word for `val-0`. ConfigError if wrong.
    """
    counts: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, number = part.partition(":")
        counts[name.replace("validator-", "val-")] = _count("--ranks", part, number, MAX_RANKS)
    honest = {p.name for p in roster if p.role != "owner" and p.behaviour == HONEST}
    for name in counts:
        if name not in honest:
            raise ConfigError(
                f"--ranks {name}: not an honest miner or validator of this localnet: these are "
                f"{', '.join(sorted(honest))}"
            )
    return [replace(p, ranks=counts.get(p.name, 1)) for p in roster]


def parse_speeds(text: str, roster: Sequence[Participant]) -> list[Participant]:
    """`miner-1:0.25`: the roster with a miner at a quarter of the speed. ConfigError if wrong."""
    speeds: dict[str, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, number = part.partition(":")
        speeds[name] = _speed(part, number)
    for participant in _honest_miners("--speeds", speeds, roster):
        if participant.ranks > 1:
            raise ConfigError(
                f"--speeds {participant.name}: a miner of several --ranks cannot be slowed"
            )
    return [replace(p, speed=speeds.get(p.name, 1.0)) for p in roster]


def parse_parts(text: str, roster: Sequence[Participant]) -> list[Participant]:
    """`miner-3:2`: the roster with a miner that trains one of two parts. ConfigError if wrong."""
    counts = _counts("--parts", text, MAX_PARTS, roster)
    return [replace(p, parts=counts.get(p.name, 1)) for p in roster]


def parse_widths(text: str, roster: Sequence[Participant]) -> list[Participant]:
    """`miner-0:2`: a roster with a miner whose steps take twice the pages. ConfigError if wrong."""
    counts = _counts("--widths", text, MAX_WIDTH, roster)
    return [replace(p, width=counts.get(p.name, 1)) for p in roster]


def _counts(flag: str, text: str, most: int, roster: Sequence[Participant]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, number = part.partition(":")
        counts[name] = _count(flag, part, number, most)
    _honest_miners(flag, counts, roster)
    return counts


def _count(flag: str, part: str, number: str, most: int) -> int:
    count = whole_number(number, 1, most)
    if count is None:
        raise ConfigError(f"{flag} {shown(part)}: write NAME:COUNT, COUNT from 1 to {most}")
    return count


def _honest_miners(
    flag: str, names: Iterable[str], roster: Sequence[Participant]
) -> list[Participant]:
    """The honest miners of these names; ConfigError for another name."""
    honest = {p.name: p for p in roster if p.role == "miner" and p.behaviour == HONEST}
    for name in names:
        if name not in honest:
            raise ConfigError(
                f"{flag} {name}: not an honest miner of this localnet: these are "
                f"{', '.join(sorted(honest))}"
            )
    return [honest[name] for name in names]


def _speed(part: str, number: str) -> float:
    try:
        speed = float(number)
    except ValueError:
        speed = 0.0
    if speed > 1.0:
        raise ConfigError(
            f"--speeds {part}: 1 is this machine's own speed, and idling makes no miner faster; "
            "slow the others down instead"
        )
    if not speed >= MIN_SPEED:
        raise ConfigError(f"--speeds {part}: write NAME:SHARE, SHARE from {MIN_SPEED} to 1")
    return speed


def make_roster(
    miners: int,
    validators: int,
    bad_miners: Mapping[str, int],
    bad_validators: Mapping[str, int] | None = None,
) -> list[Participant]:
    """The owner, then validators, honest miners and misbehaving miners, in the order of uids.

    `bad_miners`: behaviour -> count, added to `miners`. `bad_validators`: behaviour -> count, in
    place of the last validators. Each validator's stake is a tenth below the stake before.
    ConfigError without an honest validator or any miner, or with more than MAX_NODES nodes.
    """
    bad, liars = _spread(bad_miners), _spread(bad_validators or {})
    if validators < 1:
        raise ConfigError("--validators: must be at least 1: without a validator, no vote exists")
    if len(liars) >= validators:
        raise ConfigError(
            f"--misbehave: {len(liars)} of {validators} --validators; leave at least 1 honest"
        )
    if miners < 0 or miners + len(bad) < 1:
        raise ConfigError("--miners: give at least 1 miner, honest or misbehaving")
    if miners + validators + len(bad) > MAX_NODES:
        raise ConfigError(
            f"more than {MAX_NODES} nodes: lower --miners, --validators or --misbehave"
        )
    honest = [(f"val-{i}", HONEST) for i in range(validators - len(liars))]
    roster = [Participant(name="owner", role="owner")]
    roster += [
        Participant(
            name=name,
            role="validator",
            behaviour=behaviour,
            stake_tao=round(1000 * 0.9**place, 3),
        )
        for place, (name, behaviour) in enumerate([*honest, *liars])
    ]
    roster += [Participant(name=f"miner-{i}", role="miner") for i in range(miners)]
    roster += [Participant(name=name, role="miner", behaviour=b) for name, b in bad]
    return roster


def shown_kind(role: str, behaviour: str) -> str:
    """A miner's behaviour; for owner and validators the role, after any dishonest behaviour."""
    if role == "miner":
        return behaviour
    return role if behaviour == HONEST else f"{behaviour} {role}"


def _spread(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Name and behaviour of each misbehaving node."""
    return [(f"{behaviour}-{i}", behaviour) for behaviour, n in counts.items() for i in range(n)]
