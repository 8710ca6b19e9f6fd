"""What an outer step is made from: payloads of random pseudo-gradients, and decisions on them."""

from collections.abc import Mapping
from typing import Any

import torch

from template.protocol.payload import PayloadHeader, decode_payload, encode_payload
from template.protocol.quorum import Decision
from template.protocol.root import Member


def random_payload(form, seed: int, *, scale: float = 1e-2, window: int = 0, staleness: int = 0):
    """A payload as it comes out of the wire, of random pseudo-gradients."""
    generator = torch.Generator().manual_seed(seed)
    dense = {
        name: torch.randn(shape, generator=generator) * scale for name, shape in form.shapes.items()
    }
    header = PayloadHeader(
        window=window,
        base_window=window - staleness,
        pages_consumed=1,
        public_key=bytes([seed]) * 32,
    )
    frame, _ = encode_payload(header, dense, form)
    return decode_payload(frame, form)


def member_of(uid: int, owner: int | None = None) -> Member:
    coldkey = bytes([uid if owner is None else owner]) * 32
    key = bytes([uid]) * 32
    return Member(uid=uid, hotkey=f"hk{uid}", public_key=key, coldkey=coldkey, digest=key)


def members_of(uids, owners: Mapping[int, int] | None = None) -> tuple[Member, ...]:
    return tuple(member_of(uid, (owners or {}).get(uid)) for uid in sorted(uids))


def decision_on(window: int, uids, stake_rao: int = 5, owners=None) -> Decision:
    return Decision(
        window=window,
        members=members_of(uids, owners),
        namers=dict.fromkeys(uids, ()),
        root=None,
        sample_digest=None,
        undelivered=(),
        dissenters=(),
        voting_stake_rao=stake_rao,
        reference_rao=stake_rao,
        no_op="",
    )


def naive_lengths(
    factors: dict, norms: Mapping[int, Mapping[str, float]], owners: Mapping[int, Any], ratio: float
) -> None:
    """In place: tensors cut to `ratio` times the upper one of the two lengths in the middle, of
    the owners' longest ones.
    """
    for name in {name for mine in factors.values() for name in mine} if ratio else ():
        length = {
            uid: mine[name] * norms[uid][name] for uid, mine in factors.items() if name in mine
        }
        longest = [
            max(each for uid, each in length.items() if owners[uid] == owner)
            for owner in {owners[uid] for uid in length}
        ]
        positive = sorted(each for each in longest if each > 0)
        for uid, each in length.items():
            if positive and each > ratio * positive[len(positive) // 2]:
                limit = ratio * positive[len(positive) // 2]
                factors[uid][name] = factors[uid][name] * (limit / each)
