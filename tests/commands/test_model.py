"""A model is fetched and verified, loads in other programs, writes text, and is published."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM

from simulation.swarm import FOUR, STAKES_TAO, build_world, honest, metrics, run
from simulation.world import World
from template.cli import model_flags
from template.cli.main import parse_command
from template.cli.model_flags import (
    Config,
    FolderSource,
    GenerateConfig,
    HubConfig,
    LatestConfig,
    RunSource,
    model_config,
)
from template.cli.process_state import restored_process_state
from template.cli.terminal import say_piece
from template.commands import model_latest
from template.commands.model import run_model
from template.commands.model_eval import Row, rows_of, table
from template.commands.model_generate import load_model, run_generate
from template.commands.model_latest import Measuring, fetch_newest, save_newest
from template.commands.model_publish import run_publish
from template.context import ReadContext
from template.errors import EXIT_ENDED, EXIT_TRY_AGAIN, ConfigError, Unavailable
from template.protocol.keys import checkpoint_manifest_key
from template.protocol.root import tensors_digest
from template.secret import Secret
from template.settings import ChainConfig
from template.training.card import CARD_FILE, FACTS_FILE
from template.training.companions import COMPANIONS
from template.training.model_folder import INDEX_FILE
from template.training.outer import params_digest
from template.training.published import CONFIG_FILE
from tests.support.fake_hub import FakeHub, fake_hub
from tests.support.joining import NEWCOMER, OWNER, Watched

ROOT = Path(__file__).parents[2]
WINDOW = 2
"""The newest checkpoint that final votes prove."""
MEASURING = Measuring(4, "cpu", 7)
TOKEN = "hf_" + "x" * 20


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> tuple[World, dict[int, str]]:
    """A run that has ended, and the digest of the parameters by window."""
    world = build_world(
        STAKES_TAO,
        schedule__num_windows=3,
        checkpoint__every_windows=2,
        checkpoint__part_bytes=2**13,
    )
    nodes = run(world, honest(*FOUR), tmp_path_factory.mktemp("run"))
    return world, metrics(nodes["m0"]).series("params_digest")


def _context(world: World, folder: Path, buckets=None) -> ReadContext:
    context = world.context(NEWCOMER, folder)
    if buckets is None:
        return context
    return replace(context, open_bucket=lambda peer, _access: buckets[peer])


@pytest.fixture
def buckets(ended) -> Iterator[dict[str, Watched]]:
    """Copies, to be broken; the clock is given back."""
    world, _ = ended
    copies = {}
    for hotkey, bucket in world.buckets.items():
        copies[hotkey] = Watched()
        for key in bucket.list(""):
            copies[hotkey].put(key, bucket.get(key, max_bytes=2**24))
    block = world.time.block
    yield copies
    world.time.block = block


@pytest.fixture(scope="module")
def latest(ended, tmp_path_factory) -> Path:
    """A folder with the newest model."""
    world, _ = ended
    folder = tmp_path_factory.mktemp("latest") / "model"
    context = _context(world, tmp_path_factory.mktemp("state"))
    save_newest(fetch_newest(context), context, folder, MEASURING, print)
    return folder


def test_the_folder_is_whole_and_says_what_it_is(ended, latest) -> None:
    world, digests = ended
    names = {path.name for path in latest.iterdir()}
    assert {*COMPANIONS, CONFIG_FILE, INDEX_FILE, CARD_FILE, FACTS_FILE} <= names
    facts = json.loads((latest / FACTS_FILE).read_text())
    assert (facts["window"], facts["run_id"]) == (WINDOW, world.spec.run_id.hex())
    assert facts["num_payloads"] > 0
    assert facts["max_tokens"] == (
        facts["num_payloads"] * world.spec.training.pages_per_window * world.spec.data.page_tokens
    )
    assert 0 < facts["loss_nats"] < 6
    card = (latest / CARD_FILE).read_text()
    for value in (facts["lineage_root"], facts["run_id"], f"{facts['loss_nats']:.4f}"):
        assert value in card
    model = load_model(latest, "cpu").model
    params = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert tensors_digest(params).hex() == digests[WINDOW - 2]


ALONE = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
model, info = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
words = tokenizer("To be", return_tensors="pt", return_token_type_ids=False)
made = model.generate(**words, max_new_tokens=20, do_sample=False)
print(json.dumps([made[0].tolist(), tokenizer.decode(made[0]), model.config.use_cache,
                  [len(info[k]) for k in ("missing_keys", "unexpected_keys")]]))
assert not {"template", "compression", "evaluation"} & sys.modules.keys()
"""


