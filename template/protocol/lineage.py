"""The lineage: the payloads applied in every window, in a form for anyone to verify.

One JSON line a step. The step on window w leads from theta_{w+1} with root R_{w+1} to theta_{w+2}.
The roots are a hash chain: steps that end in the stake majority's root are the run's own, from any
bucket. A verifier needs no old chain state to learn the accepted sets.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from template.errors import ObjectError
from template.protocol.keys import RUN_ID_BYTES
from template.protocol.quorum import VOID_WINDOWS, is_void
from template.protocol.record import MAX_UIDS, ROOT_BYTES
from template.protocol.root import Member, next_root
from template.protocol.spec.run import RunSpec
from template.protocol.ss58 import public_key
from template.protocol.strangers import parse_json, refusing, text_of, whole

_DIGEST_BYTES = 32
_MAX_RAO = 2**64
STEP_CHARS = 512
"""Maximum length of a step's line without the members."""
MEMBER_CHARS = 224
"""Maximum length of a member's entry in a step."""


class Accepted(Protocol):
    """The inputs of an outer step: a decision or a step of the lineage."""

    @property
    def window(self) -> int:
        """w, the window of the payloads."""

    @property
    def members(self) -> tuple[Member, ...]:
        """A_w in uid order."""

    @property
    def voting_stake_rao(self) -> int:
        """Total stake of all votes on the window."""

    @property
    def pace(self) -> int:
        """The move of alpha's exponent after the step: -1, 0 or 1."""

    @property
    def adopted(self) -> bytes:
        """Id of the spec that the ballot on w adopts, or empty."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LineageStep:
    """The payloads applied for one window.

    `root`: R_{w+1}, 32 bytes, at the start of the step. `checkpoint`: a 32-byte digest for the
    next root, or empty. `pace`: the move of alpha's exponent, 0 without members. `voted_root`: root
    of the majority of the voting stake (16 bytes), or empty; the root chain does not cover this
    field. `adopted`: id of the spec that the ballot adopts for `LEAD_WINDOWS` later, or empty.
    """

    window: int
    root: bytes
    members: tuple[Member, ...]
    voting_stake_rao: int
    checkpoint: bytes
    voted_root: bytes
    pace: int = 0
    adopted: bytes = b""

    @property
    def next_root(self) -> bytes:
        """R_{w+2}, 32 bytes."""
        return next_root(
            self.root,
            self.window,
            self.members,
            self.checkpoint,
            self.voting_stake_rao,
            self.pace,
            self.adopted,
        )

    def emptied(self) -> "LineageStep":
        """The step without payloads, and so without a move of alpha."""
        return replace(self, members=(), pace=0)


def is_chain(steps: Sequence[LineageStep]) -> bool:
    """Whether each step starts at the window and root at which the previous step ends."""
    pairs = pairwise(steps)
    return all(b.window == a.window + 1 and b.root == a.next_root for a, b in pairs)


def newly_void(steps: Sequence[LineageStep]) -> int | None:
    """The window that the last step voids, or None.

    The window lies `VOID_WINDOWS` before the last step: in all later windows the majority voted
    the root before the window's payloads. A window without payloads is never void.
    """
    if len(steps) <= VOID_WINDOWS:
        return None
    step, *later = steps[-VOID_WINDOWS - 1 :]
    votes = [other.voted_root or None for other in later]
    return step.window if step.members and is_void(step.root[:ROOT_BYTES], votes) else None


def encode_lineage(steps: Iterable[LineageStep]) -> bytes:
    """One line a step; the same bytes from every node with the same steps."""
    return b"".join(_encode_step(step) for step in steps)


def _encode_step(step: LineageStep) -> bytes:
    row = {
        "window": step.window,
        "root": step.root.hex(),
        "members": [[m.uid, m.hotkey, m.coldkey.hex(), m.digest.hex()] for m in step.members],
        "voting_stake_rao": step.voting_stake_rao,
        "checkpoint": step.checkpoint.hex(),
        "voted_root": step.voted_root.hex(),
        "pace": step.pace,
    }
    if step.adopted:
        row["adopted"] = step.adopted.hex()
    return json.dumps(row, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def lineage_limit_bytes(spec: RunSpec) -> int:
    """Maximum bytes of a segment: the steps from a checkpoint to the next, all of them full."""
    step_bytes = STEP_CHARS + MEMBER_CHARS * spec.outer.peers_per_step
    return spec.checkpoint.every_windows * step_bytes


def parse_lineage(data: bytes) -> list[LineageStep]:
    """Steps from a stranger's bytes; ObjectError unless each step follows from the previous."""
    steps = [_parse_step(number, line) for number, line in enumerate(data.splitlines(), start=1)]
    if not is_chain(steps):
        raise ObjectError("lineage: the steps do not follow from each other; refused")
    return steps


def _parse_step(number: int, line: bytes) -> LineageStep:
    what = f"lineage: line {number} is not a step"
    row = parse_json(line, what)
    with refusing(what):
        members = tuple(_parse_member(*fields) for fields in row["members"])
        step = LineageStep(
            window=whole(row["window"], "window", 2**32),
            root=_parse_digest(row["root"], (_DIGEST_BYTES,)),
            members=members,
            voting_stake_rao=whole(row["voting_stake_rao"], "voting_stake_rao", _MAX_RAO),
            checkpoint=_parse_digest(row["checkpoint"], (0, _DIGEST_BYTES)),
            voted_root=_parse_digest(row["voted_root"], (0, ROOT_BYTES)),
            pace=whole(row["pace"], "pace", 2, -1),
            adopted=_parse_digest(row.get("adopted", ""), (0, RUN_ID_BYTES)),
        )
        if step.pace and not members:
            raise ValueError("a step without members moves alpha")
        # The root covers members in uid order; another order would be a second spelling of a step.
        uids = [member.uid for member in members]
        if uids != sorted(set(uids)):
            raise ValueError("uids are not in order")
    return step


def _parse_member(uid: object, hotkey: object, coldkey: object, digest: object) -> Member:
    address = text_of(hotkey, "hotkey")
    return Member(
        uid=whole(uid, "uid", MAX_UIDS),
        hotkey=address,
        public_key=public_key(address),
        coldkey=_parse_digest(coldkey, (_DIGEST_BYTES,)),
        digest=_parse_digest(digest, (_DIGEST_BYTES,)),
    )


def _parse_digest(text: object, sizes: tuple[int, ...]) -> bytes:
    value = bytes.fromhex(text_of(text, "a digest"))
    if len(value) not in sizes:
        raise ValueError(f"{len(value)} bytes instead of {sizes}")
    return value
