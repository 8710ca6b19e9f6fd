"""The calls that the local chain executes, as functions on its state.

Each module is one area of the real runtime (`opentensor/subtensor`, `pallets/`): same
storage items, same checks in the same order, same errors. A call takes the open state, the
signer's SS58 address and the call's arguments; it changes storage or raises DispatchFailed.
"""
