"""Opening a neuron's wallet: a hotkey file is enough, and errors say what to do."""

from pathlib import Path

import bittensor as bt
import pytest

from template.chain.bittensor import open_wallet
from template.errors import ConfigError


def test_open_wallet_needs_only_the_hotkey_file(tmp_path: Path):
    made = bt.Wallet("cold", "hot", str(tmp_path))
    made.create_new_hotkey(use_password=False, suppress=True)
    wallet = open_wallet("cold", "hot", str(tmp_path))
    assert wallet.hotkey.ss58_address == made.hotkey.ss58_address


def test_open_wallet_names_the_missing_file_and_the_command(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        open_wallet("cold", "hot", str(tmp_path))
    assert str(tmp_path / "cold" / "hotkeys" / "hot") in str(caught.value)
    for words in ("--wallet.name cold", "--wallet.hotkey hot", f"--wallet.path {tmp_path}"):
        assert words in str(caught.value)
    for command in ("create", "new-hotkey"):
        assert f"`btcli wallet {command} -w cold -H hot --wallet-path" in str(caught.value)


def test_open_wallet_refuses_what_it_cannot_use(tmp_path: Path):
    folder = tmp_path / "cold" / "hotkeys"
    folder.mkdir(parents=True)
    (folder / "broken").write_text("not a key")
    with pytest.raises(ConfigError, match="not a usable key"):
        open_wallet("cold", "broken", str(tmp_path))
    locked = bt.Wallet("cold", "locked", str(tmp_path))
    locked.create_new_hotkey(use_password=True, hotkey_password="secret word", suppress=True)
    with pytest.raises(ConfigError, match="encrypted") as caught:
        open_wallet("cold", "locked", str(tmp_path))
    assert "secret word" not in str(caught.value)
