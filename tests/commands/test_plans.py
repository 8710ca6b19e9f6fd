"""Plans of real sizes: each is a spec, has the sizes in its comment, and fits its windows."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from template.errors import ObjectError
from template.protocol.parts import group_tensors, part_length
from template.protocol.spec import RunSpec
from template.protocol.spec.model import MAX_PARAMETERS, count_parameters
from template.protocol.spec.plan import RunChoices, check_plan, load_plan
from template.store.multipart import MAX_PART_NUMBER, PART_BYTES, split
from template.store.ranges import Cursor
from template.store.s3 import MAX_OBJECT_BYTES
from template.training.companions import COMPANIONS
from template.training.flops import flops_per_token
from template.training.model import payload_bytes, tensor_shapes
from template.training.published import (
    CONFIG_FILE,
    FORMAT,
    checkpoint_limit_bytes,
    parse_published,
    part_names,
    published_limit_bytes,
)
from template.training.theta0 import index_length, theta0_bytes

ROOT = Path(__file__).parents[2]
OWNER = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
BLOCK_S = 12
HOME_UP, HOME_DOWN = 110e6 / 8, 500e6 / 8
"""Bytes a second of Covenant's miners (arXiv 2603.08163, section 4.3)."""
DEVICE_BYTES_PER_PARAMETER = 18
"""Master and gradient in float32, both moments, and the copy in bf16."""
SCORING_FLOPS = 50e12
"""Of one GPU in float32."""
PARAMETERS = {
    "150m": 151_023_360,
    "1b": 1_235_814_400,
    "8b": 8_030_261_248,
    "72b": 72_747_327_488,
}
"""1b, 8b and 72b: the published counts of Llama 3.2 1B, Llama 3.1 8B and Covenant-72B."""
SCORING_DEVICES = {"72b": 8}


def _path(name: str) -> Path:
    return ROOT / "runs" / f"{name}.toml"


@pytest.fixture(params=list(PARAMETERS))
def name(request) -> str:
    return request.param


@pytest.fixture
def spec(name: str) -> RunSpec:
    choices = RunChoices(owner_hotkey=OWNER, start_block=1000)
    return check_plan(_path(name), load_plan(_path(name)), choices)


def _sizes(spec: RunSpec) -> str:
    """The comment on sizes at the head of a plan."""
    parameters = count_parameters(spec.model)
    trained_bytes = DEVICE_BYTES_PER_PARAMETER * parameters
    lines = {
        "parameters": f"{parameters:,}",
        "payload": f"{payload_bytes(spec):,} bytes",
        "theta_0": f"{theta0_bytes(spec):,} bytes",
        "checkpoint": f"{checkpoint_limit_bytes(spec):,} bytes at most",
        "miner's device": f"{trained_bytes / 1e9:,.1f} GB and activations",
        "validator's device": f"{4 * parameters / 1e9:,.1f} GB and one forward pass",
    }
    return "".join(f"#   {what + ':':<20}{value}\n" for what, value in lines.items())


def test_the_plan_has_the_parameters_of_its_name(name: str, spec: RunSpec) -> None:
    assert count_parameters(spec.model) == PARAMETERS[name] <= MAX_PARAMETERS


def test_the_comment_says_what_follows_from_the_plan(name: str, spec: RunSpec) -> None:
    assert f"\n{_sizes(spec)}name = " in _path(name).read_text(encoding="utf-8"), _sizes(spec)


def test_payloads_travel_within_their_phases(spec: RunSpec) -> None:
    """Over a home's connection: up before the deadline, and the accepted down in half a window."""
    schedule, num_bytes = spec.schedule, payload_bytes(spec)
    assert num_bytes / HOME_UP < schedule.upload_blocks * BLOCK_S / 2
    accepted = spec.outer.peers_per_step * num_bytes
    assert accepted / HOME_DOWN < schedule.blocks_per_window * BLOCK_S / 2


