"""The hotkey's file of a wallet: found before the chain library, which takes a second, loads."""

from pathlib import Path
from typing import Final

from template.chain.commands import wallet_flags
from template.errors import ConfigError
from template.files import reason, remedy

_LOCKED: Final = (b"$NACL", b"$ANSIBLE_VAULT", b"gAAAAA")
"""First bytes of the three formats of encrypted keys; the chain library knows them too."""


def hotkey_file(name: str, hotkey: str, path: Path) -> Path:
    """The file of a hotkey; ConfigError with the remedy if there is none or a password locks it."""
    file = path.expanduser() / name / "hotkeys" / hotkey
    _demand_readable(file, f"{wallet_words(name, hotkey, path)}: {file}")
    if not _is_file(file):
        flags = wallet_flags(name, hotkey, path)
        raise ConfigError(
            f"{wallet_words(name, hotkey, path)}: {file} does not exist; correct the flags, or "
            f"create the wallet with `btcli wallet create {flags}` (another hotkey of the same "
            f"wallet: `btcli wallet new-hotkey {flags}`)"
        )
    if _is_encrypted(file):
        raise encrypted(name, hotkey, path)
    return file


def encrypted(name: str, hotkey: str, path: Path) -> ConfigError:
    """The error for a hotkey behind a password."""
    file = path.expanduser() / name / "hotkeys" / hotkey
    flags = wallet_flags(name, hotkey, path)
    return ConfigError(
        f"{wallet_words(name, hotkey, path)}: {file} is encrypted, and a neuron cannot type a "
        "password; restore the hotkey from its mnemonic without a password: "
        f"`btcli wallet regen-hotkey {flags} --overwrite`"
    )


def _is_encrypted(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(max(map(len, _LOCKED))).startswith(_LOCKED)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def wallet_words(name: str, hotkey: str, path: Path) -> str:
    """The three flags with their values."""
    return f"--wallet.name {name} --wallet.hotkey {hotkey} --wallet.path {path}"


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
