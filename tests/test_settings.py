"""Flags and environment of a neuron: everything accepted has an effect, the rest is refused."""

from pathlib import Path

import pytest

from template.cli.environment import ENVIRONMENT, bucket_settings
from template.cli.main import parse_command
from template.cli.neuron_flags import REFUSED_FLAGS, miner_config, validator_config
from template.cli.owner_flags import NOBODY
from template.errors import EXIT_STATUSES, ConfigError
from template.protocol.record import Record, decode_record, encode_record
from template.protocol.spec import spec_to_toml
from template.protocol.spec.plan import RunChoices, check_plan, load_plan
from template.settings import MinerConfig, ValidatorConfig

WRITE_SECRET = "write-secret-7f3a"
READ_SECRET = "read-secret-91bc"
ENV = {
    "TESSERA_BUCKET_ENDPOINT": "http://127.0.0.1:9000",
    "TESSERA_BUCKET_WRITE_KEY_ID": "writer",
    "TESSERA_BUCKET_WRITE_SECRET": WRITE_SECRET,
    "TESSERA_BUCKET_READ_KEY_ID": "reader",
    "TESSERA_BUCKET_READ_SECRET": READ_SECRET,
}
ACCOUNT = "0123456789abcdef0123456789abcdef"


PLAN = Path(__file__).resolve().parents[1] / "runs" / "testnet.toml"


FALLBACKS = "--subtensor.fallback_endpoints"


def a_run_file(path: Path, network: str = "public") -> Path:
    """A run spec of a kind of chain."""
    plan = load_plan(PLAN)
    plan["schedule"]["network"] = network
    choices = RunChoices(owner_hotkey=NOBODY, start_block=100)
    path.write_text(spec_to_toml(check_plan(PLAN, plan, choices)))
    return path


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    return a_run_file(tmp_path / "run.toml")


@pytest.fixture
def base(run_file: Path) -> list[str]:
    return ["--run", str(run_file), "--netuid", "3", "--subtensor.network", "test"]


def miner(argv: list[str]) -> MinerConfig:
    return miner_config(parse_command("miner", argv, "neurons/miner.py"), ENV)


def validator(argv: list[str]) -> ValidatorConfig:
    return validator_config(parse_command("validator", argv, "neurons/validator.py"), ENV)


def r2_env(**changes: str) -> dict[str, str]:
    return {
        "TESSERA_R2_ACCOUNT_ID": ACCOUNT,
        "TESSERA_BUCKET_WRITE_KEY_ID": "1" * 32,
        "TESSERA_BUCKET_WRITE_SECRET": "2" * 64,
        "TESSERA_BUCKET_READ_KEY_ID": "3" * 32,
        "TESSERA_BUCKET_READ_SECRET": "4" * 64,
        **changes,
    }


