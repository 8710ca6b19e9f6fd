"""Validators that misbehave: the real validator with another policy."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from evaluation.verdict import MISSING, Verdict
from localnet.onchain import weights_on_chain
from localnet.tallies import mean_weights
from template.base.memory import ValidatorMemory
from template.base.policy import ValidatorPolicy
from template.chain import Metagraph
from template.context import NodeContext
from template.protocol.record import MAX_UIDS, ROOT_BYTES, SAMPLE_DIGEST_BYTES, Vote
from template.scoring.window import Scored

LIES_FILE: Final = "lies.json"
"""In the state folder of a `FalseVoter`: the windows of its lies."""
FALSE_ROOT: Final = b"\xff" * ROOT_BYTES
FALSE_SAMPLE: Final = b"\xff" * SAMPLE_DIGEST_BYTES


class Liar(ValidatorPolicy):
    """Accepts the payload with the worst measured gain, and gives the worst miner all weight.

    Reports honest payloads as missing. Measures and logs honestly, to find the worst payload.
    """

    def accepted_uids(self, scored: Scored, memory: ValidatorMemory, limit: int) -> frozenset[int]:
        useless = [v for v in scored.verdicts if not v.named and v.status != MISSING[0]]
        useless.sort(key=_gain_and_uid)
        return frozenset(verdict.uid for verdict in useless[:1])

    def missing_uids(self, scored: Scored) -> frozenset[int]:
        return frozenset(v.uid for v in scored.verdicts if v.named or v.missing)

    def weights(self, graph: Metagraph, memory: ValidatorMemory, window: int) -> dict[int, float]:
        gains = {
            neuron.uid: [
                entry.relative_gain or 0.0 for entry in memory.histories[neuron.hotkey].values()
            ]
            for neuron in graph.neurons
            if neuron.hotkey in memory.histories
        }
        if not gains:
            return super().weights(graph, memory, window)
        worst = min(gains, key=lambda uid: (sum(gains[uid]) / len(gains[uid]), uid))
        return {worst: 1.0}


def _gain_and_uid(verdict: Verdict) -> tuple[float, int]:
    gain = -1.0 if verdict.relative_gain is None else verdict.relative_gain
    return gain, verdict.uid


class WeightCopier(ValidatorPolicy):
    """Neither scores nor votes; sets the mean of the weights on chain.

    `read_weights`: weights on chain, validator's uid -> uid -> share.
    """

    scores = False
    votes = False

    def __init__(
        self, context: NodeContext, read_weights: Callable[[], Mapping[int, Mapping[int, float]]]
    ) -> None:
        self._context = context
        self._read_weights = read_weights

    @classmethod
    def of_chain(cls, context: NodeContext) -> "WeightCopier":
        """Copies from the node's chain."""
        return cls(context, lambda: weights_on_chain(context.commands.network))

    def may_set_weights(self, memory: ValidatorMemory, window: int) -> bool:
        return True

    def weights(self, graph: Metagraph, memory: ValidatorMemory, window: int) -> dict[int, float]:
        me = graph.uid_of(self._context.hotkey)
        others = {uid: row for uid, row in self._read_weights().items() if uid != me}
        copied = mean_weights(others, graph)
        return copied or super().weights(graph, memory, window)


class AbsentNamer(ValidatorPolicy):
    """Votes honestly, and also accepts every uid without a fetchable payload."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context

    def accepted_uids(self, scored: Scored, memory: ValidatorMemory, limit: int) -> frozenset[int]:
        present = {verdict.uid for verdict in scored.verdicts if not verdict.missing}
        chain = self._context.chain
        registered = {neuron.uid for neuron in chain.metagraph(chain.finalized()).neurons}
        return super().accepted_uids(scored, memory, limit) | (registered - present)


class SilentValidator(ValidatorPolicy):
    """Scores and sets weights, but never votes."""

    votes = False


class Accelerator(ValidatorPolicy):
    """Honest, but votes for a larger alpha in every window."""

    def vote(self, vote: Vote) -> Vote:
        return replace(vote, pace=1)


class Lie(StrEnum):
    """The false claim about the model in a vote."""

    ROOT = "false root"
    SAMPLE = "false sample digest"


class FalseVoter(ValidatorPolicy):
    """Scores and follows honestly, and votes for what nobody has.

    A vote with a lie names every uid without a good payload, and calls the good payloads missing.
    The lie stands in every vote; with a LIES_FILE, only in the votes of the windows listed there.
    """

    def __init__(self, context: NodeContext, lie: Lie) -> None:
        self._lies_path, self._lie = context.state_dir / LIES_FILE, lie

    def vote(self, vote: Vote) -> Vote:
        lie = self._lie_of(vote.window)
        if lie is None:
            return vote
        garbage = replace(vote, uids=frozenset(range(MAX_UIDS)) - vote.uids, missing=vote.uids)
        if lie is Lie.ROOT:
            return replace(garbage, root=FALSE_ROOT)
        return replace(garbage, sample_digest=FALSE_SAMPLE)

    def _lie_of(self, window: int) -> Lie | None:
        """The lie of this window's vote, read anew: whoever plants lies plants them in mid-run."""
        try:
            planned = json.loads(self._lies_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return self._lie
        return Lie(planned[str(window)]) if str(window) in planned else None


def plan_lies(state_dir: Path, lies: Mapping[int, Lie]) -> None:
    """Confine the lies of the `FalseVoter` with this state folder to these windows."""
    state_dir.mkdir(parents=True, exist_ok=True)
    new = state_dir / f"{LIES_FILE}.new"
    new.write_text(json.dumps({str(window): lie for window, lie in lies.items()}), encoding="utf-8")
    os.replace(new, state_dir / LIES_FILE)


def find_lie(vote: Vote) -> Lie | None:
    """The lie in a vote of a `FalseVoter`; None in an honest vote."""
    if vote.root == FALSE_ROOT:
        return Lie.ROOT
    return Lie.SAMPLE if vote.sample_digest == FALSE_SAMPLE else None
