"""Neurons that do not do their work, for localnets and tests: what they send, and nothing else.

Each is the real miner or validator with one part replaced.
"""

from template.localnet.behaviours.catalogue import BEHAVIOURS, Behaviour, listing
from template.localnet.behaviours.damaging import (
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
