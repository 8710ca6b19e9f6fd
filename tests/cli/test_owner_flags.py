"""Flags of the owner's and the bucket's commands: each has an effect, mistakes are named."""

import hashlib
from pathlib import Path

import pytest

from simulation.world import hotkey_of
from template.cli.bucket_flags import BucketConfig, bucket_config
from template.cli.main import parse_command
from template.cli.owner_flags import (
    CheckConfig,
    FindConfig,
    NoticeConfig,
    OwnerConfig,
    PublishConfig,
    owner_config,
)
from template.errors import ConfigError
from template.protocol.notice import VersionNotice
from template.protocol.spec import spec_to_toml
from template.protocol.spec.plan import RunChoices, check_plan, load_plan

ENV = {
    "TESSERA_BUCKET_ENDPOINT": "http://127.0.0.1:9000",
    "TESSERA_BUCKET_WRITE_KEY_ID": "writer",
    "TESSERA_BUCKET_WRITE_SECRET": "write-secret-7f3a",
    "TESSERA_BUCKET_READ_KEY_ID": "reader",
    "TESSERA_BUCKET_READ_SECRET": "read-secret-91bc",
}
ROOT = Path(__file__).resolve().parents[2]
PLAN = ROOT / "runs" / "testnet.toml"
TEXT = ROOT / "README.md"
PUBLISH = [
    *("publish", "--plan", str(PLAN), "--text", str(TEXT), "--out", "r.toml"),
    *("--start-in", "300", "--netuid", "7", "-n", "test"),
]


def parse_owner(argv: list[str], env: dict[str, str]) -> OwnerConfig:
    return owner_config(parse_command("owner", argv, "neurons/owner.py"), env)


def parse_bucket(argv: list[str], env: dict[str, str]) -> BucketConfig:
    return bucket_config(parse_command("bucket", argv, "neurons/bucket.py"), env)


def publish_config(*flags: str) -> PublishConfig:
    config = parse_owner([*PUBLISH, *flags], ENV)
    assert isinstance(config, PublishConfig)
    return config


def test_what_publish_is_told_if_it_is_told_little() -> None:
    config = publish_config()
    assert (config.plan, config.out, config.text) == (PLAN, Path("r.toml"), TEXT)
    assert config.table == load_plan(PLAN)
    assert (config.start_in_blocks, config.seed, config.num_windows) == (300, 0, None)
    assert (config.chain.netuid, config.chain.network, config.force) == (7, "test", False)
    assert (config.wallet.name, config.wallet.hotkey) == ("default", "default")
    assert config.bucket.read.key_id == "reader"
    assert "secret-" not in repr(config)


@pytest.mark.parametrize(
    ("flags", "read", "value"),
    [
        (["--text", str(ROOT / "LICENSE")], lambda c: c.text, ROOT / "LICENSE"),
        (["--seed", "9"], lambda c: c.seed, 9),
        (["--windows", "5"], lambda c: c.num_windows, 5),
        (["--force"], lambda c: c.force, True),
        (["--subtensor.network", "finney"], lambda c: c.chain.network, "finney"),
        (["--subtensor.network", "ws://h:1"], lambda c: c.chain.network, "ws://h:1"),
        (["--wallet.name", "w"], lambda c: c.wallet.name, "w"),
        (["--wallet.hotkey", "h"], lambda c: c.wallet.hotkey, "h"),
        (["--wallet.path", "/w"], lambda c: c.wallet.path, Path("/w")),
    ],
)
def test_each_flag_of_publish_has_its_effect(flags, read, value) -> None:
    assert read(publish_config(*flags)) == value


def test_the_plan_decides_the_network() -> None:
    local = [word if word != str(PLAN) else str(ROOT / "runs/localnet.toml") for word in PUBLISH]
    config = parse_owner(local[:-2], ENV)
    assert config.chain.network == "local"
    with pytest.raises(ConfigError, match=r"--subtensor\.network: contradicts"):
        parse_owner(local, ENV)
    with pytest.raises(ConfigError, match=r"--subtensor\.network: missing"):
        parse_owner(PUBLISH[:-2], ENV)


