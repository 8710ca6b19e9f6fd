"""Bits are made equal: the same payloads give the same theta in every process that we can vary.

The golden file holds payload frames and the digests that they led to when it was written.
It pins the arithmetic across versions and machines; rewrite it (and start a new run) only
after a change of the outer step that is meant:
TESSERA_REWRITE_GOLDEN=1 pytest tests/scenarios/test_bits.py
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from compression import exact_norm
from simulation.swarm import small_plan, synthetic_corpus
from simulation.world import hotkey_of
from template.commands.plan import RunChoices, prepare_run
from template.protocol.payload import (
    PayloadFormat,
    PayloadHeader,
    decode_payload,
    encode_payload,
    payload_digest,
)
from template.protocol.quorum import Decision
from template.protocol.root import Member, tensors_digest
from template.protocol.spec import CheckpointSpec, OuterSpec, RunSpec, parse_spec, spec_to_toml
from template.training.model import Params, tensor_shapes
from template.training.outer import (
    OuterState,
    apply_updates,
    first_state,
    outer_step,
)
from template.training.scorer import Scorer
from tests.support.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("outer_step.json")
REWRITE = "TESSERA_REWRITE_GOLDEN"

NUM_WINDOWS, NUM_MINERS = 3, 3
RULES = OuterSpec(
    outer_lr=0.7,
    min_divisor=2,
    max_staleness=2,
    staleness_decay=0.6,
    clip_factor=1.5,
    clip_windows=16,
    initial_norm_share=0.1,
    initial_norm_floor=1e-3,
    max_energy_share=0.25,
    peers_per_step=20,
    alpha_windows=24,
    reference_windows=500,
    min_reference_rao=0,
    max_length_ratio=1.1,
)
SHAPES = {"b.bias": (37,), "a.weight": (70, 130), "c.long": (4100,)}


def _small_spec() -> RunSpec:
    plan = small_plan(model__hidden_size=16, model__intermediate_size=24, data__page_tokens=16)
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=16)
    spec = prepare_run(plan, synthetic_corpus(20_000), choices).spec
    checkpoint = CheckpointSpec(
        theta0_digest="00" * 32, every_windows=2, digest_every_windows=1, part_bytes=2**20
    )
    return dataclasses.replace(spec, outer=RULES, checkpoint=checkpoint)


def _integer_params(shapes) -> Params:
    """Values in [-1, 1) made with integers, so that no library's generator has a say."""
    params, start = {}, 1
    for name in sorted(shapes):
        numel = int(np.prod(shapes[name]))
        words = (np.arange(start, start + numel, dtype=np.uint64) * 2654435761) % 2**24
        values = (words.astype(np.float32) - 2**23) / 2**23
        params[name] = torch.from_numpy(values).view(shapes[name])
        start += numel
    return params


def _frames(form: PayloadFormat) -> list[list[bytes]]:
    """[window][miner]: payloads of growing size, the later ones stale."""
    generator = torch.Generator().manual_seed(11)
    windows = []
    for window in range(NUM_WINDOWS):
        frames = []
        for miner in range(NUM_MINERS):
            header = PayloadHeader(
                window=window,
                base_window=window - min(window, miner),
                pages_consumed=1,
                public_key=bytes([miner]) * 32,
            )
            dense = {
                name: torch.randn(shape, generator=generator) * 10.0 ** (miner - 2)
                for name, shape in form.shapes.items()
            }
            frames.append(encode_payload(header, dense, form)[0])
        windows.append(frames)
    return windows


def _decision(window: int, frames: list[bytes]) -> Decision:
    members = tuple(
        Member(
            uid=uid,
            hotkey=f"m{uid}",
            public_key=bytes([uid]) * 32,
            coldkey=bytes([uid]) * 32,
            digest=payload_digest(f),
        )
        for uid, f in enumerate(frames)
    )
    return Decision(
        window=window,
        members=members,
        namers={m.uid: () for m in members},
        root=None,
        sample_digest=None,
        undelivered=(),
        dissenters=(),
        voting_stake_rao=1,
        reference_rao=1,
        no_op="",
    )


def _walk(state: OuterState, frames, form: PayloadFormat, spec: RunSpec, between=None):
    """(root, tensor digest) after each window; `between` runs before each step."""
    said = []
    for window, members in enumerate(frames):
        payloads = {uid: decode_payload(f, form) for uid, f in enumerate(members)}
        if between is not None:
            payloads = between(state, payloads)
        state = outer_step(state, _decision(window, members), payloads, spec)
        said.append((state.root.hex(), tensors_digest(state.params).hex()))
    return said


def _golden_form() -> PayloadFormat:
    return PayloadFormat(run_id=bytes(range(16)), shapes=SHAPES, top_k=64)


def _golden_walk(frames: list[list[bytes]], device: str) -> list[tuple[str, str]]:
    form = _golden_form()
    start = first_state(_integer_params(SHAPES), form.run_id)
    moved = {name: tensor.to(device) for name, tensor in start.params.items()}
    return _walk(dataclasses.replace(start, params=moved), frames, form, _small_spec())


