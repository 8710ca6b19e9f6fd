"""What an auditor remembers of the payloads behind a validator's log."""

import numpy as np

from evaluation.judge import Measured
from evaluation.verdict import NOT_DRAWN, Verdict
from evaluation.verdict_log import WindowLog
from simulation.swarm import STAKES_TAO, build_world
from simulation.world import hotkey_of
from template.audit.auditor import Auditor
from template.audit.chain_facts import ChainFacts
from template.audit.payloads import AuditedPayloads
from template.peers.client import Peers
from template.protocol.root import Member
from template.protocol.ss58 import public_key
from tests.support.audited import reader

VALIDATOR, OWNER, THIEF = map(hotkey_of, ("val-a", "m0", "m1"))


def log_of(window: int, *verdicts: Verdict) -> WindowLog:
    none_S = np.empty(0)
    return WindowLog(
        window=window,
        seed="",
        ids_S=none_S.astype(np.int64),
        known=(),
        undelivered=(),
        measured=Measured(owners_S=none_S.astype(np.int64), before_SQ=none_S[:, None], after_KQ={}),
        verdicts=verdicts,
        uids={},
        burn_uid=None,
        reputations={},
        shares={},
        exponent=0,
        pace=0,
    )


def verdict_of(member: Member, window: int, status: str, detail: str = "") -> Verdict:
    return Verdict(
        window=window,
        uid=member.uid,
        hotkey=member.hotkey,
        digest=member.digest.hex(),
        status=status,
        detail=detail,
    )


def test_a_payload_that_nobody_serves_is_lacked_in_each_window_that_names_it(tmp_path) -> None:
    """A validator had read the payload; afterwards a thief repeats it in window after window."""
    world = build_world(STAKES_TAO)
    context = reader(world, tmp_path)
    follower = Auditor(context, VALIDATOR, 0).follower
    audited = AuditedPayloads(context, Peers(context), follower, VALIDATOR)
    owner, thief = (
        Member(
            uid=uid,
            hotkey=hotkey,
            public_key=public_key(hotkey),
            coldkey=bytes(32),
            digest=bytes([uid]) * 32,
        )
        for uid, hotkey in ((3, OWNER), (4, THIEF))
    )
    first = 2
    audited.check_again(
        log_of(first, verdict_of(owner, first, NOT_DRAWN)),
        ChainFacts(members={owner.uid: owner}, votes={}),
        [],
    )
    reach = context.run.first.outer.max_staleness + 2
    assert reach > 2
    for window in range(first + 1, first + reach + 1):
        refusal = verdict_of(
            thief, window, "overlap", f"shares 100% with {OWNER} in window {first}"
        )
        facts = ChainFacts(members={thief.uid: thief}, votes={})
        audited.check_again(log_of(window, refusal), facts, [thief])
        assert audited.lacks(refusal), window
