"""Validators that misbehave: the real one with its vote or its weights replaced."""

from collections.abc import Mapping
from dataclasses import replace

from evaluation.verdict import MISSING
from localnet.onchain import weights_on_chain
from localnet.tallies import mean_weights
from template.base.validator import Validator
from template.chain import Metagraph
from template.scoring.window import Scored


class Liar(Validator):
    """Names what it found worst and nothing else, says that honest payloads were not delivered,
    and gives the worst miner all its weight.

    It measures, and logs, as it should: to lie it must know.
    """

    def _scored_once(self, window: int) -> tuple[Scored, bytes]:
        scored, digest = super()._scored_once(window)
        lies = [replace(v, status=MISSING[0]) if v.named else v for v in scored.verdicts]
        return replace(scored, verdicts=tuple(lies)), digest

    def _choose(self, scored: Scored) -> frozenset[int]:
        bad = [v for v in scored.verdicts if v.status != MISSING[0]]
        bad.sort(key=lambda v: (-1.0 if v.relative_gain is None else v.relative_gain, v.uid))
        return frozenset(v.uid for v in bad[:1])

    def _weights(self, graph: Metagraph, window: int) -> dict[int, float]:
        found = {
            neuron.uid: [e.relative_gain or 0.0 for e in self._histories[neuron.hotkey].values()]
            for neuron in graph.neurons
            if neuron.hotkey in self._histories
        }
        if not found:
            return super()._weights(graph, window)
        worst = min(found, key=lambda uid: (sum(found[uid]) / len(found[uid]), uid))
        return {worst: 1.0}


class WeightCopier(Validator):
    """Scores nothing and never votes; sets as weights the mean of those on chain."""

    def _vote(self, window: int) -> None:
        self._last_voted = window

    def _knows_enough(self, window: int) -> bool:
        return True

    def _weights(self, graph: Metagraph, window: int) -> dict[int, float]:
        rows = self.read_weights()
        me = graph.uid_of(self.context.hotkey)
        others = {uid: row for uid, row in rows.items() if uid != me}
        copied = mean_weights(others, graph)
        return copied or {self.context.spec.weights.burn_uid: 1.0}

    def read_weights(self) -> Mapping[int, Mapping[int, float]]:
        """Validator's uid -> uid -> share, as they stand on chain."""
        return weights_on_chain(self.context.commands.network)


class AbsentNamer(Validator):
    """Votes as it should, and also names every uid whose payload nobody has."""

    def _choose(self, scored: Scored) -> frozenset[int]:
        present = {v.uid for v in scored.verdicts if not v.missing}
        block = self.context.chain.finalized()
        everybody = {neuron.uid for neuron in self.context.chain.metagraph(block).neurons}
        return super()._choose(scored) | (everybody - present)


class SilentValidator(Validator):
    """Scores and sets weights, but never votes."""

    def _vote(self, window: int) -> None:
        self._scored_once(window)
        self._last_voted = window
