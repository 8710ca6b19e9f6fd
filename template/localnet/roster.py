"""Who takes part in a localnet: names, roles and behaviours, from the command line's numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

from template.errors import ConfigError

HONEST = "honest"
MAX_NODES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Participant:
    """One hotkey. `name` is its wallet's, its folder's and its log's."""

    name: str
    role: str
    behaviour: str = HONEST
    stake_tao: float = 0.0


def parse_misbehave(text: str, known: Mapping[str, object]) -> dict[str, int]:
    """`garbage:1,idle:2` -> counts; ConfigError for an unknown behaviour or a bad count."""
    counts: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, number = part.partition(":")
        if name not in known:
            raise ConfigError(f"--misbehave {name}: unknown; known: {', '.join(sorted(known))}")
        if not number.isdigit() or not 1 <= int(number) <= MAX_NODES:
            raise ConfigError(f"--misbehave {part}: write NAME:COUNT, COUNT from 1 to {MAX_NODES}")
        counts[name] = counts.get(name, 0) + int(number)
    return counts


def make_roster(miners: int, validators: int, misbehave: Mapping[str, int]) -> list[Participant]:
    """The owner, then validators, honest miners, and misbehaving ones, in the order of uids.

    Validators' stakes differ by a tenth, so that no vote ends in a tie. ConfigError if there
    is no validator, no miner at all, or too many nodes for a machine.
    """
    if validators < 1:
        raise ConfigError("--validators: at least 1, or nobody votes")
    if miners < 0 or miners + sum(misbehave.values()) < 1:
        raise ConfigError("--miners: at least one miner, honest or not")
    if miners + validators + sum(misbehave.values()) > MAX_NODES:
        raise ConfigError(f"more than {MAX_NODES} nodes")
    roster = [Participant(name="owner", role="owner")]
    roster += [
        Participant(name=f"val-{i}", role="validator", stake_tao=round(1000 * 0.9**i, 3))
        for i in range(validators)
    ]
    roster += [Participant(name=f"miner-{i}", role="miner") for i in range(miners)]
    roster += [
        Participant(name=f"{behaviour}-{i}", role="miner", behaviour=behaviour)
        for behaviour, count in misbehave.items()
        for i in range(count)
    ]
    return roster
