"""`btcli` 11.3 commands as text, for messages to an operator. Runs no command."""

import shlex
from dataclasses import dataclass
from pathlib import Path

DEFAULT_WALLETS = Path("~/.bittensor/wallets")


def wallet_flags(name: str, hotkey: str, path: Path) -> str:
    """btcli's flags for a wallet; names the folder of wallets unless the folder is the default."""
    words = ["-w", name, "-H", hotkey]
    if path.expanduser() != DEFAULT_WALLETS.expanduser():
        words += ["--wallet-path", str(path)]
    return shlex.join(words)


@dataclass(frozen=True, kw_only=True, slots=True)
class Commands:
    """Commands for one node. `network` is free of secrets, `wallet` comes from `wallet_flags`."""

    netuid: int
    network: str
    wallet: str

    @property
    def register(self) -> str:
        return f"`btcli subnets register {self._where}`"

    @property
    def stake(self) -> str:
        return f"`btcli stake add --amount-tao AMOUNT {self._where}`"

    @property
    def _where(self) -> str:
        return f"--netuid {self.netuid} -n {self.network} {self.wallet}"
