"""The protocol: pure functions and frozen values, identical on every node.

Run spec, schedule, chain record, payload frame, accepted set, state root. No clock, no network,
no environment. A change here needs a new run id or a new version number.
"""
