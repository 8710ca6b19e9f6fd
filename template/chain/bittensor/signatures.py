"""Signatures by a hotkey (sr25519) over messages that never go on chain."""

from bittensor_core import Keypair

from template.chain.bittensor.wallet import Wallet
from template.errors import ConfigError

SR25519 = 1
"""The SDK's number for the only kind of key whose signatures `verify_signature` knows."""


def sign_message(wallet: Wallet, message: bytes) -> bytes:
    """The hotkey's signature, 64 bytes; ConfigError for a hotkey of another kind than sr25519."""
    keypair = wallet.hotkey
    if keypair.crypto_type != SR25519:
        raise ConfigError(
            f"--wallet.hotkey: {keypair.ss58_address} is no sr25519 key, and nobody could check "
            "its signature; take a hotkey made by `btcli wallet new-hotkey`"
        )
    return bytes(keypair.sign(message))


def verify_signature(hotkey: str, message: bytes, signature: bytes) -> bool:
    """Whether a hotkey (SS58) signed the message; False for an ill-formed address or signature."""
    try:
        return bool(Keypair(ss58_address=hotkey, crypto_type=SR25519).verify(message, signature))
    except ValueError:
        return False
