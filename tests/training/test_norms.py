"""The norms that a state carries: one block of doubles, whatever their number."""

import base64
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from template.training.checkpoint import LocalCheckpoint, restored_state, save_local
from template.training.norms import (
    History,
    count_accepted,
    norms_text,
    pack_norms,
    parse_norms,
)


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


INITIAL = {"a": 1.0, "b": 2.0, "c": 0.0}


def test_a_tensor_outside_a_payloads_part_is_absent_again() -> None:
    """Absent is another thing than zero, in every row but that of theta_0."""
    accepted: History = (
        (3, ({"a": 0.5}, {"b": 0.0, "c": 5e-324})),
        (4, ({},)),
        (5, ({"a": 1.0, "b": 2.0, "c": 3.0},)),
    )
    counts = count_accepted(accepted)
    found = parse_norms(norms_text(INITIAL, accepted), counts, sorted(INITIAL))
    assert found == (INITIAL, accepted)
    again = parse_norms(norms_text(*found), counts, sorted(INITIAL))
    assert pack_norms(*again) == pack_norms(INITIAL, accepted)
    zeros = (*accepted[:1], (4, ({"a": 0.0},)), *accepted[2:])
    assert pack_norms(INITIAL, zeros) != pack_norms(INITIAL, accepted)


@pytest.mark.parametrize(
    ("place", "norm", "is_refused"),
    [
        (0, -1.0, True),  # theta_0 has every tensor
        (2, -1.0, True),
        (3, -1.0, False),
        (5, -1.0, False),
        (3, -2.0, True),
        (3, -0.5, True),
        (3, np.nextafter(-1.0, 0.0), True),
        (3, np.nextafter(-1.0, -2.0), True),
        (3, -np.inf, True),
        (3, np.nan, True),
        (3, -0.0, False),
    ],
)
def test_hostile_norms(place: int, norm: float, is_refused: bool) -> None:
    accepted = ((3, ({"a": 0.5, "b": 1.0, "c": 1.0},)),)
    values = np.frombuffer(pack_norms(INITIAL, accepted), "<f8").copy()
    values[place] = norm
    text = base64.b64encode(values.tobytes()).decode()
    if is_refused:
        with pytest.raises(ValueError, match="negative or not finite"):
            parse_norms(text, count_accepted(accepted), sorted(INITIAL))
        return
    _, ((_, (row,)),) = parse_norms(text, count_accepted(accepted), sorted(INITIAL))
    assert (sorted(INITIAL)[place - 3] in row) == (norm != -1.0)
