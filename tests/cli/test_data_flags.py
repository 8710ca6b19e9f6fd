"""Flags of `data prepare`: each has an effect, mistakes are named."""

import json
from pathlib import Path

import pytest

from template.cli.data_flags import (
    MIN_VOCAB_SIZE,
    NUM_MARKERS,
    PrepareConfig,
    data_config,
    prepare_config,
)
from template.cli.main import parse_command
from template.cli.mix_flags import UploadConfig
from template.cli.owner_flags import owner_config
from template.data.chat import MARKERS
from template.data.preparing.bpe import train_bpe
from template.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def config(*flags: str) -> PrepareConfig:
    argv = ["prepare", "--out", "data", *flags, "a.jsonl", "corpus"]
    return prepare_config(parse_command("data", argv, "tessera data"))


def test_what_prepare_is_told_if_it_is_told_little() -> None:
    found = config()
    assert (found.inputs, found.out) == (("a.jsonl", "corpus"), Path("data"))
    assert (found.tokenizer, found.train_tokenizer, found.end_of_document) == (None, 0, None)
    assert (found.field, found.seed, found.held_out_ppm) == ("text", 0, 5_000)
    assert (found.dedup, found.skip_bad, found.cut_bytes, found.licence) == (False, False, 0, "")
    assert (found.page_tokens, found.segment_pages, found.shard_segments) == (2_048, 32, 0)
    assert found.workers >= 1
    assert found.memory_bytes == 512 * 2**20


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--tokenizer", "byte"], "tokenizer", None),
        (["--tokenizer", "t.json"], "tokenizer", Path("t.json")),
        (["--train-tokenizer", "4096"], "train_tokenizer", 4_096),
        (["--train-bytes", "1G"], "train_bytes", 2**30),
        (["--tokenizer", "t.json", "--end-of-document", "</s>"], "end_of_document", "</s>"),
        (["--held-out", "0.5%"], "held_out_ppm", 5_000),
        (["--held-out", "0.01"], "held_out_ppm", 10_000),
        (["--held-out", "0.0001%"], "held_out_ppm", 1),
        (["--dedup"], "dedup", True),
        (["--skip-bad"], "skip_bad", True),
        (["--cut", "16K"], "cut_bytes", 16_384),
        (["--seed", "7"], "seed", 7),
        (["--field", "content"], "field", "content"),
        (["--licence", "CC0 1.0"], "licence", "CC0 1.0"),
        (["--page-tokens", "64"], "page_tokens", 64),
        (["--segment-pages", "8"], "segment_pages", 8),
        (["--shard-segments", "9"], "shard_segments", 9),
        (["--workers", "3"], "workers", 3),
        (["--memory", "1024"], "memory_bytes", 2**30),
        (["--chat"], "is_chat", True),
        (["--chat"], "field", "messages"),
        (["--chat", "--field", "turns"], "field", "turns"),
        (["--train-tokenizer", "4096", "--reserve-chat"], "reserve_chat", True),
        (["--train-tokenizer", "4096", "--chat"], "reserve_chat", True),
        (["--chat"], "reserve_chat", False),
    ],
)
def test_every_flag_has_its_effect(flags: list[str], name: str, value: object) -> None:
    assert getattr(config(*flags), name) == value


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--held-out", "0"], "share between 0 and 1"),
        (["--held-out", "100%"], "share between 0 and 1"),
        (["--held-out", "half"], "share between 0 and 1"),
        (["--held-out", "NaN"], "share between 0 and 1"),
        (["--held-out", "0.00001%"], "whole millionths"),
        (["--cut", "1"], "at least 256 bytes"),
        (["--cut", "1T"], "a number of bytes"),
        (["--train-tokenizer", "256"], "257 or more"),
        (["--memory", "1"], "64 or more"),
        (["--workers", "0"], "1 or more"),
        (["--page-tokens", "-1"], "2 or more"),
        (["--heldout", "1%"], "did you mean --held-out"),
    ],
)
def test_wrong_flags_are_refused_with_the_remedy(flags, message, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        config(*flags)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tokenizer", "t.json", "--train-tokenizer", "300"], "contradicts --tokenizer"),
        (["--end-of-document", "</s>"], "belongs to a --tokenizer PATH"),
        (["--tokenizer", "byte", "--end-of-document", "</s>"], "belongs to a --tokenizer PATH"),
        (["--out", str(ROOT / "README.md")], "is a file; name a folder"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(*flags)


def test_a_folder_as_text_is_told_how_to_publish_it(tmp_path: Path) -> None:
    """It was called `not there` and a file to be deleted."""
    argv = ["publish", "--plan", str(ROOT / "runs/testnet.toml"), "--out", "r.toml"]
    argv += ["--start-in", "300", "--netuid", "7", "-n", "test", "--text", str(tmp_path)]

    def refusal() -> str:
        with pytest.raises(ConfigError) as refused:
            owner_config(parse_command("owner", argv, "neurons/owner.py"), {})
        return str(refused.value)

    assert "is a folder; make a dataset of its documents by `tessera data prepare" in refusal()
    (tmp_path / "manifest.json").write_bytes(b"{}")
    assert refusal().endswith(f"is a folder; take --data {tmp_path}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--chat", "--cut", "16K"], "--cut: contradicts --chat"),
        (["--reserve-chat"], "--reserve-chat: belongs to --train-tokenizer"),
        (["--train-tokenizer", "260", "--reserve-chat"], "260: .* name 261 or more"),
        (["--train-tokenizer", "260", "--chat"], "260: .* name 261 or more"),
        (["--tokenizer", "t.json", "--reserve-chat"], "--reserve-chat: belongs to"),
    ],
)
def test_flags_of_conversations_that_contradict_are_named(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(*flags)


def test_an_upload_takes_a_wallet_and_the_bucket_of_the_environment() -> None:
    args = parse_command("data", ["upload", "d", "--wallet.name", "owner"], "tessera data")
    env = {
        "TESSERA_BUCKET_ENDPOINT": "https://s3.example.com",
        "TESSERA_BUCKET_WRITE_KEY_ID": "w",
        "TESSERA_BUCKET_WRITE_SECRET": "ws",
        "TESSERA_BUCKET_READ_KEY_ID": "r",
        "TESSERA_BUCKET_READ_SECRET": "rs",
    }
    found = data_config(args, env)
    assert isinstance(found, UploadConfig)
    assert (found.folder.name, found.wallet.name) == ("d", "owner")
    assert found.bucket.endpoint_url == "https://s3.example.com"
    with pytest.raises(ConfigError, match="TESSERA_BUCKET"):
        data_config(args, {})


def test_the_smallest_vocabulary_is_the_one_that_is_trained() -> None:
    found = json.loads(train_bpe([b"a text"], MIN_VOCAB_SIZE, tuple(MARKERS.values())))
    assert len(found["model"]["vocab"]) == MIN_VOCAB_SIZE + NUM_MARKERS