def field(config: MinerConfig, path: str) -> object:
    value: object = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def test_defaults(base, run_file, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = validator(base)
    assert config.chain.netuid == 3
    assert config.chain.network == "test"
    assert (config.wallet.name, config.wallet.hotkey) == ("default", "default")
    assert config.wallet.path == tmp_path / ".bittensor/wallets"
    assert (config.logging.level, config.logging.directory) == ("info", None)
    assert (config.neuron.name, config.neuron.device) == ("validator", "auto")
    assert config.neuron.save_events is True
    assert config.neuron.run == run_file
    assert (config.wandb.mode, config.wandb.project_name) == ("off", "tessera")
    assert (config.wandb.entity, config.wandb.notes) == (None, "")
    assert config.set_weights is True


@pytest.mark.parametrize(
    ("flags", "network"),
    [
        (["--subtensor.network", "finney"], "finney"),
        (["--subtensor.network", "test"], "test"),
        (["-n", "test"], "test"),
        (["--network", "wss://h:1"], "wss://h:1"),
        (["--subtensor.network", "ws://127.0.0.1:9944"], "ws://127.0.0.1:9944"),
        (["--subtensor.chain_endpoint", "wss://h:1"], "wss://h:1"),
    ],
)
def test_a_public_run_goes_to_the_named_chain(run_file, flags, network):
    assert miner(["--run", str(run_file), "--netuid", "3", *flags]).chain.network == network


@pytest.mark.parametrize(
    ("flags", "network"),
    [
        ([], "local"),
        (["-n", "local"], "local"),
        (["--subtensor.network", "ws://localhost:1"], "ws://localhost:1"),
        (["--subtensor.chain_endpoint", "ws://[::1]:1"], "ws://[::1]:1"),
    ],
)
def test_a_local_run_goes_to_a_chain_of_this_machine(tmp_path, flags, network):
    path = a_run_file(tmp_path / "local.toml", "local")
    assert miner(["--run", str(path), "--netuid", "3", *flags]).chain.network == network


@pytest.mark.parametrize(
    ("kind", "flags", "fallbacks"),
    [
        ("public", ["-n", "test"], ()),
        ("public", ["-n", "ws://127.0.0.1:9944", FALLBACKS, "finney"], ("finney",)),
        ("public", ["-n", "test", FALLBACKS, "wss://a:1/t?k=%2C,ws://[::1]:2"],
         ("wss://a:1/t?k=%2C", "ws://[::1]:2")),
        ("local", [FALLBACKS, "ws://127.0.0.1:9945"], ("ws://127.0.0.1:9945",)),
    ],
)  # fmt: skip
def test_several_endpoints_are_named_with_commas(tmp_path, kind, flags, fallbacks):
    path = a_run_file(tmp_path / "run.toml", kind)
    assert miner(["--run", str(path), "--netuid", "3", *flags]).chain.fallbacks == fallbacks


def test_an_endpoint_named_twice_is_no_other_endpoint(run_file):
    with pytest.raises(ConfigError, match=f"{FALLBACKS}: names an endpoint twice"):
        miner(["--run", str(run_file), "--netuid", "3", "-n", "test", FALLBACKS, "finney,test"])


@pytest.mark.parametrize("value", ["", "test,", "wss://a:1,https://b", "ws://u:hunter2@b:x"])
def test_a_list_of_endpoints_has_endpoints_alone(run_file, value, capsys):
    with pytest.raises(SystemExit) as ended:
        miner(["--run", str(run_file), "--netuid", "3", "-n", "test", FALLBACKS, value])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert FALLBACKS in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("kind", "flags", "words"),
    [
        ("public", [], ("--subtensor.network: missing", "finney or test")),
        ("public", ["-n", "local"], ("--subtensor.network local: contradicts", "ws://127.0.0.1")),
        ("local", ["-n", "finney"], ("--subtensor.network: contradicts", "leave")),
        ("local", [FALLBACKS, "finney"], (f"{FALLBACKS}: contradicts",)),
        ("public", ["-n", "test", FALLBACKS, "local"], (f"{FALLBACKS} local: contradicts",)),
        ("local", ["-n", "test"], ("--subtensor.network: contradicts", "leave")),
        ("local", ["-n", "wss://127.0.0.1.example.com"], ("--subtensor.network: contradicts",)),
        (
            "local",
            ["--subtensor.chain_endpoint", "wss://u:hunter2@h:1"],
            ("--subtensor.chain_endpoint: contradicts", "the run spec of another run"),
        ),
    ],
)
def test_a_network_against_the_run_spec_is_refused_with_the_remedy(tmp_path, kind, flags, words):
    path = a_run_file(tmp_path / "run.toml", kind)
    with pytest.raises(ConfigError) as caught:
        miner(["--run", str(path), "--netuid", "3", *flags])
    said = str(caught.value)
    assert [word for word in (*words, f'"{kind}"') if word not in said] == []
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (["-w", "cold"], ["--wallet.name", "cold"]),
        (["--wallet", "cold"], ["--wallet.name", "cold"]),
        (["-H", "hot"], ["--wallet.hotkey", "hot"]),
        (["--wallet-hotkey=hot"], ["--wallet.hotkey", "hot"]),
        (["--wallet-path", "/w"], ["--wallet.path", "/w"]),
    ],
)
@pytest.mark.parametrize("parse", [miner, validator])
def test_the_spellings_of_btcli_count(base, parse, theirs, ours):
    assert parse(base + theirs) == parse(base + ours) != parse(base)


