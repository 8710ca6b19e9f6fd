"""A whole subnet on one machine: local chain, bucket server, real neurons in processes.

Used by `neurons/localnet.py` and by tests; no neuron imports it.
"""
