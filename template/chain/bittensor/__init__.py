"""The `Chain` protocol on the Bittensor SDK (11.3), for finney, test and localnet alike.

`wallet` opens the hotkey, `connection` owns one client and its event loop, `calls` asks the SDK,
`translation` turns values and errors of the SDK into ours, `adapter` combines the four as
`BittensorChain`, `signatures` signs and checks messages beside the chain. Only this package and the
localnet import the SDK.
"""

from template.chain.bittensor.adapter import BittensorChain, ChainOptions
from template.chain.bittensor.signatures import sign_message, verify_signature
from template.chain.bittensor.translation import ConnectionLost
from template.chain.bittensor.wallet import Wallet, open_wallet

__all__ = [
    "BittensorChain",
    "ChainOptions",
    "ConnectionLost",
    "Wallet",
    "open_wallet",
    "sign_message",
    "verify_signature",
]