@pytest.fixture(scope="module")
def golden() -> dict:
    if os.environ.get(REWRITE):
        frames = _frames(_golden_form())
        table = {
            "frames": [[frame.hex() for frame in window] for window in frames],
            "after": [list(pair) for pair in _golden_walk(frames, "cpu")],
        }
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(table, indent=1) + "\n")
    return json.loads(GOLDEN.read_text())


def _frames_of(golden: dict) -> list[list[bytes]]:
    return [[bytes.fromhex(frame) for frame in window] for window in golden["frames"]]


def test_golden_frames_lead_to_the_golden_digests(golden) -> None:
    after = _golden_walk(_frames_of(golden), "cpu")
    assert [list(pair) for pair in after] == golden["after"]
    assert len({digest for _, digest in after}) == NUM_WINDOWS


@pytest.mark.parametrize("num_threads", [1, 2])
def test_threads_do_not_move_a_golden_bit(num_threads: int, golden) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        after = _golden_walk(_frames_of(golden), "cpu")
    finally:
        torch.set_num_threads(before)
    assert [list(pair) for pair in after] == golden["after"]


@pytest.mark.slow
def test_threads_do_not_move_a_bit_of_a_tensor_large_enough_to_share_out() -> None:
    """2^22 elements and 2^16 values in 1,024 chunks, which are four pieces of work."""
    generator = torch.Generator().manual_seed(3)
    theta = torch.randn(2048, 2048, generator=generator)
    form = PayloadFormat(run_id=bytes(16), shapes={"a": (2048, 2048)}, top_k=64)
    header = PayloadHeader(window=0, base_window=0, pages_consumed=1, public_key=bytes(32))
    dense = {"a": torch.randn(2048, 2048, generator=generator)}
    payload = decode_payload(encode_payload(header, dense, form)[0], form)
    expected, sparse = theta.numpy().copy().reshape(-1), payload.tensors["a"]
    expected[sparse.indices.numpy()] += sparse.values.numpy() * np.float32(-0.1)
    before, seen = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2):
            torch.set_num_threads(num_threads)
            after = apply_updates({"a": theta}, [(payload, {"a": 0.1})])["a"]
            assert np.array_equal(after.numpy().reshape(-1), expected)
            seen.append((tensors_digest({"a": after}), exact_norm(after)))
    finally:
        torch.set_num_threads(before)
    assert seen[0] == seen[1]


@pytest.mark.gpu
def test_a_gpu_computes_the_golden_bits(golden) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    after = _golden_walk(_frames_of(golden), "cuda")
    assert [list(pair) for pair in after] == golden["after"]


def test_one_bit_of_one_frame_is_seen(golden) -> None:
    frames = _frames_of(golden)
    last = bytearray(frames[0][0])
    last[-1] ^= 0b10000000
    frames[0][0] = bytes(last)
    after = _golden_walk(frames, "cpu")
    assert all(list(a) != g for a, g in zip(after, golden["after"], strict=True))


_CHILD = """
import json, sys
from pathlib import Path
from tests.scenarios.test_bits import walk_folder
folder, threads, batch_pages, backwards = sys.argv[1:]
print(json.dumps(walk_folder(Path(folder), int(threads), int(batch_pages), backwards == "yes")))
"""


def walk_folder(
    folder: Path, num_threads: int, batch_pages: int, backwards: bool
) -> list[tuple[str, str]]:
    """What a node does between two steps, with its own threads, batches and order of arrival."""
    torch.set_num_threads(num_threads)
    spec = parse_spec((folder / "run.toml").read_text())
    form = PayloadFormat(run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=64)
    frames = [
        [(folder / f"{w}-{m}").read_bytes() for m in range(NUM_MINERS)] for w in range(NUM_WINDOWS)
    ]
    scorer = Scorer(spec, "cpu", batch_pages=batch_pages)
    pages = np.random.default_rng(batch_pages).integers(0, 256, size=(20, spec.data.page_tokens))

    def between(state, payloads):
        scorer.load(state.params)
        for payload in payloads.values():
            with scorer.stepped(payload.tensors, dict.fromkeys(payload.tensors, 0.1)):
                scorer.losses(pages)
        restored = dataclasses.replace(state, params=scorer.params())
        assert tensors_digest(restored.params) == tensors_digest(state.params)
        return dict(reversed(payloads.items())) if backwards else payloads

    start = first_state(_integer_params(form.shapes), spec.run_id)
    return _walk(start, frames, form, spec, between)


def _in_another_process(*argv: object) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", _CHILD, *map(str, argv)]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_processes_of_different_threads_batches_and_order_agree(tmp_path) -> None:
    spec = _small_spec()
    form = PayloadFormat(run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=64)
    (tmp_path / "run.toml").write_text(spec_to_toml(spec))
    for window, members in enumerate(_frames(form)):
        for miner, frame in enumerate(members):
            (tmp_path / f"{window}-{miner}").write_bytes(frame)
    process = _in_another_process(tmp_path, 2, 7, "yes")
    before = torch.get_num_threads()
    try:
        one = walk_folder(tmp_path, 1, 64, backwards=False)
    finally:
        torch.set_num_threads(before)
    other = [tuple(pair) for pair in json.loads(process.communicate(timeout=HANG_S)[0])]
    assert one == other
    assert len({digest for _, digest in one}) == NUM_WINDOWS
