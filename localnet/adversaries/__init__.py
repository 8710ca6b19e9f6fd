"""Neurons that do not do their work, for localnets and tests: what they send, and nothing else.

Each is the real miner or validator with one part replaced.
"""

from localnet.adversaries.catalogue import BEHAVIOURS, Behaviour, listing
from localnet.adversaries.damaging import (
    FlippingMiner,
    GarbageMiner,
    IdleMiner,
    MalformedMiner,
)

__all__ = [
    "BEHAVIOURS",
    "Behaviour",
    "FlippingMiner",
    "GarbageMiner",
    "IdleMiner",
    "MalformedMiner",
    "listing",
]
