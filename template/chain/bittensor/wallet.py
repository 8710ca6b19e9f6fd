"""The operator's wallet: a neuron's signing hotkey, opened without the coldkey."""

import logging
from pathlib import Path
from typing import TypeAlias

import bittensor as bt
from bittensor.keyfiles import KeyfileError

from template.chain.commands import wallet_flags
from template.chain.wallet_files import encrypted, hotkey_file, wallet_words
from template.errors import ConfigError

logger = logging.getLogger(__name__)

Wallet: TypeAlias = bt.Wallet


def open_wallet(name: str, hotkey: str, path: str) -> Wallet:
    """Open a wallet by the hotkey alone; the coldkey's file may be absent.

    `path` is the folder of wallets. Raises ConfigError if the hotkey's file is missing,
    encrypted (a neuron cannot type a password) or not a key.
    """
    wallet = bt.Wallet(name, hotkey, str(Path(path).expanduser()))
    keyfile = wallet.hotkey_file
    flags = wallet_flags(name, hotkey, Path(path))
    where = f"{wallet_words(name, hotkey, Path(path))}: {keyfile.path}"
    hotkey_file(name, hotkey, Path(path))
    restore = f"`btcli wallet regen-hotkey {flags} --overwrite`"
    if keyfile.is_encrypted():
        raise encrypted(name, hotkey, Path(path))
    try:
        address = wallet.hotkey.ss58_address
    except (KeyfileError, OSError, ValueError) as error:
        raise ConfigError(f"{where} is not a usable key; restore it with {restore}") from error
    logger.info("hotkey %s from %s", address, keyfile.path)
    return wallet