def test_check_needs_no_variables(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=99)
    spec = check_plan(PLAN, load_plan(PLAN), choices)
    path.write_text(spec_to_toml(spec))
    argv = ["check", "--run", str(path), "--netuid", "7"]
    config = parse_owner([*argv, "-n", "test"], {})
    assert isinstance(config, CheckConfig)
    assert (config.run, config.spec, config.chain.netuid) == (path, spec, 7)
    with pytest.raises(ConfigError, match=r"--subtensor\.network: missing"):
        parse_owner(argv, {})


def test_check_without_a_run_spec_is_told_the_chain(tmp_path: Path) -> None:
    argv = ["check", "--netuid", "7"]
    found = parse_owner([*argv, "-n", "test", "--out", str(tmp_path / "r.toml")], {})
    assert isinstance(found, FindConfig)
    assert (found.out, found.is_local) == (tmp_path / "r.toml", False)
    assert (found.chain.netuid, found.chain.network) == (7, "test")
    url = "ws://127.0.0.1:9944"
    assert [
        (config.chain.network, config.is_local)
        for config in (
            parse_owner([*argv, *flags], {})
            for flags in (["-n", "local"], ["--local"], ["--local", "-n", url], ["-n", url])
        )
        if isinstance(config, FindConfig)
    ] == [("local", True), ("local", True), (url, True), (url, False)]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], r"--subtensor\.network: missing"),
        (["--local", "-n", "finney"], "--local: --subtensor.network names a chain"),
        (["-n", "test", "--out", __file__], "exists"),
        (["-n", "test", "--out", "/nonexistent/r.toml"], "no folder /nonexistent"),
        (["-n", "test", "--run", __file__, "--out", "r.toml"], "--out: has no use beside --run"),
        (["--local", "--run", __file__], "--local: has no use beside --run"),
    ],
)
def test_check_without_a_run_spec_refuses_what_contradicts(flags, words) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_owner(["check", "--netuid", "7", *flags], {})


def notice_config(*flags: str) -> NoticeConfig:
    config = parse_owner(["notice", "--netuid", "7", *flags], ENV)
    assert isinstance(config, NoticeConfig)
    return config


def test_a_notice_has_the_digest_of_the_wheel_or_the_tag(tmp_path: Path) -> None:
    wheel = tmp_path / "tessera_subnet-1.2.3-py3-none-any.whl"
    wheel.write_bytes(b"not looked into")
    of_wheel = notice_config("--version", "1.2.3", "--wheel", str(wheel), "-n", "test", "-w", "w")
    digest = hashlib.sha256(b"not looked into").digest()
    assert of_wheel.notice == VersionNotice(version="1.2.3", kind="wheel", digest=digest)
    assert (of_wheel.chain.netuid, of_wheel.chain.network) == (7, "test")
    assert (of_wheel.wallet.name, of_wheel.is_local) == ("w", False)
    assert of_wheel.bucket.read.key_id == "reader"
    assert "secret-" not in repr(of_wheel)
    of_tag = notice_config("--version", "1.2.3", "--tag-sha256", "AB" * 32, "--local")
    assert of_tag.notice == VersionNotice(version="1.2.3", kind="tag", digest=b"\xab" * 32)
    assert (of_tag.chain.network, of_tag.is_local) == ("local", True)


TAG = ["--tag-sha256", "ab" * 32]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--version", "1.2", *TAG, "-n", "test"], r"--version: .*MAJOR\.MINOR\.PATCH"),
        (["--version", "01.2.3", *TAG, "-n", "test"], "--version: .*leading zero"),
        (["--version", "1.2.3", *TAG], r"--subtensor\.network: missing; nothing else says"),
        (["--version", "1.2.3", *TAG, "--local", "-n", "finney"], "--local: "),
        (["--version", "1.2.3", "--wheel", "/x-1.2.3-py3.whl", "-n", "test"], "--wheel /x.*read"),
        (["--version", "1.2.3", "--wheel", "/x-1.2.4-py3.whl", "-n", "test"], "version 1.2.3 "),
        (["--version", "1.2.3", "--wheel", "/x-1.2.3.tar.gz", "-n", "test"], "NAME-VERSION"),
    ],
)
def test_a_notice_of_what_it_does_not_name_is_refused(flags, words) -> None:
    with pytest.raises(ConfigError, match=words):
        notice_config(*flags)


