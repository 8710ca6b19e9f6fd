"""The chain as neurons see it: block numbers, hashes, the metagraph, records, weights.

Neurons are written against the `Chain` protocol. The only adapter to a real chain is
`template.chain.bittensor`, imported at the top (`neurons/`, `template.commands`, the localnet).
"""

from template.chain.types import Chain, Metagraph, Neuron, WeightTimes

__all__ = ["Chain", "Metagraph", "Neuron", "WeightTimes"]