def test_the_newest_model_comes_in_bfloat16_too(ended, latest, tmp_path) -> None:
    """Half as long, and rounded to nearest from what is proven; the loss is the run's."""
    world, _ = ended
    folder, context = tmp_path / "model", _context(world, tmp_path / "state")
    save_newest(fetch_newest(context), context, folder, replace(MEASURING, dtype="bfloat16"), print)
    exact = AutoModelForCausalLM.from_pretrained(latest)
    rounded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert rounded.dtype == torch.bfloat16
    for (name, one), (_, other) in zip(
        exact.named_parameters(), rounded.named_parameters(), strict=True
    ):
        assert torch.equal(one.bfloat16(), other), name
    sizes = [sum(p.stat().st_size for p in f.glob("*.safetensors")) for f in (latest, folder)]
    assert 0.45 < sizes[1] / sizes[0] < 0.6
    facts = [json.loads((f / FACTS_FILE).read_text()) for f in (latest, folder)]
    assert [f.pop("dtype") for f in facts] == ["float32", "bfloat16"]
    assert facts[0] == facts[1]
    assert "bfloat16, rounded" in (folder / CARD_FILE).read_text()
    assert _run(_generating(folder)) == EXIT_ENDED


def test_a_process_without_our_code_loads_it_and_writes(latest, tmp_path, capsys) -> None:
    """The text is that of `model generate`."""
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(latest)],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"},
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    tokens, text, uses_cache, left = json.loads(done.stdout)
    assert (len(tokens), tokens[:5], uses_cache, left) == (25, list(b"To be"), True, [0, 0])
    run_generate(_generating(latest, temperature=0.0, max_tokens=20), say_piece, print)
    assert capsys.readouterr().out.rstrip("\n") == text.rstrip("\n")


def _generating(folder: Path, **changes) -> GenerateConfig:
    config = GenerateConfig(
        source=FolderSource(folder=folder, device="cpu"),
        prompt="To be",
        max_tokens=12,
        temperature=0.8,
        top_p=0.95,
        seed=3,
    )
    return replace(config, **changes)


def _written(config: GenerateConfig) -> tuple[str, list[str]]:
    pieces: list[str] = []
    said: list[str] = []
    run_generate(config, pieces.append, said.append)
    return "".join(pieces), said


def test_the_same_seed_writes_the_same_text(latest) -> None:
    first, said = _written(_generating(latest))
    assert first.startswith("To be")
    assert said == []
    assert _written(_generating(latest))[0] == first
    assert _written(_generating(latest, seed=4))[0] != first


def test_a_padded_word_is_never_written(latest, tmp_path) -> None:
    """Not even by a model that deems one of them the most likely, at every token."""
    model = AutoModelForCausalLM.from_pretrained(latest)
    num_tokens = model.config.vocab_size
    model.resize_token_embeddings(num_tokens + 128, mean_resizing=False)
    with torch.no_grad():
        rows = model.lm_head.weight[num_tokens:]
        likely = 1e3 * torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0))
        rows[:64], rows[64:] = likely, -likely
    folder = tmp_path / "padded"
    shutil.copytree(latest, folder)
    for path in folder.glob("model*"):
        path.unlink()
    model.save_pretrained(folder)
    padded = load_model(folder, "cpu")
    assert padded.model.config.vocab_size == num_tokens + 128 > padded.num_tokens == num_tokens
    logits = padded.model(torch.tensor([[65, 66, 67]])).logits
    assert (logits.argmax(dim=-1) >= num_tokens).all(), "a word of the padding"
    greedy = _written(_generating(folder, temperature=0.0))
    assert greedy == _written(_generating(latest, temperature=0.0))
    assert len(greedy[0]) > 10
    drawn, _ = _written(_generating(folder, temperature=1.0))
    assert len(drawn) > 10


