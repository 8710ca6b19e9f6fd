"""What `init` needs comes from flags, variables, an earlier file or a person, in this order."""

from pathlib import Path

import pytest

from template.cli.init_flags import InitConfig, init_config, read_env_file
from template.cli.main import parse_command
from template.commands.init_files import env_text
from template.errors import ConfigError

ENV = {
    "TESSERA_NETWORK": "test",
    "TESSERA_NETUID": "42",
    "TESSERA_R2_ACCOUNT_ID": "ab" * 16,
    "TESSERA_BUCKET_WRITE_KEY": "id1:secret-one",
    "TESSERA_BUCKET_READ_KEY": "id2:secret-two",
}


def configured(env: dict[str, str], folder: Path, *flags: str, ask=None) -> InitConfig:
    words = ["--role", "miner", "--dir", str(folder), *flags]
    return init_config(parse_command("init", words, "tessera init"), env, ask)


def nobody(name: str, _question: str) -> str:
    raise AssertionError(f"a person was asked for {name}")


def test_five_variables_are_enough_and_nobody_is_asked(tmp_path: Path) -> None:
    found = configured(ENV, tmp_path, ask=nobody)
    assert found.values == ENV | {
        "TESSERA_WALLET_NAME": "default",
        "TESSERA_WALLET_HOTKEY": "default",
        "TESSERA_WALLET_PATH": "~/.bittensor/wallets",
    }
    assert found.folder == tmp_path


@pytest.mark.parametrize("name", ENV)
def test_without_a_terminal_a_missing_value_is_named(name: str, tmp_path: Path) -> None:
    env = {key: value for key, value in ENV.items() if key != name}
    with pytest.raises(ConfigError, match=f"{name} is not set") as caught:
        configured(env, tmp_path)
    assert "secret" not in str(caught.value).replace("its secret", "").replace("ID:SECRET", "")


@pytest.mark.parametrize("name", ENV)
def test_at_a_terminal_a_person_is_asked_for_what_is_missing_alone(
    name: str, tmp_path: Path
) -> None:
    asked: list[str] = []

    def answer(asked_for: str, _question: str) -> str:
        asked.append(asked_for)
        return f" {ENV[asked_for]} "

    env = {key: value for key, value in ENV.items() if key != name}
    assert configured(env, tmp_path, ask=answer).values[name] == ENV[name]
    assert asked == [name]


def test_no_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TESSERA_NETUID: no answer"):
        configured({}, tmp_path, ask=lambda *_: " ")


def test_a_flag_is_stronger_than_a_variable_and_a_variable_than_the_file(tmp_path: Path) -> None:
    old = ENV | {"TESSERA_NETWORK": "finney", "TESSERA_WALLET_NAME": "old"}
    (tmp_path / "tessera.env").write_text(env_text(old))
    assert read_env_file(tmp_path / "tessera.env").values == old
    env = {"TESSERA_NETUID": "42", "TESSERA_NETWORK": "test"}
    found = configured(env, tmp_path, "--netuid", "43", "--wallet.hotkey", "mine", ask=nobody)
    assert found.values["TESSERA_NETUID"] == "43"
    assert found.values["TESSERA_NETWORK"] == "test"
    assert found.values["TESSERA_WALLET_NAME"] == "old"
    assert found.values["TESSERA_WALLET_HOTKEY"] == "mine"
    assert found.values["TESSERA_BUCKET_WRITE_KEY"] == ENV["TESSERA_BUCKET_WRITE_KEY"]


def test_the_four_variables_of_the_keys_serve_too(tmp_path: Path) -> None:
    parts = {
        "TESSERA_BUCKET_WRITE_KEY_ID": "a", "TESSERA_BUCKET_WRITE_SECRET": "b",
        "TESSERA_BUCKET_READ_KEY_ID": "c", "TESSERA_BUCKET_READ_SECRET": "d",
    }  # fmt: skip
    env = {name: value for name, value in ENV.items() if not name.endswith("_KEY")}
    found = configured(env | parts, tmp_path, ask=nobody)
    assert {name: found.values[name] for name in parts} == parts
    assert "TESSERA_BUCKET_WRITE_KEY" not in found.values


