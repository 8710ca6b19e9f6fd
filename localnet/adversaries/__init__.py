"""Dishonest and faulty neurons for the local chain and tests: the catalogue names each."""

from localnet.adversaries.catalogue import BEHAVIOURS, Behaviour, listing

__all__ = ["BEHAVIOURS", "Behaviour", "listing"]
