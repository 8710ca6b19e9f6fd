"""Commands in messages to an operator: btcli's flags, safe to paste."""

from pathlib import Path

import pytest

from template.chain.commands import DEFAULT_WALLETS, Commands, wallet_flags


@pytest.mark.parametrize("path", [DEFAULT_WALLETS, DEFAULT_WALLETS.expanduser()])
def test_the_usual_folder_is_left_out(path: Path) -> None:
    assert wallet_flags("cold", "hot", path) == "-w cold -H hot"


def test_another_folder_and_odd_names_are_quoted() -> None:
    flags = wallet_flags("my cold", "hot", Path("/w x"))
    assert flags == "-w 'my cold' -H hot --wallet-path '/w x'"


def test_commands_name_subnet_network_and_wallet() -> None:
    commands = Commands(netuid=7, network="test", wallet="-w c -H h")
    assert commands.register == "`btcli subnets register --netuid 7 -n test -w c -H h`"
    assert commands.stake == "`btcli stake add --amount-tao AMOUNT --netuid 7 -n test -w c -H h`"
