"""Opening a neuron's wallet: a hotkey file is enough, and errors say what to do."""

import errno
from pathlib import Path

import bittensor as bt
import pytest

from template.chain.bittensor import open_wallet
from template.chain.wallet_files import hotkey_file
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
    with pytest.raises(ConfigError) as early:
        hotkey_file("cold", "locked", tmp_path)
    assert str(early.value) == str(caught.value), "known before the chain library loads"
    for first in (b"$ANSIBLE_VAULT;1.1", b"gAAAAABk"):
        (folder / "old").write_bytes(first)
        with pytest.raises(ConfigError, match="encrypted"):
            hotkey_file("cold", "old", tmp_path)


def test_a_key_that_cannot_be_read_is_not_advised_away(tmp_path: Path, monkeypatch):
    """A folder or another user's file: a new key would not help, and would lose the old one."""
    (tmp_path / "cold" / "hotkeys" / "hot").mkdir(parents=True)
    with pytest.raises(ConfigError, match="hotkeys/hot is a folder.*remove the folder") as caught:
        open_wallet("cold", "hot", str(tmp_path))
    assert "regen-hotkey" not in str(caught.value)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file is a file, and a folder belongs there"):
        open_wallet("file", "hot", str(tmp_path))

    def refuse(path: Path, *_args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"belongs to uid \d+ with mode") as caught:
        open_wallet("cold", "hot", str(tmp_path))
    assert "regen-hotkey" not in str(caught.value)
    assert "does not exist" not in str(caught.value)
