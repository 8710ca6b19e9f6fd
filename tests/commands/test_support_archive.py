"""The support archive without a subnet: what an operator's mistakes must not put into it."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from template.cli.doctor_flags import doctor_config, url_secrets
from template.cli.main import parse_command
from template.commands.doctor import write_bundle
from template.doctor.findings import Report, good
from template.protocol.spec import load_spec, spec_to_toml
from tests.support.rank_run import run_spec

WRITE_KEY = "0123456789abcdef:write-secret-of-the-bucket"
URL = "wss://someone:pass%2Dword@node.example:9944/v3/token-in-a-path?key=token-in-a-query"
TOKENS = ("someone", "pass%2Dword", "pass-word", "token-in-a-path", "token-in-a-query")


def archive_of(folder: Path, run: Path, *, env: dict[str, str], said: str = "fine") -> str:
    """Every byte of the archive that the doctor writes, as one text."""
    words = ["miner", "--netuid", "4", "--subtensor.network", URL, "--run", str(run)]
    words += ["--neuron.state_dir", str(folder / "state"), "--bundle", str(folder / "a.tar.gz")]
    words += ["--wallet.path", str(folder / "wallets"), "--logging.logging_dir", str(folder)]
    config = doctor_config(parse_command("doctor", words, "tessera doctor"), env)
    write_bundle(config, Report(role="miner", version="1", findings=(good("chain", said),)))
    with tarfile.open(folder / "a.tar.gz") as packed:
        files = [packed.extractfile(member) or io.BytesIO() for member in packed.getmembers()]
        names = packed.getnames()
        return "\n".join([*names, *(file.read().decode() for file in files)])


def test_an_env_file_named_as_run_spec_is_not_in_the_archive(tmp_path: Path) -> None:
    """The variables are unset: the doctor does not know the secret, and must not copy the file."""
    env_file = tmp_path / "tessera.env"
    env_file.write_text(f"TESSERA_BUCKET_WRITE_KEY='{WRITE_KEY}'\n")
    text = archive_of(tmp_path, env_file, env={})
    assert "run.toml" not in text
    assert "write-secret" not in text


def test_a_run_spec_is_in_the_archive_as_it_was_understood(tmp_path: Path) -> None:
    run = tmp_path / "run.toml"
    run.write_text(spec_to_toml(run_spec()) + f"# {WRITE_KEY}\n")
    text = archive_of(tmp_path, run, env={})
    assert "tessera-support/run.toml" in text
    assert spec_to_toml(load_spec(run)) in text
    assert "write-secret" not in text


def test_hidden_parts_of_urls_are_secrets_wherever_they_stand(tmp_path: Path) -> None:
    said = " ".join(("host node.example", *TOKENS, "bucket-password"))
    env = {"TESSERA_BUCKET_ENDPOINT": "https://user:bucket-password@store.example"}
    (tmp_path / "run.toml").touch()
    text = archive_of(tmp_path, tmp_path / "run.toml", env=env, said=said)
    assert "host node.example" in text
    assert not [token for token in (*TOKENS, "bucket-password") if token in text]


@pytest.mark.parametrize("text", ["", "finney", "/a/path", "test:9944"])
def test_a_text_that_is_no_url_has_no_secret(text: str) -> None:
    assert url_secrets(text) == []


def test_links_and_pipes_of_the_state_folder_are_not_read(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "elsewhere").write_text("content of another file")
    (state / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(state / "verdicts.jsonl")
    run = tmp_path / "run.toml"
    run.write_text(spec_to_toml(run_spec()))
    text = archive_of(tmp_path, run, env={})
    assert "content of another file" not in text
    assert "(verdicts.jsonl: " in text
    assert "(metrics.jsonl: " in text


def test_a_file_name_that_is_no_utf8_is_listed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    try:
        (state / os.fsdecode(b"caf\xe9")).write_text("")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    run = tmp_path / "run.toml"
    run.write_text(spec_to_toml(run_spec()))
    assert "caf\\udce9" in archive_of(tmp_path, run, env={})