def test_the_sampled_payloads_are_scored_in_time(name: str, spec: RunSpec) -> None:
    evaluation, schedule = spec.evaluation, spec.schedule
    count = evaluation.max_payloads
    # Each payload on the held-out pages and its own; theta on all, and half-way on the former.
    pages = (count + 2) * evaluation.held_out_pages + 2 * count * evaluation.claimed_pages
    forward = flops_per_token(spec) / 3 * spec.data.page_tokens * pages
    seconds = forward / (SCORING_FLOPS * SCORING_DEVICES.get(name, 1))
    assert seconds < schedule.scoring_blocks * BLOCK_S


def test_the_small_plan_is_a_model_of_5_million_parameters_on_a_vocabulary_of_4096() -> None:
    path = _path("small")
    spec = check_plan(path, load_plan(path), RunChoices(owner_hotkey=OWNER, start_block=1000))
    assert count_parameters(spec.model) == 5_065_472
    assert f"# parameters: {5_065_472:,}" in path.read_text(encoding="utf-8")
    assert (spec.model.vocab_size, spec.data.tokenizer) == (4096, "bpe-4096")
    # The last checkpoint holds all windows but one, and is proven by the run's last vote.
    assert spec.schedule.num_windows >= 12
    assert spec.schedule.num_windows % spec.checkpoint.every_windows == 0


def test_the_tensors_lie_in_a_number_of_files_that_a_manifest_holds(spec: RunSpec) -> None:
    assert theta0_bytes(spec) / spec.checkpoint.part_bytes < 4096


@pytest.mark.parametrize("name", ["8b", "72b"])
def test_a_tensor_larger_than_a_part_passes_every_limit_on_files(spec: RunSpec) -> None:
    """The embeddings are one file each: 1.6 GB for 8b, 6.4 GB for 72b."""
    shapes, part_bytes = tensor_shapes(spec), spec.checkpoint.part_bytes
    groups = group_tensors(shapes, part_bytes)
    assert ["lm_head.weight"] in groups
    assert ["model.embed_tokens.weight"] in groups
    lengths = [part_length({name: shapes[name] for name in group}) for group in groups]
    largest = max(lengths)
    assert largest > 3 * spec.model.vocab_size * spec.model.hidden_size > part_bytes
    assert sum(lengths) + index_length(spec) == theta0_bytes(spec)
    # Up: in parts that S3 takes, none of them longer than a single put; down: as long as asked.
    parts = split(largest, PART_BYTES)
    assert sum(part.num_bytes for part in parts) == largest <= MAX_OBJECT_BYTES
    assert len(parts) <= MAX_PART_NUMBER
    cursor = Cursor(position=largest - 1)
    assert not cursor.accept(1, f"bytes {largest - 1}-{largest - 1}/{largest}", "tag")
    # A manifest that lists it is parsed, and short enough to be read.
    parsed = parse_published(_manifest(spec, lengths), spec)
    assert [part.num_bytes for part in parsed.parts] == lengths
    with pytest.raises(ObjectError, match="another length than the run's"):
        parse_published(_manifest(spec, [*lengths[:-1], 2 * largest]), spec)


def _manifest(spec: RunSpec, lengths: Sequence[int]) -> bytes:
    """A checkpoint's manifest with parts of these lengths, and norms as long as they may be."""
    names = [CONFIG_FILE, *COMPANIONS, *part_names(len(lengths))]
    sizes = [10**6] * (len(names) - len(lengths)) + list(lengths)
    files = [
        {"name": name, "sha256": "f" * 64, "bytes": size}
        for name, size in zip(names, sizes, strict=True)
    ]
    head = {"format": FORMAT, "run_id": spec.run_id.hex(), "files": files}
    shortest = len(json.dumps(head | {"state": {"norms": ""}}).encode())
    room = published_limit_bytes(spec) - shortest
    assert room > 0
    return json.dumps(head | {"state": {"norms": "x" * room}}).encode()
