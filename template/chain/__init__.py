"""The chain as the neurons see it: block numbers, hashes, the metagraph, records, weights.

`Chain` is what `template.base` is written against. The one adapter that speaks to a real
chain is `template.chain.bittensor`, which only `neurons/` and the launcher import.
"""

from template.chain.types import Chain, Metagraph, Neuron

__all__ = ["Chain", "Metagraph", "Neuron"]
