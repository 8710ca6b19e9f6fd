"""The operator's wallet: a neuron's signing hotkey, opened without the coldkey."""

import logging
from pathlib import Path
from typing import TypeAlias

import bittensor as bt
from bittensor.keyfiles import KeyfileError

from template.chain.commands import wallet_flags
from template.errors import ConfigError
from template.files import reason, remedy

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
    where = f"--wallet.name {name} --wallet.hotkey {hotkey} --wallet.path {path}: {keyfile.path}"
    _demand_readable(Path(keyfile.path), where)
    if not keyfile.exists_on_device():
        raise ConfigError(
            f"{where} does not exist; correct the flags, or create the wallet with `btcli wallet "
            f"create {flags}` (another hotkey of the same wallet: "
            f"`btcli wallet new-hotkey {flags}`)"
        )
    restore = f"`btcli wallet regen-hotkey {flags} --overwrite`"
    if keyfile.is_encrypted():
        raise ConfigError(
            f"{where} is encrypted, and a neuron cannot type a password; restore the hotkey from "
            f"its mnemonic without a password: {restore}"
        )
    try:
        address = wallet.hotkey.ss58_address
    except (KeyfileError, OSError, ValueError) as error:
        raise ConfigError(f"{where} is not a usable key; restore it with {restore}") from error
    logger.info("hotkey %s from %s", address, keyfile.path)
    return wallet


def _demand_readable(path: Path, where: str) -> None:
    """ConfigError if the file is there and cannot be read: another key would not help."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(
            f"{where} cannot be read ({reason(error)}); {remedy(path, error)}"
        ) from error