@pytest.mark.parametrize("netuid", ["x", "-1", "123456"])
def test_a_netuid_is_a_number(netuid: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="TESSERA_NETUID"):
        configured(ENV | {"TESSERA_NETUID": netuid}, tmp_path)


def test_the_settings_never_show_a_secret(tmp_path: Path) -> None:
    text = f"{configured(ENV, tmp_path)!r} {configured(ENV, tmp_path)}"
    assert "secret-one" not in text


def test_the_folder_follows_role_and_netuid() -> None:
    args = parse_command("init", ["--role", "validator"], "tessera init")
    assert init_config(args, ENV).folder == Path.home() / ".config/tessera/validator-netuid42"


@pytest.mark.parametrize(
    ("filed", "given"),
    [
        ({"TESSERA_BUCKET_WRITE_KEY": "a:b"},
         {"TESSERA_BUCKET_WRITE_KEY_ID": "c", "TESSERA_BUCKET_WRITE_SECRET": "d"}),
        ({"TESSERA_BUCKET_READ_KEY_ID": "c", "TESSERA_BUCKET_READ_SECRET": "d"},
         {"TESSERA_BUCKET_READ_KEY": "a:b"}),
        ({"TESSERA_R2_ACCOUNT_ID": "ab" * 16, "TESSERA_R2_JURISDICTION": "eu"},
         {"TESSERA_BUCKET_ENDPOINT": "https://store.example"}),
        ({"TESSERA_BUCKET_ENDPOINT": "https://store.example"},
         {"TESSERA_R2_ACCOUNT_ID": "ab" * 16}),
    ],
)  # fmt: skip
def test_a_spelling_given_now_drops_the_other_of_the_file(
    filed: dict[str, str], given: dict[str, str], tmp_path: Path
) -> None:
    rest = {name: value for name, value in ENV.items() if name not in (*filed, *given)}
    stem = next(iter(given))[:18]
    rest = {name: value for name, value in rest.items() if not name.startswith(stem)}
    if any("ENDPOINT" in name or "R2" in name for name in given):
        rest.pop("TESSERA_R2_ACCOUNT_ID", None)
    (tmp_path / "tessera.env").write_text(env_text(rest | filed))
    found = configured(given | {"TESSERA_NETUID": "42"}, tmp_path, ask=nobody).values
    assert {name: found[name] for name in given} == given
    assert not set(filed) & set(found)


def test_the_operator_s_own_lines_are_kept(tmp_path: Path) -> None:
    own = ["# my notes", "WANDB_API_KEY=abc", "export HF_HOME='/big disk'"]
    file = tmp_path / "tessera.env"
    file.write_text("\n".join([own[0], "export TESSERA_NETUID=42", *own[1:]]) + "\n")
    found = configured(ENV, tmp_path, ask=nobody)
    assert found.kept == tuple(own)
    file.write_text(env_text(found.values, found.kept))
    assert file.read_text().splitlines()[-3:] == own
    again = configured({"TESSERA_NETUID": "42"}, tmp_path, ask=nobody)
    assert (again.values, again.kept) == (found.values, found.kept)


@pytest.mark.parametrize("value", ["a b", "'open"])
def test_an_ill_formed_line_is_named_without_its_value(value: str, tmp_path: Path) -> None:
    (tmp_path / "tessera.env").write_text(f"TESSERA_BUCKET_WRITE_KEY={value}\n")
    with pytest.raises(ConfigError, match="the value of TESSERA_BUCKET_WRITE_KEY") as caught:
        configured(ENV, tmp_path)
    assert value not in str(caught.value)


def test_the_folder_is_whole_and_has_no_line_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert configured(ENV, Path("here")).folder == tmp_path.resolve() / "here"
    with pytest.raises(ConfigError, match="--dir"):
        configured(ENV, tmp_path / "a\nb")
