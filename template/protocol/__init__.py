"""The protocol: pure functions and frozen values that every node must agree on.

Run spec, schedule, chain record, payload frame, accepted set, state root. No clock, no
network, no environment; what is here changes only together with the run id or a version.
"""