def test_an_empty_prompt_begins_a_document_and_a_long_text_is_told(ended, latest) -> None:
    longest = ended[0].spec.data.page_tokens
    text, said = _written(_generating(latest, prompt="", max_tokens=longest))
    assert len(text) > 1
    assert "trained on" in said[0]


@pytest.mark.parametrize("damage", ["config", "part", "tensor", "pickle", "tokenizer", "code"])
def test_a_folder_of_a_stranger_is_refused_in_a_sentence(damage, latest, tmp_path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in latest.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    part = next(folder.glob("model-*.safetensors"))
    if damage == "config":
        (folder / CONFIG_FILE).write_text("{")
    elif damage == "part":
        part.write_bytes(part.read_bytes()[:40])
    elif damage == "tensor":
        table_ = json.loads((folder / CONFIG_FILE).read_text())
        (folder / CONFIG_FILE).write_text(json.dumps(table_ | {"num_hidden_layers": 9}))
    elif damage == "pickle":
        for path in folder.glob("*safetensors*"):
            path.unlink()
        (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    elif damage == "tokenizer":
        (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": 7}}')
    else:
        table_ = json.loads((folder / CONFIG_FILE).read_text()) | {
            "model_type": "strange",
            "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"},
        }
        (folder / CONFIG_FILE).write_text(json.dumps(table_))
        (folder / "code.py").write_text("open('ran', 'w')")
    with pytest.raises(ConfigError, match="--model"):
        load_model(folder, "cpu")
    assert not Path("ran").exists()


def test_a_bucket_that_lies_is_passed_over(ended, buckets, tmp_path) -> None:
    """One validator's manifest is another's with a digit changed: the next is asked."""
    world, digests = ended
    key = checkpoint_manifest_key(world.spec.run_id, WINDOW)
    liars = [h for h, b in buckets.items() if key in b.list("") and h != OWNER]
    data = json.loads(buckets[liars[0]].get(key, max_bytes=2**20))
    data["state"]["root"] = "00" * 32
    buckets[liars[0]].put(key, json.dumps(data).encode())
    context = _context(world, tmp_path / "state", buckets)
    state = fetch_newest(context).state
    assert params_digest(state).hex() == digests[WINDOW - 2]


def test_without_an_honest_checkpoint_nothing_is_fetched(ended, buckets, tmp_path) -> None:
    world, _ = ended
    key = checkpoint_manifest_key(world.spec.run_id, WINDOW)
    for bucket in buckets.values():
        if key in bucket.list(""):
            data = json.loads(bucket.get(key, max_bytes=2**20))
            data["state"]["root"] = "00" * 32
            bucket.put(key, json.dumps(data).encode())
    with pytest.raises(Unavailable, match="no validator serves a checkpoint"):
        fetch_newest(_context(world, tmp_path / "state", buckets))


@pytest.fixture
def on_chain(ended, buckets, tmp_path, monkeypatch) -> RunSource:
    """The run as the commands find it: the world's chain and buckets in place of real ones."""
    world, _ = ended

    @contextmanager
    def read_only(*_args: object) -> Iterator[ReadContext]:
        yield _context(world, tmp_path / "state", buckets)

    monkeypatch.setattr(model_latest, "follow_run", read_only)
    chain = ChainConfig(netuid=7, network="local")
    return RunSource(run=Path("run.toml"), spec=world.spec, chain=chain, loss_pages=2, device="cpu")


def test_the_commands_take_a_run_in_place_of_a_folder(on_chain, tmp_path, capsys) -> None:
    out = tmp_path / "model"
    assert _run(LatestConfig(source=on_chain, out=out)) == EXIT_ENDED
    assert f"theta_{WINDOW} is in {out}" in capsys.readouterr().out
    from_folder = _generating(out)
    assert _run(from_folder) == EXIT_ENDED
    text = capsys.readouterr().out
    assert text.startswith("To be")
    assert _run(replace(from_folder, source=on_chain)) == EXIT_ENDED
    assert capsys.readouterr().out == text


def test_an_error_is_a_line_and_a_status(on_chain, buckets, tmp_path, capsys) -> None:
    for bucket in buckets.values():
        for key in bucket.list(""):
            if "/checkpoint/" in key:
                bucket.delete(key)
    config = LatestConfig(source=on_chain, out=tmp_path / "model")
    assert _run(config) == EXIT_TRY_AGAIN
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("model: --run")
    assert not (tmp_path / "model").exists()


def _run(config: Config) -> int:
    """`run_model` without its signal handlers, which stay until a process ends."""
    with restored_process_state():
        return run_model(config)


@pytest.mark.slow
def test_lm_eval_runs_a_local_task_without_a_hub(latest, tmp_path) -> None:
    """In a process of its own: lm-eval changes the environment when imported."""
    if find_spec("lm_eval") is None:
        pytest.skip("the extra `eval` is not installed")
    out = tmp_path / "results.json"
    flags = ["--tasks", "shakespeare_next_word", "--task_dir", "docs/examples/tasks"]
    command = [sys.executable, "-m", "template.cli", "model", "eval", "--model", str(latest)]
    done = subprocess.run(
        [*command, *flags, "--out", str(out)],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("shakespeare_next_word  acc_norm")
    found = json.loads(out.read_text())["results"]["shakespeare_next_word"]
    assert 0 <= found["acc,none"] <= 1


def test_a_smaller_model_leaves_no_part_of_a_larger_one(ended, tmp_path) -> None:
    world, _ = ended
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model-00001-of-99999.safetensors").write_bytes(b"old")
    context = _context(world, tmp_path / "state")
    save_newest(fetch_newest(context), context, folder, Measuring(0, "cpu", 7), print)
    assert not (folder / "model-00001-of-99999.safetensors").exists()
    facts = json.loads((folder / FACTS_FILE).read_text())
    assert (facts["loss_nats"], facts["loss_pages"]) == (None, 0)
    assert "not measured" in (folder / CARD_FILE).read_text()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    if constants.is_offline_mode():
        pytest.skip("HF_HUB_OFFLINE is set, and the hub's client keeps away from every address")
    with fake_hub() as found:
        yield found


def _publishing(folder: Path, hub: FakeHub) -> HubConfig:
    return HubConfig(
        source=FolderSource(folder=folder, device="cpu"),
        repo="me/theta",
        is_private=True,
        token=Secret(TOKEN),
        endpoint=hub.endpoint,
    )


def test_the_hub_gets_the_models_files_and_no_others(hub, latest) -> None:
    (latest / "notes.txt").write_text("private")
    hub.files["me/theta"] = {"model-00001-of-99999.safetensors": b"old", "LICENSE": b"mine"}
    assert run_publish(_publishing(latest, hub), print) == f"{hub.endpoint}/me/theta"
    (latest / "notes.txt").unlink()
    files = {path.name: path.read_bytes() for path in latest.iterdir()}
    assert hub.files["me/theta"] == files | {"LICENSE": b"mine"}
    assert hub.private == {"me/theta": True}
    assert hub.tokens == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize(("status", "error"), [(401, ConfigError), (403, ConfigError)])
def test_a_refusal_names_the_remedy_and_never_the_token(hub, latest, status, error) -> None:
    hub.status = status
    with pytest.raises(error, match="HF_TOKEN") as caught:
        run_publish(_publishing(latest, hub), print)
    assert TOKEN not in str(caught.value)
    assert TOKEN not in repr(_publishing(latest, hub))
    assert caught.value.__cause__ is None


def test_a_hub_that_is_away_is_one_sentence(hub, latest) -> None:
    away = replace(_publishing(latest, hub), endpoint="http://127.0.0.1:1")
    with pytest.raises(Unavailable, match="--hub me/theta: ") as caught:
        run_publish(away, print)
    assert TOKEN not in str(caught.value)


def _config(*argv: str, **env: str):
    return model_config(parse_command("model", argv, "tessera model"), env)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["generate", "x"], "--run: missing"),
        (["generate", "x", "--run", "run.toml"], "--netuid: missing"),
        (["generate", "x", "--model", "nowhere"], "has no config.json"),
        (["generate", "x", "--model", ".", "--netuid", "7"], "no use beside --model"),
        (["latest", "--out", "setup.py"], "is no folder"),
        (["publish", "--hub", "me/x", "--model", "FOLDER", "--dtype", "bf16"], "no use beside"),
        (["latest", "--out", "tests"], "something else"),
        (["publish", "--hub", "me", "--model", "FOLDER"], "OWNER/NAME"),
        (["publish", "--hub", "../../me/x", "--model", "FOLDER"], "OWNER/NAME"),
        (["eval", "--model", "FOLDER"], r"pip install 'tessera-subnet\[eval\]'"),
    ],
)
def test_a_wrong_flag_is_one_sentence_with_the_remedy(argv, words, latest, monkeypatch) -> None:
    monkeypatch.setattr(model_flags, "find_spec", lambda _name: None)
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=words):
        _config(*[str(latest) if word == "FOLDER" else word for word in argv])


