"""A whole subnet on one machine: local chain, bucket server, real neurons in processes.

Used by `tessera localnet` and by tests; no neuron imports this package.
"""
