"""Messages signed by a wallet's hotkey, checked by the hotkey's address alone."""

from types import SimpleNamespace
from typing import Any

import bittensor as bt
import pytest
from bittensor_core import Keypair

from simulation.world import hotkey_of
from template.chain.bittensor import open_wallet, sign_message, verify_signature
from template.errors import ConfigError

MESSAGE = bytes(range(32))


def test_a_wallet_signs_and_the_address_verifies(tmp_path) -> None:
    bt.Wallet("cold", "hot", str(tmp_path)).create_new_hotkey(use_password=False, suppress=True)
    wallet = open_wallet("cold", "hot", str(tmp_path))
    hotkey, signature = wallet.hotkey.ss58_address, sign_message(wallet, MESSAGE)
    assert len(signature) == 64
    assert verify_signature(hotkey, MESSAGE, signature)
    assert not verify_signature(hotkey, MESSAGE[::-1], signature)
    assert not verify_signature(hotkey, MESSAGE, signature[::-1])
    assert not verify_signature(hotkey_of("another"), MESSAGE, signature)


@pytest.mark.parametrize("signature", [b"", bytes(63), bytes(64), bytes(65), b"\xff" * 64])
def test_what_is_no_signature_is_none(signature: bytes) -> None:
    alice = Keypair.create_from_uri("//Alice").ss58_address
    for hotkey in (alice, hotkey_of("no point of the curve"), "5F", ""):
        assert not verify_signature(hotkey, MESSAGE, signature)


def test_a_hotkey_of_another_kind_is_refused_by_name() -> None:
    ed25519 = Keypair.create_from_uri("//Alice", crypto_type=0)
    wallet: Any = SimpleNamespace(hotkey=ed25519)
    with pytest.raises(ConfigError, match=rf"--wallet\.hotkey: {ed25519.ss58_address} is no sr"):
        sign_message(wallet, MESSAGE)