@pytest.mark.parametrize(
    "flags",
    [
        ["--max_tokens", "0"],
        ["--max_tokens", "many"],
        ["--temperature", "-1"],
        ["--temperature", "nan"],
        ["--top_p", "0"],
        ["--top_p", "1.1"],
        ["--seed", "-1"],
    ],
)
def test_a_number_out_of_its_bounds_is_refused(flags, latest) -> None:
    with pytest.raises(SystemExit, match="2"):
        _config("generate", "x", "--model", str(latest), *flags)


@pytest.mark.parametrize(("flags", "dtype"), [([], "float32"), (["--dtype", "bf16"], "bfloat16")])
def test_the_type_of_the_numbers_is_a_flag(flags, dtype, tmp_path) -> None:
    run = ["--run", str(ROOT / "tests/protocol/spec.toml"), "--netuid", "7"]
    config = _config("latest", "--out", str(tmp_path / "model"), *run, *flags)
    assert config.source.dtype == dtype


def test_the_token_comes_from_the_environment_alone(latest) -> None:
    config = _config("publish", "--hub", "me/theta", "--model", str(latest), HF_TOKEN=TOKEN)
    assert isinstance(config, HubConfig)
    assert config.token == Secret(TOKEN)
    assert TOKEN not in repr(config)


