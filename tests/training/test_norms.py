"""The norms that a state carries: one block of doubles, whatever their number."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from template.training.checkpoint import LocalCheckpoint, restored_state, save_local
from template.training.norms import count_accepted, norms_text, parse_norms


def test_norms_come_back_to_the_last_bit_and_in_a_small_block(state) -> None:
    """722 tensors and 16 windows of 20 payloads: a block of 1.9 MB; JSON took 15 and more."""
    names = [f"model.layers.{i:02d}.self_attn.q_proj.weight" for i in range(722)]
    draw = np.random.default_rng(3)
    rows = [dict(zip(names, draw.random(722).tolist(), strict=True)) for _ in range(321)]
    rows[1] = dict.fromkeys(names, 5e-324)
    accepted = tuple(
        (window, tuple(rows[1 + 20 * window : 21 + 20 * window])) for window in range(16)
    )
    text = norms_text(rows[0], accepted)
    assert len(text) < 11 * 722 * 321
    found = parse_norms(text, count_accepted(accepted), names)
    assert found == (rows[0], accepted)
    assert parse_norms(norms_text(rows[0], ()), [], names) == (rows[0], ())


def test_a_node_with_many_tensors_writes_its_checkpoint(state, tmp_path: Path) -> None:
    """The safetensors header holds 100 MB; norms as JSON were over it at 722 x 1280."""
    names = [f"t{i:03d}" for i in range(722)]
    params = {name: torch.ones(1) for name in names}
    norms = dict.fromkeys(names, 0.1234567890123456)
    many = dataclasses.replace(
        state,
        params=params,
        initial_norms=norms,
        accepted_norms=tuple((window, (norms,) * 256) for window in range(16)),
    )
    save_local(tmp_path / "node", LocalCheckpoint(state=many), bytes(16))
    with safe_open(tmp_path / "node", framework="pt") as file:
        carried = json.loads(file.metadata()["state"])
    assert restored_state(carried, params).accepted_norms == many.accepted_norms
