"""Models of each size, and the files that the measured processes read."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.evaluation.loss_tolerance import OWNER, ROOT
from template.data.kept import KeptFiles
from template.protocol.payload import (
    Frame,
    PayloadFormat,
    PayloadHeader,
    encode_payload,
    payload_digest,
)
from template.protocol.root import Member
from template.protocol.spec import RunSpec
from template.protocol.spec.plan import RunChoices, draft_spec, load_plan
from template.training.model import initial_params, tensor_shapes
from template.training.spread import Spreader
from template.training.theta0 import build_theta0, load_theta0

SIZES = {"1M": (96, 256, 9), "10M": (256, 704, 12), "100M": (768, 2048, 14)}
"""Hidden size, size of the MLP, layers."""
HEAD_SIZE = 32
PAGE_TOKENS = 64
BATCH_PAGES = 2
NUM_PAYLOADS = 20
NUM_BODIES = 4
"""Different bodies; each serves several miners."""
PART_BYTES = 2**26
WINDOW, KEY_BYTES = 1, 32


def spec_of(size: str, theta0_digest: str = "00" * 32) -> RunSpec:
    """A run with a model of this size; all else as on the localnet."""
    hidden, intermediate, layers = SIZES[size]
    plan = load_plan(ROOT / "runs" / "localnet.toml")
    plan["model"] |= {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // HEAD_SIZE,
        "num_key_value_heads": hidden // HEAD_SIZE,
    }
    plan["data"] |= {"page_tokens": PAGE_TOKENS}
    plan["checkpoint"] |= {"part_bytes": PART_BYTES, "every_windows": 1000}
    spec = draft_spec(plan, RunChoices(owner_hotkey=OWNER, start_block=100))
    checkpoint = dataclasses.replace(spec.checkpoint, theta0_digest=theta0_digest)
    return dataclasses.replace(spec, checkpoint=checkpoint)


def form_of(spec: RunSpec) -> PayloadFormat:
    """The layout of the run's payloads."""
    return PayloadFormat(
        run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=spec.compression.top_k
    )


def blobs_in(folder: Path) -> KeptFiles:
    """The parts of theta_0."""
    return KeptFiles(folder / "blobs", ".blob")


def write_world(size: str, folder: Path) -> None:
    """theta_0 and the payloads' bodies."""
    spec = spec_of(size)
    params = initial_params(spec, seed=1)
    digest, blobs = build_theta0(params, PART_BYTES)
    for name, data in blobs.items():
        blobs_in(folder).put(name, data)
    (folder / "theta0").write_text(digest.hex(), "ascii")
    spec = read_spec(size, folder)  # the run's id follows from theta_0
    form = form_of(spec)
    for number in range(NUM_BODIES):
        torch.manual_seed(number)
        dense = {name: 1e-3 * torch.randn(shape) for name, shape in form.shapes.items()}
        frame, _ = encode_payload(_header(bytes(KEY_BYTES), spec), dense, form)
        (folder / f"{number}.frame").write_bytes(frame)


def read_spec(size: str, folder: Path) -> RunSpec:
    """The run of `write_world`."""
    return spec_of(size, (folder / "theta0").read_text("ascii"))


def read_theta0(
    spec: RunSpec, folder: Path, spreader: Spreader | None = None
) -> Mapping[str, Tensor]:
    """theta_0 from its parts, each compared with its digest; here, or with `spreader`."""

    def read(digest: bytes, num_bytes: int) -> bytes:
        data = blobs_in(folder).get(digest, num_bytes)
        if data is None:
            raise FileNotFoundError(f"{folder}: no part {digest.hex()}")
        return data

    return load_theta0(read, spec, spreader=spreader)


def _header(key: bytes, spec: RunSpec) -> PayloadHeader:
    return PayloadHeader(
        window=WINDOW,
        base_window=WINDOW,
        pages_consumed=spec.training.pages_per_window,
        public_key=key,
    )


def read_frames(spec: RunSpec, folder: Path) -> list[tuple[Member, bytes]]:
    """The frames of `NUM_PAYLOADS` miners."""
    form, found = form_of(spec), list[tuple[Member, bytes]]()
    body = form.num_bytes - form.plan.num_bytes
    for uid in range(NUM_PAYLOADS):
        key = bytes([uid + 1]) * KEY_BYTES
        data = (folder / f"{uid % NUM_BODIES}.frame").read_bytes()
        # The key ends the header.
        frame = Frame(data[: body - KEY_BYTES] + key + data[body:])
        digest = payload_digest(frame)
        member = Member(uid=uid, hotkey=f"m{uid}", public_key=key, coldkey=key, digest=digest)
        found.append((member, frame))
    return found


def num_params(spec: RunSpec) -> int:
    """Parameters of the run's model."""
    return sum(math.prod(shape) for shape in tensor_shapes(spec).values())