def test_what_a_model_writes_is_shown_and_never_obeyed(capsys) -> None:
    say_piece("a\n\tb\x1b[31m\x07")
    assert capsys.readouterr().out == "a\n\tb<U+001B>[31m<U+0007>"


def test_results_stand_beside_the_figures_of_others() -> None:
    results: dict[str, dict[str, Any]] = {
        "mmlu": {"acc,none": 0.251, "acc_stderr,none": 0.004, "alias": "mmlu"},
        "arc_easy": {"acc,none": 0.3, "acc_norm,none": 0.28, "acc_norm_stderr,none": "N/A"},
        "own": {"word_perplexity,none": 12.34},
    }
    rows = rows_of(results, ("mmlu", "own", "arc_easy", "gone"))
    assert rows[1:] == [
        Row(task="own", metric="word_perplexity", value=12.34, error=None),
        Row(task="arc_easy", metric="acc_norm", value=28.000000000000004, error=None),
    ]
    lines = table(rows)
    assert lines[0].split() == [
        "task", "metric", "this", "model", "Covenant-72B", "LLaMA-2-70B", "K2-65B", "INTELLECT-1",
    ]  # fmt: skip
    assert lines[1].split() == ["mmlu", "acc", "25.1", "+-", "0.4", "67.1", "65.6", "65.5", "32.7"]
    assert lines[2].split() == ["own", "word_perplexity", "12.3"]