def test_a_notice_needs_a_bucket() -> None:
    argv = ["notice", "--version", "1.2.3", *TAG, "--netuid", "7", "-n", "test"]
    with pytest.raises(ConfigError, match="TESSERA_BUCKET_ENDPOINT"):
        parse_owner(argv, {})


def test_publish_needs_a_bucket() -> None:
    with pytest.raises(ConfigError, match="TESSERA_BUCKET_ENDPOINT"):
        parse_owner(PUBLISH, {})


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "COMMAND"),
        (["publsh"], "publsh"),
        ([*PUBLISH, "--start", "5"], "--start"),
        ([*PUBLISH[:7], "--netuid", "7"], "--start-in"),
        ([*PUBLISH, "--start-in", "0"], "--start-in: must be a whole number"),
        ([*PUBLISH, "--windows", "x"], "--windows: must be a whole number"),
        ([*PUBLISH, "--netuid", "-1"], "--netuid"),
        ([*PUBLISH, "--subtensor.network", "ws:/x"], "--subtensor.network"),
        (["check", "--run", "r", "--netuid", "7", "--wallet.name", "w"], "--wallet.name"),
        (["notice", "--netuid", "7", *TAG], "--version"),
        (["notice", "--netuid", "7", "--version", "1.2.3"], "--wheel"),
        (["notice", "--netuid", "7", "--version", "1.2.3", *TAG, "--wheel", "w"], "--wheel"),
        (["notice", "--netuid", "7", "--version", "1.2.3", "--tag-sha256", "ab"], "64 hexadecimal"),
    ],
)
def test_a_wrong_flag_is_one_sentence_and_status_2(argv, words, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_owner(argv, ENV)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert line.endswith("see --help") or "did you mean --" in line or "no such flag" in line


def test_a_bucket_is_named_by_wallet_or_hotkey() -> None:
    by_wallet = parse_bucket(["name", "--wallet.name", "w", "--wallet.hotkey", "h"], {})
    assert (by_wallet.hotkey, by_wallet.wallet.name, by_wallet.wallet.hotkey) == (None, "w", "h")
    by_hotkey = parse_bucket(["name", "--hotkey", hotkey_of("x")], {})
    assert (by_hotkey.hotkey, by_hotkey.bucket) == (hotkey_of("x"), None)
    with pytest.raises(ConfigError, match="--hotkey"):
        parse_bucket(["name", "--hotkey", hotkey_of("x")[:-1]], {})


def test_checking_a_bucket_needs_the_variables() -> None:
    checked = parse_bucket(["check", "--hotkey", hotkey_of("x")], ENV)
    assert checked.bucket is not None
    assert checked.bucket.write.key_id == "writer"
    with pytest.raises(ConfigError, match="TESSERA_BUCKET_ENDPOINT"):
        parse_bucket(["check", "--hotkey", hotkey_of("x")], {})


@pytest.mark.parametrize(
    ("parse", "argv", "words"),
    [
        (parse_owner, ["--help"], ("publish", "check", "TESSERA_BUCKET_READ_SECRET", "130")),
        (parse_owner, ["publish", "--help"], ("--start-in BLOCKS", "--wallet.hotkey", "example")),
        (parse_owner, ["check", "--help"], ("--run PATH", "--subtensor.network", "example")),
        (parse_bucket, ["--help"], ("TESSERA_R2_ACCOUNT_ID", "bucket.py name --hotkey", "130")),
    ],
)
def test_help_says_what_is_needed(parse, argv, words, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(argv, {})
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert [word for word in words if word not in said] == []
