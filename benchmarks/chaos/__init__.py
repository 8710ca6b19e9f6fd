"""Chaos: one localnet of real processes, one fault every third window, and what it did."""