def test_state_dir_follows_the_names(base, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = ["--wallet.name", "cold", "--wallet.hotkey", "hot", "--neuron.name", "n1"]
    root = tmp_path / ".bittensor"
    assert miner(base + flags).neuron.state_dir == root / "miners/cold/hot/netuid3/n1"
    assert validator(base + flags).neuron.state_dir == root / "validators/cold/hot/netuid3/n1"


@pytest.mark.parametrize(
    ("flags", "path", "expected"),
    [
        (["--wallet.name", "cold"], "wallet.name", "cold"),
        (["--wallet.hotkey", "hot"], "wallet.hotkey", "hot"),
        (["--wallet.path", "/w"], "wallet.path", Path("/w")),
        (["--logging.debug"], "logging.level", "debug"),
        (["--logging.trace"], "logging.level", "trace"),
        (["--logging.logging_dir", "/l"], "logging.directory", Path("/l")),
        (["--neuron.name", "n1"], "neuron.name", "n1"),
        (["--neuron.device", "cuda:1"], "neuron.device", "cuda:1"),
        (["--neuron.state_dir", "/s"], "neuron.state_dir", Path("/s")),
        (["--neuron.dont_save_events"], "neuron.save_events", False),
        (["--wandb.offline"], "wandb.mode", "offline"),
        (["--wandb.online"], "wandb.mode", "online"),
        (["--wandb.project_name", "p"], "wandb.project_name", "p"),
        (["--wandb.entity", "e"], "wandb.entity", "e"),
        (["--wandb.notes", "two words"], "wandb.notes", "two words"),
    ],
)
def test_each_flag_lands_in_the_config(base, flags, path, expected):
    assert field(miner(base), path) != expected
    assert field(miner(base + flags), path) == expected
    assert field(validator(base + flags), path) == expected


@pytest.mark.parametrize(
    ("flags", "key", "mode"),
    [
        ([], "", "off"),
        ([], "k" * 40, "online"),
        (["--wandb.project_name", "tessera"], "", "online"),
        (["--wandb.entity", "e"], "", "online"),
        (["--wandb.notes", "why"], "", "online"),
        (["--wandb.off"], "k" * 40, "off"),
        (["--wandb.off", "--wandb.notes", "why"], "", "off"),
        (["--wandb.offline"], "k" * 40, "offline"),
    ],
)
def test_wandb_is_off_unless_asked_for(base, flags, key, mode):
    args = parse_command("miner", [*base, *flags], "neurons/miner.py")
    config = miner_config(args, {**ENV, "WANDB_API_KEY": key})
    assert config.wandb.mode == mode
    assert "kkk" not in repr(config)


@pytest.mark.parametrize("flag", ["disable_set_weights", "publish_bf16"])
def test_some_flags_are_a_validators(base, flag, capsys):
    config = validator([*base, f"--neuron.{flag}"])
    assert getattr(config, flag.removeprefix("disable_")) is (flag == "publish_bf16")
    with pytest.raises(SystemExit, match="2"):
        miner([*base, f"--neuron.{flag}"])
    assert "validator" in capsys.readouterr().err


@pytest.mark.parametrize("netuid", ["0", "65535"])
def test_netuid_limits(run_file, netuid):
    config = miner(["--run", str(run_file), "--netuid", netuid, "-n", "test"])
    assert config.chain.netuid == int(netuid)


@pytest.mark.parametrize(
    "flag",
    [
        *REFUSED_FLAGS,
        "--axon.port",
        "--axon.external_ip",
        "--blacklist.force_validator_permit",
        "--blacklist.allow_non_registered",
    ],
)
@pytest.mark.parametrize("parse", [miner, validator])
@pytest.mark.parametrize("tail", [["7"], []])
def test_flags_without_meaning_are_refused_with_a_reason(parse, flag, tail, capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse([flag, *tail])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{flag}: " in error
    assert len(error.split(f"{flag}: ")[1]) > 20


@pytest.mark.parametrize(
    ("flag", "near"),
    [
        ("--netuit", "--netuid"),
        ("--wallet.hotky", "--wallet.hotkey"),
        ("--net", "--netuid"),
        ("--subtensor.endpoint=ws://x", "--subtensor.chain_endpoint"),
        ("--logging.debu", "--logging.debug"),
    ],
)
def test_unknown_flag_names_the_nearest(base, flag, near, capsys):
    with pytest.raises(SystemExit) as exit_info:
        miner([*base, flag])
    assert exit_info.value.code == 2
    assert f"did you mean {near}?" in capsys.readouterr().err


def test_a_flag_unlike_any_other_points_to_help(base, capsys):
    with pytest.raises(SystemExit) as exit_info:
        miner([*base, "--frobnicate"])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert "--frobnicate: no such flag; see --help" in error
    assert "did you mean" not in error


@pytest.mark.parametrize(
    "flags",
    [
        ["--netuid", "4"],
        ["--subtensor.chain_endpoint", "ws://h"],
        ["-n", "test"],
        ["-w", "a", "--wallet.name", "b"],
        ["-wname"],
        ["-wallet.name", "name"],
        ["--logging.debug", "--logging.trace"],
        ["--wandb.off", "--wandb.offline"],
        ["--subtensor.network", "mainnet"],
        ["--subtensor.chain_endpoint", "https://h"],
        ["--subtensor.chain_endpoint", "ws://["],
        ["--neuron.device", "gpu"],
        ["--neuron.name", "../x"],
        ["--wallet.hotkey", ".."],
        ["--wallet.name", ""],
        ["--wallet.path", ""],
        ["stray"],
        ["-x"],
    ],
)
def test_contradictions_and_bad_values_exit_2(base, flags, capsys):
    with pytest.raises(SystemExit) as exit_info:
        miner(base + flags)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("netuid", ["-1", "65536", "1.0", "x", ""])
def test_bad_netuid_exits_2(run_file, netuid):
    with pytest.raises(SystemExit) as exit_info:
        miner(["--run", str(run_file), f"--netuid={netuid}"])
    assert exit_info.value.code == 2


def test_run_must_be_a_file(tmp_path, capsys):
    with pytest.raises(SystemExit):
        miner(["--netuid", "3", "--run", str(tmp_path / "absent.toml")])
    assert "absent.toml" in capsys.readouterr().err


@pytest.mark.parametrize("parse", [miner, validator])
def test_a_neuron_without_a_run_spec_is_told_how_to_find_it(parse):
    words = r"--run: missing; `tessera newcomer --netuid 3 .* --out run\.toml`"
    with pytest.raises(ConfigError, match=words):
        parse(["--netuid", "3"])


@pytest.mark.parametrize("parse", [miner, validator])
def test_help_names_every_variable_and_flag(parse, capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse(["--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    for name in [*ENVIRONMENT, "WANDB_API_KEY", "--run", "--netuid", "~/.bittensor/", "example:"]:
        assert name in text
    for status, meaning in EXIT_STATUSES.items():
        assert f"{status}  " in text
        assert meaning in text
    assert ("--neuron.disable_set_weights" in text) == (parse is validator)
    assert max(map(len, text.splitlines())) <= 100


def test_config_of_a_node_never_shows_a_secret(base):
    text = repr(miner(base))
    assert "writer" in text
    assert WRITE_SECRET not in text
    assert READ_SECRET not in text


def test_bucket_settings_read_every_credential():
    settings = bucket_settings(ENV)
    assert settings.endpoint_url == "http://127.0.0.1:9000"
    assert (settings.write.key_id, settings.write.secret.reveal()) == ("writer", WRITE_SECRET)
    assert (settings.read.key_id, settings.read.secret.reveal()) == ("reader", READ_SECRET)


@pytest.mark.parametrize(
    ("changes", "host"),
    [
        ({}, f"{ACCOUNT}.r2.cloudflarestorage.com"),
        ({"TESSERA_R2_JURISDICTION": "default"}, f"{ACCOUNT}.r2.cloudflarestorage.com"),
        ({"TESSERA_R2_JURISDICTION": "eu"}, f"{ACCOUNT}.eu.r2.cloudflarestorage.com"),
        ({"TESSERA_R2_JURISDICTION": "fedramp"}, f"{ACCOUNT}.fedramp.r2.cloudflarestorage.com"),
    ],
)
def test_r2_endpoint(changes, host):
    settings = bucket_settings(r2_env(**changes))
    assert settings.endpoint_url == f"https://{host}"
    assert settings.write.secret.reveal() == "2" * 64
    assert (settings.access.access_key_id, settings.access.secret_access_key) == (
        "3" * 32,
        "4" * 64,
    )


@pytest.mark.parametrize("env", [ENV, r2_env(), r2_env(TESSERA_R2_JURISDICTION="eu")])
def test_access_fits_a_record_and_holds_no_write_key(env):
    settings = bucket_settings(env)
    data = encode_record(Record(access=settings.access))
    assert decode_record(data).access == settings.access
    assert settings.write.secret.reveal() not in repr(settings.access)


def test_longest_settings_of_another_endpoint_fit_a_record():
    env = {name: f"{name[-12:]:x<72}" for name in ENV}
    env["TESSERA_BUCKET_ENDPOINT"] = f"https://{'h' * 56}.example"
    assert len(env["TESSERA_BUCKET_ENDPOINT"]) == 72
    settings = bucket_settings(env)
    assert decode_record(encode_record(Record(access=settings.access))).access == settings.access


@pytest.mark.parametrize("name", [name for name in r2_env() if "BUCKET" in name])
@pytest.mark.parametrize("value", ["", "5" * 31, "5" * 33, "5" * 63, "G" * 32, "A" * 64, "g" * 64])
def test_r2_credentials_have_their_form(name, value):
    with pytest.raises(ConfigError, match=name) as error:
        bucket_settings(r2_env(**{name: value}))
    assert not value or value not in str(error.value)


@pytest.mark.parametrize(
    "url", ["https://s3.example.com", "https://s3.example.com:8443", "http://[::1]:9000"]
)
def test_endpoint_keeps_scheme_host_and_port(url):
    assert bucket_settings({**ENV, "TESSERA_BUCKET_ENDPOINT": f"{url}/"}).endpoint_url == url


@pytest.mark.parametrize(
    "url",
    [
        "s3.example.com",
        "ftp://s3.example.com",
        "http://s3.example.com",
        "http://127.0.0.1.evil.example",
        "https://",
        "https://h:99999",
        "https://[",
        "https://user:hunter2@s3.example.com",
        "https://s3.example.com/bucket",
        "https://s3.example.com?x=hunter2",
        "https://s3.example.com#x",
        "https://s3 .example.com",
        f"https://{ACCOUNT}.r2.cloudflarestorage.com",
        f"https://{'h' * 73}",
    ],
)
def test_bad_endpoint_is_refused_without_being_shown(url):
    with pytest.raises(ConfigError, match="TESSERA_BUCKET_ENDPOINT") as error:
        bucket_settings({**ENV, "TESSERA_BUCKET_ENDPOINT": url})
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in ENV if name != "TESSERA_BUCKET_ENDPOINT"])
@pytest.mark.parametrize("value", ["", " secret", "se\ncret", "s\u00e9cret", "s" * 81])
def test_missing_or_ill_formed_credential(name, value):
    with pytest.raises(ConfigError, match=name) as error:
        bucket_settings({**ENV, name: value})
    assert not value or value not in str(error.value)


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({**ENV, "TESSERA_R2_ACCOUNT_ID": ACCOUNT}, "both set"),
        ({**ENV, "TESSERA_R2_JURISDICTION": "eu"}, "TESSERA_R2_JURISDICTION"),
        (r2_env(TESSERA_R2_JURISDICTION="mars"), "TESSERA_R2_JURISDICTION"),
        (r2_env(TESSERA_R2_ACCOUNT_ID="abc"), "TESSERA_R2_ACCOUNT_ID"),
        (r2_env(TESSERA_R2_ACCOUNT_ID=ACCOUNT + "\n"), "TESSERA_R2_ACCOUNT_ID"),
        ({}, "TESSERA_R2_ACCOUNT_ID"),
        ({**ENV, "TESSERA_BUCKET_REED_SECRET": "x"}, "did you mean TESSERA_BUCKET_READ_SECRET"),
        ({**ENV, f"TESSERA_R2_{'X' * 60}": "x"}, "X is no variable of this subnet; unset it"),
    ],
)
def test_wrong_environment_names_the_variable(env, name):
    with pytest.raises(ConfigError, match=name):
        bucket_settings(env)


@pytest.mark.parametrize(
    ("name", "value"),
    [("TESSERA_BUCKET_READ_KEY_ID", "writer"), ("TESSERA_BUCKET_READ_SECRET", WRITE_SECRET)],
)
def test_the_write_key_is_never_published(name, value):
    with pytest.raises(ConfigError, match="published") as error:
        bucket_settings({**ENV, name: value})
    assert WRITE_SECRET not in str(error.value)
