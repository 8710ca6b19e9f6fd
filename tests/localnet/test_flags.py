"""The localnet's flags make a configuration; impossible flags are refused by name."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from localnet.adversaries.attacks import ATTACKS
from localnet.commands import chain_command
from localnet.config import LocalnetConfig
from localnet.flags import localnet_config
from localnet.folder import ENDPOINT, endpoint_file
from localnet.keeper import MAX_RESTARTS
from template.cli.main import parse_command
from template.errors import ConfigError


def parse_localnet_config(argv: Sequence[str]) -> LocalnetConfig:
    return localnet_config(parse_command("localnet", argv, "neurons/localnet.py"))


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
    assert (config.num_windows, config.block_time_s, config.wandb) == (24, None, "off")
    assert (config.restarts, config.hold, config.debug) == (MAX_RESTARTS, False, False)
    assert config.out.is_absolute()


def test_flags_ask_for_more(text, tmp_path) -> None:
    flags = [
        "--out",
        str(tmp_path),
        "--no-restart",
        "--hold",
        "--misbehave",
        "idle:2",
        "--commit-reveal",
        "modelled",
    ]
    config = parse_localnet_config([*text, *flags])
    assert (config.restarts, config.hold, config.reveal_epochs) == (0, True, 1)
    command = chain_command(config, 9944, {}, 0.5)
    assert "--commit-reveal modelled" in " ".join(command.argv)
    assert [p.behaviour for p in config.roster[-2:]] == ["idle", "idle"]


def test_the_run_may_change_while_it_goes_on(text, tmp_path) -> None:
    rates, data = tmp_path / "rates.toml", tmp_path / "mixture"
    rates.write_text("[outer]\nouter_lr = 3.0\n")
    data.mkdir()
    assert parse_localnet_config(text).changes == ()
    flag = ("--changes", f"8:{rates}, 16:{rates}:{data}")
    first, second = parse_localnet_config([*text, *flag]).changes
    assert (first.window, first.table, first.data) == (8, {"outer": {"outer_lr": 3.0}}, None)
    assert (second.window, second.data) == (16, data)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("8", "write WINDOW:FILE"),
        ("x:rates.toml", "write WINDOW:FILE"),
        ("\u00b2:rates.toml", "write WINDOW:FILE"),
        ("8" * 5000 + ":rates.toml", "write WINDOW:FILE"),
        ("7:rates.toml", "in windows 8 to 23"),
        ("24:rates.toml", "in windows 8 to 23"),
        ("8:nowhere.toml", "nowhere.toml"),
        ("8:rates.toml,8:rates.toml", "ascending order"),
        ("8:longer.toml", "the table schedule"),
        ("8:rates.toml:nowhere", "nowhere"),
    ],
)
def test_wrong_changes_are_refused(text, tmp_path, monkeypatch, wish: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rates.toml").write_text("[outer]\nouter_lr = 3.0\n")
    Path("longer.toml").write_text("[schedule]\nblocks_per_window = 30\n")
    with pytest.raises(ConfigError, match=words):
        parse_localnet_config([*text, "--changes", wish])


def test_validators_that_misbehave_take_the_place_of_the_last_ones(text) -> None:
    flags = ["--miners", "1", "--validators", "3", "--misbehave", "copier:2,liar:1,silent:1"]
    roster = parse_localnet_config([*text, *flags]).roster
    assert [(p.name, p.role, p.behaviour) for p in roster] == [
        ("owner", "owner", "honest"),
        ("val-0", "validator", "honest"),
        ("liar-0", "validator", "liar"),
        ("silent-0", "validator", "silent"),
        ("miner-0", "miner", "honest"),
        ("copier-0", "miner", "copier"),
        ("copier-1", "miner", "copier"),
    ]
    assert [p.stake_tao for p in roster[1:4]] == [1000, 900, 810]


def test_honest_neurons_may_have_several_ranks(text) -> None:
    wish = "miner-0:2,miner-3:3,val-1:2,validator-0:4"
    roster = parse_localnet_config([*text, "--ranks", wish]).roster
    assert [(p.name, p.ranks) for p in roster] == [
        ("owner", 1), ("val-0", 4), ("val-1", 2),
        ("miner-0", 2), ("miner-1", 1), ("miner-2", 1), ("miner-3", 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wish",
    ["owner:2", "val-2:2", "miner-9:2", "miner-0", "miner-0:0", "miner-0:9", "miner-0:\u00b2"],
)
def test_wrong_ranks_are_refused(text, wish: str) -> None:
    with pytest.raises(ConfigError, match="--ranks"):
        parse_localnet_config([*text, "--ranks", wish])


def test_a_block_time_is_seconds_or_the_machine_s_own(text) -> None:
    assert parse_localnet_config([*text, "--block-time", "auto"]).block_time_s is None
    assert parse_localnet_config([*text, "--block-time", "0.5"]).block_time_s == 0.5


def test_honest_miners_may_be_slow(text) -> None:
    roster = parse_localnet_config([*text, "--speeds", "miner-1:0.25, miner-3:0.1"]).roster
    speeds = {p.name: p.speed for p in roster if p.role == "miner"}
    assert speeds == {"miner-0": 1.0, "miner-1": 0.25, "miner-2": 1.0, "miner-3": 0.1}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--speeds", "miner-0:2"), "no miner faster"),
        (("--speeds", "miner-0:0"), "SHARE from 0.01"),
        (("--speeds", "miner-0:nan"), "SHARE from 0.01"),
        (("--speeds", "miner-0"), "SHARE from 0.01"),
        (("--speeds", "val-0:0.5"), "not an honest miner"),
        (("--speeds", "idle-0:0.5", "--misbehave", "idle:1"), "not an honest miner"),
        (("--speeds", "miner-0:0.5", "--ranks", "miner-0:2"), "several --ranks"),
    ],
)
def test_wrong_speeds_are_refused(text, flags: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=f"--speeds .*{words}"):
        parse_localnet_config([*text, *flags])


def test_honest_miners_may_train_a_part(text) -> None:
    roster = parse_localnet_config([*text, "--parts", "miner-3:2"]).roster
    assert [p.parts for p in roster] == [1, 1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize("wish", ["val-0:2", "miner-9:2", "miner-0", "miner-0:0", "miner-0:65"])
def test_wrong_parts_are_refused(text, wish: str) -> None:
    with pytest.raises(ConfigError, match="--parts"):
        parse_localnet_config([*text, "--parts", wish])


def test_one_validator_at_least_is_honest(text) -> None:
    with pytest.raises(ConfigError, match="2 of 2 --validators"):
        parse_localnet_config([*text, "--misbehave", "liar:2"])


def test_an_unknown_behaviour_is_told_the_known_ones(text) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_localnet_config([*text, "--misbehave", "lazy:1"])
    assert all(name in str(caught.value) for name in ("lazy", *ATTACKS))


def test_misbehave_help_has_a_line_for_every_behaviour(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_localnet_config(["--misbehave", "help"])
    assert caught.value.code == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, attack in ATTACKS.items():
        assert [name, attack.kind, *attack.about.split()] in lines


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--windows", "0"),
        ("--block-time", "0.01"),
        ("--block-time", "nan"),
        ("--block-time", "soon"),
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
