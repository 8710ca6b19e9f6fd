"""Who holds which object, when several validators share a task: pure, from hashes and stakes.

Each object has the hotkeys with the least hashes of object and hotkey: a hotkey that comes or goes
moves only its own objects, and nobody has to agree on a list.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from template.protocol.hashing import labelled_hash

HOLDERS: Final = 3
"""Validators that put each part of a checkpoint and each named payload: two may be away."""
CORE_TENTHS: Final = 9
"""Tenths of the stake behind those who may be holders: hotkeys of no stake cost nothing, and must
not crowd the holders of every payload."""


def holders_of(digest: bytes, hotkeys: Iterable[str]) -> list[str]:
    """The hotkeys that hold the object with a SHA-256, the first in line first; at most HOLDERS."""
    return _in_order(digest, hotkeys)[:HOLDERS]


def core_of(stakes: Mapping[str, int]) -> frozenset[str]:
    """The hotkeys with the most stake that have `CORE_TENTHS` of it together; HOLDERS at least.

    `stakes`: hotkey -> stake. Who has as much as the last of the core is in the core too.
    """
    core: list[str] = []
    left = sum(stakes.values()) * CORE_TENTHS
    for hotkey in sorted(stakes, key=lambda hotkey: (-stakes[hotkey], hotkey)):
        is_equal = bool(core) and stakes[hotkey] == stakes[core[-1]]
        if len(core) >= HOLDERS and left <= 0 and not is_equal:
            break
        core.append(hotkey)
        left -= 10 * stakes[hotkey]
    return frozenset(core)


def payload_line(seed: bytes, digest: bytes, stakes: Mapping[str, int]) -> list[str]:
    """The validators in the order in which they serve a named payload: the holders first.

    `seed`: the hash of the window's stake block, unknown when the payload was committed: a miner
    could search for a payload that accomplices hold otherwise. The core comes before all others.
    """
    core, drawn = core_of(stakes), labelled_hash("tessera/payload holders", seed, digest)
    others = [hotkey for hotkey in stakes if hotkey not in core]
    return [*_in_order(drawn, core), *_in_order(drawn, others)]


def turn_of(place: int) -> int:
    """When a validator steps in for absent holders: 0 for the first behind the holders in line.

    Each turn is of twice as many as the turn before, so a long line is through after a few turns.
    ValueError for a holder's place.
    """
    if place < HOLDERS:
        raise ValueError(f"place {place} in line is a holder's")
    return (place - HOLDERS + 1).bit_length() - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Holding:
    """What decides on the holders of a window's payloads.

    `seed`: the hash of the stake block. `stakes`: hotkey -> stake there of the validators that vote
    of late.
    """

    seed: bytes
    stakes: Mapping[str, int]

    def joined_by(self, hotkey: str, stake: int = 0) -> "Holding":
        """With a hotkey in it: one that has not voted of late holds what falls to it too."""
        return (
            self if hotkey in self.stakes else replace(self, stakes={**self.stakes, hotkey: stake})
        )

    def line(self, digest: bytes) -> list[str]:
        """As `payload_line`."""
        return payload_line(self.seed, digest, self.stakes)

    def held_by(self, hotkey: str, digests: Collection[bytes]) -> set[bytes]:
        """The digests of which this hotkey is a holder."""
        return {digest for digest in digests if hotkey in self.line(digest)[:HOLDERS]}


def _in_order(digest: bytes, hotkeys: Iterable[str]) -> list[str]:
    def rank(hotkey: str) -> bytes:
        return labelled_hash("tessera/holder", digest, hotkey.encode("ascii"))

    return sorted(hotkeys, key=rank)
