"""Flags of one kind of neuron, of both, and of the ranks of either."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from template.cli.main import parse_command
from template.cli.metrics_flags import metrics_config
from template.cli.neuron_flags import miner_config, validator_config
from template.cli.owner_flags import NOBODY
from template.commands.rank import inner_options
from template.commands.settings import miner_settings, validator_settings
from template.errors import ConfigError
from template.protocol.spec import spec_to_toml
from template.protocol.spec.files import load_spec
from template.protocol.spec.plan import RunChoices, check_plan, load_plan
from template.settings import ALONE, MetricsConfig, MinerConfig, NeuronConfig, RankConfig

PLAN = Path(__file__).resolve().parents[2] / "runs" / "testnet.toml"
ENV = {
    "TESSERA_BUCKET_ENDPOINT": "http://127.0.0.1:9000",
    "TESSERA_BUCKET_WRITE_KEY_ID": "writer",
    "TESSERA_BUCKET_WRITE_SECRET": "write-secret",
    "TESSERA_BUCKET_READ_KEY_ID": "reader",
    "TESSERA_BUCKET_READ_SECRET": "read-secret",
}
TOLD = {
    "RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}
CONFIGS = {"miner": miner_config, "validator": validator_config}
SETTINGS = {"miner": miner_settings, "validator": validator_settings}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    path = tmp_path_factory.mktemp("run") / "run.toml"
    choices = RunChoices(owner_hotkey=NOBODY, start_block=100)
    path.write_text(spec_to_toml(check_plan(PLAN, load_plan(PLAN), choices)))
    return ["--run", str(path), "--netuid", "3", "--subtensor.network", "test"]


def config_of(role: str, argv: list[str], env: dict[str, str] = ENV) -> MinerConfig:
    return CONFIGS[role](parse_command(role, argv, role), env)


def test_scoring_batch_is_a_validators_flag(base: list[str], capsys) -> None:
    def pages(*flags: str) -> int | None:
        return config_of("validator", [*base, *flags]).neuron.scoring_batch

    assert pages() is None
    assert pages("--neuron.scoring_batch", "auto") is None
    assert pages("--neuron.scoring_batch", "12") == 12
    for role, wrong in (("miner", "12"), ("validator", "0"), ("validator", "all")):
        with pytest.raises(SystemExit) as exit_info:
            config_of(role, [*base, "--neuron.scoring_batch", wrong])
        assert exit_info.value.code == 2
    assert "--neuron.micro_batch" in capsys.readouterr().err


@pytest.mark.parametrize("role", CONFIGS)
def test_both_neurons_may_keep_theta_on_the_device(base: list[str], role: str) -> None:
    assert config_of(role, base).neuron.offload == "host"
    assert config_of(role, [*base, "--neuron.offload", "device"]).neuron.offload == "device"


@pytest.mark.parametrize("role", CONFIGS)
def test_ranks_of_both_neurons_have_their_place(base: list[str], role: str) -> None:
    """Ranks but the first need neither keys nor a wallet."""
    assert config_of(role, base).place == ALONE
    assert config_of(role, base, ENV | TOLD).place.size == 2
    args = parse_command(role, [*base, "--neuron.device", "cpu"], role)
    rank = SETTINGS[role](args, TOLD | {"RANK": "1", "LOCAL_RANK": "1"})
    assert isinstance(rank, RankConfig)
    assert (rank.role, rank.place.rank, rank.place.size) == (role, 1, 2)


def test_a_miner_may_train_a_range_of_blocks(base: list[str], capsys) -> None:
    def neuron(*flags: str, role: str = "miner", env: dict[str, str] = ENV) -> NeuronConfig:
        return config_of(role, [*base, *flags], env).neuron

    assert (neuron().parts, neuron().frozen) == (1, "bf16")
    cut = neuron("--neuron.parts", "2", "--neuron.frozen", "host")
    assert (cut.parts, cut.frozen) == (2, "host")
    options = inner_options(cut, load_spec(Path(base[1])))
    assert (options.parts, options.frozen, options.streams) == (2, "host", True)
    for role, wrong in (("validator", "2"), ("miner", "0"), ("miner", "two")):
        with pytest.raises(SystemExit):
            neuron("--neuron.parts", wrong, role=role)
    assert "a validator does not train" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "env", "words"),
    [
        (["--neuron.frozen", "host"], ENV, "--neuron.frozen host: .* name --neuron.parts"),
        (["--neuron.parts", "2", "--neuron.compile"], ENV, "--neuron.compile: .* leave out"),
        (["--neuron.parts", "2"], ENV | TOLD, "--neuron.parts 2: .* one process without torchrun"),
    ],
)
def test_flags_that_do_not_go_together(base: list[str], flags, env, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config_of("miner", [*base, *flags], env)
    rank = env | {"RANK": "1", "LOCAL_RANK": "1"}
    if env is not ENV:
        with pytest.raises(ConfigError, match=words):
            miner_settings(parse_command("miner", [*base, *flags], "miner"), rank)


@pytest.mark.parametrize(
    ("flags", "most", "words"),
    [
        (["--neuron.parts", "3"], {"max_parts": 2}, r"--neuron.parts 3: .*into 2 parts at most"),
        (["--neuron.parts", "9"], {"max_parts": 9}, r"--neuron.parts 9: .* take fewer parts"),
        (["--neuron.width", "5"], {"max_width": 4}, r"--neuron.width 5: .* 4 times batch_pages"),
    ],
)
def test_more_than_the_run_allows_is_refused_at_the_start(
    base: list[str], flags: list[str], most: dict[str, Any], words: str
) -> None:
    config = config_of("miner", [*base, *flags])
    spec = config.spec
    layers = replace(spec.model, num_hidden_layers=9, vocab_size=2**16)
    wider = replace(spec, model=layers, training=replace(spec.training, **most))
    with pytest.raises(ConfigError, match=words):
        inner_options(config.neuron, wider)


@pytest.mark.parametrize("port", ["", "-1", "65536", "x", "1.5"])
def test_a_port_of_metrics_is_a_port(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_command("miner", ["--netuid", "1", f"--metrics.port={port}"], "tessera miner")
    assert ended.value.code == 2
    assert "--metrics.port" in capsys.readouterr().err


def test_the_endpoint_of_metrics_is_off_and_on_loopback_unless_told() -> None:
    args = parse_command("miner", ["--netuid", "1"], "tessera miner")
    assert metrics_config(args) is None
    args = parse_command("miner", ["--netuid", "1", "--metrics.port", "9109"], "tessera miner")
    assert metrics_config(args) == MetricsConfig(host="127.0.0.1", port=9109)
    args = parse_command(
        "miner", ["--netuid", "1", "--metrics.port", "0", "--metrics.host", "::1"], "tessera miner"
    )
    assert metrics_config(args) == MetricsConfig(host="::1", port=0)
