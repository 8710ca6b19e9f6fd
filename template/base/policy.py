"""A validator's policy: from measurements to the vote and the weights.

Honest here. The localnet's misbehaving validators replace the policy alone.
"""

from evaluation.conclusion import choose_accepted
from template.base.memory import ValidatorMemory, registrations
from template.chain import Metagraph
from template.protocol.record import Vote
from template.scoring.window import Scored


class ValidatorPolicy:
    """The honest policy. `scores`, `votes`: whether the validator does so at all."""

    scores = True
    votes = True

    def accepted_uids(self, scored: Scored, memory: ValidatorMemory, limit: int) -> frozenset[int]:
        """The payloads accepted by the vote: `limit` at most."""
        return choose_accepted(scored.verdicts, memory.reputations, limit)

    def missing_uids(self, scored: Scored) -> frozenset[int]:
        """The payloads reported as unavailable by the vote."""
        return frozenset(verdict.uid for verdict in scored.verdicts if verdict.missing)

    def vote(self, vote: Vote) -> Vote:
        """The vote put on chain, from the vote at this node's state."""
        return vote

    def may_set_weights(self, memory: ValidatorMemory, window: int) -> bool:
        """Whether enough windows were scored here lately for fair weights.

        A validator back from an absence would leave honest miners unpaid; the older weights stand.
        """
        return memory.num_scored(window) >= memory.num_needed(window)

    def weights(self, graph: Metagraph, memory: ValidatorMemory, window: int) -> dict[int, float]:
        """uid -> share, as set on chain."""
        return memory.shares(registrations(graph), window)
