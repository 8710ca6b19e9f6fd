"""A local stand-in for subtensor: one state machine behind subtensor's own wire protocol.

The package owns the chain that the localnet runs on: blocks, extrinsics, the calls that a
neuron needs, Yuma epochs, and a JSON-RPC front that the unmodified SDK speaks to. It does
not own any client of the chain (`template.chain` does). Run it with
`python -m localnet.chain`.
"""
