"""Decisions made by hand."""

from simulation.world import hotkey_of
from template.protocol.quorum import Decision
from template.protocol.root import Member
from template.protocol.ss58 import public_key

M0 = hotkey_of("m0")


def decided(window: int, *digests: bytes) -> Decision:
    """A decision for these digests of m0."""
    members = tuple(
        Member(uid=uid, hotkey=M0, public_key=public_key(M0), coldkey=bytes(32), digest=digest)
        for uid, digest in enumerate(digests)
    )
    return Decision(
        window=window,
        members=members,
        namers={},
        root=None,
        sample_digest=None,
        undelivered=(),
        dissenters=(),
        voting_stake_rao=1,
        reference_rao=1,
        no_op="",
    )
