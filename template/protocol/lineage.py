"""The lineage: which payloads made the model, window after window, as anybody can check it.

One JSON line a step. A step on window w leads from theta_{w+1} with root R_{w+1} to theta_{w+2};
the roots are a hash chain: steps that lead to the root that the stake majority votes now are those
of the run, whoever's bucket they come from. No old chain state is needed to know what was accepted.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from template.errors import ObjectError
from template.protocol.quorum import VOID_WINDOWS, is_void
from template.protocol.record import MAX_UIDS, ROOT_BYTES
from template.protocol.root import Member, next_root
from template.protocol.ss58 import public_key

_MALFORMED = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What a stranger's JSON can raise."""
_DIGEST_BYTES = 32
_MAX_RAO = 2**64


class Accepted(Protocol):
    """What a step needs to know of a window: a decision on it, or a step of the lineage."""

    @property
    def window(self) -> int:
        """w, of the payloads."""

    @property
    def members(self) -> tuple[Member, ...]:
        """A_w in uid order."""

    @property
    def voting_stake_rao(self) -> int:
        """Of all votes on it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LineageStep:
    """What was applied for a window. `root`: R_{w+1}, 32 bytes, from which the step starts.
    `checkpoint`: the digest that enters the next root, or empty. `voted_root`: the one that most
    of the voting stake carried (16 bytes), or empty; it proves nothing and is in no root.
    """

    window: int
    root: bytes
    members: tuple[Member, ...]
    voting_stake_rao: int
    checkpoint: bytes
    voted_root: bytes

    @property
    def next_root(self) -> bytes:
        """R_{w+2}."""
        return next_root(self.root, self.window, self.members, self.checkpoint)


def is_chain(steps: Sequence[LineageStep]) -> bool:
    """Whether each step starts, a window later, where the one before it ends."""
    pairs = itertools.pairwise(steps)
    return all(b.window == a.window + 1 and b.root == a.next_root for a, b in pairs)


def newly_void(steps: Sequence[LineageStep]) -> int | None:
    """The window whose payloads the last steps have found void, if there are any to take back.

    It lies `VOID_WINDOWS` before the last: on all after it the majority voted to stand before it.
    """
    if len(steps) <= VOID_WINDOWS:
        return None
    step, *later = steps[-VOID_WINDOWS - 1 :]
    votes = [other.voted_root or None for other in later]
    return step.window if step.members and is_void(step.root[:ROOT_BYTES], votes) else None


def encode_lineage(steps: Iterable[LineageStep]) -> bytes:
    """One line a step; the same bytes from every node that took them."""
    return b"".join(_encode(step) for step in steps)


def _encode(step: LineageStep) -> bytes:
    row = {
        "window": step.window,
        "root": step.root.hex(),
        "members": [[m.uid, m.hotkey, m.coldkey.hex(), m.digest.hex()] for m in step.members],
        "voting_stake_rao": step.voting_stake_rao,
        "checkpoint": step.checkpoint.hex(),
        "voted_root": step.voted_root.hex(),
    }
    return json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def parse_lineage(data: bytes) -> list[LineageStep]:
    """Steps from bytes of anybody; ObjectError unless each follows from the one before."""
    steps = [_parse(number, line) for number, line in enumerate(data.splitlines(), start=1)]
    if not is_chain(steps):
        raise ObjectError("lineage: its steps do not follow from each other")
    return steps


def _parse(number: int, line: bytes) -> LineageStep:
    try:
        row = json.loads(line)
        members = tuple(_member(*fields) for fields in row["members"])
        step = LineageStep(
            window=_number(row["window"], 2**32),
            root=_digest(row["root"], (_DIGEST_BYTES,)),
            members=members,
            voting_stake_rao=_number(row["voting_stake_rao"], _MAX_RAO),
            checkpoint=_digest(row["checkpoint"], (0, _DIGEST_BYTES)),
            voted_root=_digest(row["voted_root"], (0, ROOT_BYTES)),
        )
        uids = [member.uid for member in members]
        if uids != sorted(set(uids)):
            raise ValueError("uids are not in order")
    except _MALFORMED as error:
        raise ObjectError(f"lineage: line {number} is no step: {error!r}") from error
    return step


def _member(uid: Any, hotkey: str, coldkey: str, digest: str) -> Member:
    return Member(
        uid=_number(uid, MAX_UIDS),
        hotkey=hotkey,
        public_key=public_key(hotkey),
        coldkey=_digest(coldkey, (_DIGEST_BYTES,)),
        digest=_digest(digest, (_DIGEST_BYTES,)),
    )


def _number(value: Any, limit: int) -> int:
    if type(value) is not int or not 0 <= value < limit:
        raise ValueError(f"{value!r} is not a number below {limit}")
    return value


def _digest(text: str, sizes: tuple[int, ...]) -> bytes:
    value = bytes.fromhex(text)
    if len(value) not in sizes:
        raise ValueError(f"{len(value)} bytes instead of {sizes}")
    return value
