"""A local stand-in for subtensor: one state machine behind subtensor's own wire protocol.

Owns the localnet's chain: blocks, extrinsics, the calls of neurons, Yuma epochs, and a JSON-RPC
server for the unmodified SDK. `template.chain` owns the client. Run with
`python -m localnet.chain`.
"""
