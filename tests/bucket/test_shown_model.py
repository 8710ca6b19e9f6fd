"""A validator shows each checkpoint's model in bfloat16, after the checkpoint and beside it."""

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.bucket.carried import Companions
from template.bucket.publisher import Publisher
from template.data.tokenizer import ByteTokenizer
from template.protocol.keys import checkpoint_manifest_key, model_key
from template.store.memory import MemoryStore
from template.training.card import CARD_FILE, FACTS_FILE
from template.training.companions import COMPANIONS, companion_files
from template.training.model import initial_params, load_params, model_config
from template.training.model_folder import INDEX_FILE
from template.training.outer import OuterState, first_state, state_digest
from template.training.published import CONFIG_FILE

WINDOW = 8


class Ordered(MemoryStore):
    """A bucket that knows in which order it was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []

    def put(self, key: str, data: bytes) -> None:
        self.written.append(key)
        super().put(key, data)


@pytest.fixture(scope="module")
def world() -> World:
    return build_world({"owner": 0, "val-a": 1000}, checkpoint__part_bytes=2**13)


@pytest.fixture
def bucket() -> Ordered:
    return Ordered()


@pytest.fixture
def context(world, bucket, tmp_path):
    return dataclasses.replace(world.context(hotkey_of("val-a"), tmp_path / "s"), bucket=bucket)


@pytest.fixture(scope="module")
def state(world) -> OuterState:
    start = first_state(initial_params(world.spec, seed=1), world.spec.run_id)
    state = dataclasses.replace(start, window=WINDOW)
    return dataclasses.replace(state, checkpoint_digest=state_digest(state))


@pytest.fixture
def publisher(world, context) -> Publisher:
    files = companion_files(world.spec, ByteTokenizer.entry, b"")
    publisher = Publisher(context)
    publisher.carried.add(world.spec, Companions(entry=ByteTokenizer.entry, files=files))
    publisher.show()
    return publisher


def _never() -> bool:
    return False


def _download(world: World, bucket: MemoryStore, folder: Path) -> set[str]:
    """Copies the model's folder out of the bucket; the names of the files."""
    prefix = model_key(world.spec.run_id, WINDOW, "")
    for key in bucket.list(prefix):
        (folder / key.removeprefix(prefix)).write_bytes(bucket.get(key, max_bytes=2**24))
    return {path.name for path in folder.iterdir()}


def test_a_plain_download_loads_with_the_rounded_numbers(
    world, bucket, publisher, state, tmp_path
) -> None:
    publisher.offer_checkpoint(state)
    assert publisher.push(_never)
    folder = tmp_path / "model"
    folder.mkdir()
    names = _download(world, bucket, folder)
    assert {*COMPANIONS, CONFIG_FILE, INDEX_FILE, CARD_FILE, FACTS_FILE} <= names
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    assert theirs.dtype == torch.bfloat16
    config = model_config(world.spec)
    ours = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    load_params(ours, state.params)
    tokens = torch.arange(32).view(2, 16)
    with torch.no_grad():
        assert torch.equal(theirs(input_ids=tokens).logits, ours(input_ids=tokens).logits)
    card = (folder / CARD_FILE).read_text()
    assert "bfloat16, rounded to nearest" in card
    assert "not measured" in card
    values = sum(tensor.numel() for tensor in state.params.values())
    weights = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
    assert 2 * values < weights < 2.2 * values


def test_the_checkpoint_comes_first_and_the_config_last(world, bucket, publisher, state) -> None:
    publisher.offer_checkpoint(state)
    assert publisher.push(_never)
    manifest = bucket.written.index(checkpoint_manifest_key(world.spec.run_id, WINDOW))
    shown = [key for key in bucket.written if "/model/" in key]
    assert shown == bucket.written[manifest + 1 :]
    assert shown[-1] == model_key(world.spec.run_id, WINDOW, CONFIG_FILE)


def test_a_restart_half_way_ends_the_folder(world, context, bucket, publisher, state) -> None:
    publisher.offer_checkpoint(state)
    manifest_key = checkpoint_manifest_key(world.spec.run_id, WINDOW)
    while manifest_key not in bucket.written:
        publisher.push(lambda: True)
    config = model_key(world.spec.run_id, WINDOW, CONFIG_FILE)
    assert config not in bucket.written
    again = Publisher(context)
    again.show()
    again.offer_missing_checkpoint(state)
    assert again.push(_never)
    assert config in bucket.written
    written = len(bucket.written)
    again = Publisher(context)
    again.show()
    again.offer_missing_checkpoint(state)
    assert again.push(_never)
    assert len(bucket.written) == written


def test_without_the_flag_nothing_is_shown(bucket, context, state) -> None:
    publisher = Publisher(context)
    publisher.offer_checkpoint(state)
    assert publisher.push(_never)
    assert not [key for key in bucket.written if "/model/" in key]
