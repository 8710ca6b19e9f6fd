"""Dishonest and faulty neurons for the local chain and tests.

`attacks` lists them, and loads no tensor library; `catalogue` builds the neurons.
"""
