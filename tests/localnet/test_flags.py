"""What the localnet's flags become, and what is said of those that ask for what cannot be."""

from pathlib import Path

import pytest

from template.errors import ConfigError
from template.localnet.flags import parse_localnet_config
from template.localnet.folder import ENDPOINT, endpoint_file
from template.localnet.keeper import MAX_RESTARTS


@pytest.fixture
def text(tmp_path: Path) -> tuple[str, str]:
    """Flags without which a checkout that has fetched nothing gets no further."""
    path = tmp_path / "text.tar.gz"
    path.touch()
    return "--text", str(path)


def test_without_flags_it_is_the_run_of_the_readme(text) -> None:
    config = parse_localnet_config(text)
    names = [participant.name for participant in config.roster]
    assert names == ["owner", "val-0", "val-1", *(f"miner-{i}" for i in range(4))]
    assert (config.num_windows, config.block_time_s, config.wandb) == (24, 0.25, "off")
    assert (config.restarts, config.hold, config.debug) == (MAX_RESTARTS, False, False)
    assert config.out.is_absolute()


def test_flags_ask_for_more(text) -> None:
    config = parse_localnet_config([*text, "--no-restart", "--hold", "--misbehave", "idle:2"])
    assert (config.restarts, config.hold) == (0, True)
    assert [p.behaviour for p in config.roster[-2:]] == ["idle", "idle"]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--windows", "0"),
        ("--block-time", "0.01"),
        ("--block-time", "nan"),
        ("--validators", "0"),
        ("--misbehave", "lazy:1"),
        ("--text", "/nowhere.tar.gz"),
        ("--plan", "/nowhere.toml"),
    ],
)
def test_a_refusal_names_the_flag(text, flag: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag}|{value}"):
        parse_localnet_config([*text, flag, value])


def test_the_address_is_in_its_file_as_long_as_it_is_true(tmp_path: Path) -> None:
    with endpoint_file(tmp_path, "ws://127.0.0.1:1"):
        assert (tmp_path / ENDPOINT).read_text() == "ws://127.0.0.1:1\n"
        assert [path.name for path in tmp_path.iterdir()] == [ENDPOINT]
    assert not list(tmp_path.iterdir())
