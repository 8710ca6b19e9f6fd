"""The published checkpoint: the same bytes from every node, exactly the state, and no more believed
than it proves.
"""

import base64
import dataclasses
import hashlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from transformers import LlamaConfig

from template.data.tokenizer import ByteTokenizer
from template.errors import ObjectError
from template.protocol.parts import part_header
from template.protocol.spec import RunSpec
from template.training.checkpoint import (
    carried_values,
    restored_state,
)
from template.training.companions import (
    COMPANIONS,
    GENERATION_FILE,
    MAX_COMPANIONS_BYTES,
    companion_files,
)
from template.training.model import model_config, tensor_shapes
from template.training.norms import pack_norms
from template.training.outer import OuterState, state_digest
from template.training.published import (
    CONFIG_FILE,
    Published,
    PublishedManifest,
    build_checkpoint,
    checkpoint_limit_bytes,
    layout_of,
    parse_published,
    part_names,
    published_limit_bytes,
    restore_published,
)
from tests.support.states import equal_states

GOLDEN = {
    "one part": "fdacb690411e4377d19a520b26ac2af50527920f3af6baa89a9cb28e0d0b6ada",
    "parts": "cd576e194a4e7661f30a1cab97f26fb738fb0f597d70af60fd78351f0d1b01d5",
}
"""SHA-256 over manifest and files of `_plain_state`: another value is another format."""


def _of_parts(spec: RunSpec, part_bytes: int) -> RunSpec:
    return dataclasses.replace(
        spec, checkpoint=dataclasses.replace(spec.checkpoint, part_bytes=part_bytes)
    )


@pytest.fixture(params=[2**20, 4096, 1])
def cut(request, spec) -> RunSpec:
    """The run with one part, with a few, and with one for each tensor."""
    return _of_parts(spec, request.param)


@pytest.fixture
def parted(spec) -> RunSpec:
    return _of_parts(spec, 4096)


def _parts(published: Published, manifest: PublishedManifest) -> list[bytes]:
    return [published.blobs[part.digest] for part in manifest.parts]


def _of(state: OuterState) -> OuterState:
    """The state at a window with a checkpoint."""
    return dataclasses.replace(state, checkpoint_digest=state_digest(state))


def _built(state: OuterState, spec: RunSpec) -> Published:
    return build_checkpoint(_of(state), spec)


def _edited(published: Published, edit) -> bytes:
    table = json.loads(published.manifest)
    edit(table)
    return json.dumps(table).encode()


def test_it_comes_back_bit_for_bit(state, cut) -> None:
    published = _built(state, cut)
    assert all(hashlib.sha256(data).digest() == d for d, data in published.blobs.items())
    manifest = parse_published(published.manifest, cut)
    assert {f.digest for f in manifest.files} == published.blobs.keys()
    assert all(f.num_bytes == len(published.blobs[f.digest]) for f in manifest.files)
    restored = restore_published(manifest, iter(_parts(published, manifest)), cut)
    assert equal_states(restored, _of(state))


def test_every_node_publishes_the_same_bytes(state, cut) -> None:
    """Whatever order and memory its tensors have."""
    shuffled = {n: state.params[n].clone() for n in sorted(state.params, reverse=True)}
    assert _built(dataclasses.replace(state, params=shuffled), cut) == _built(state, cut)


def _plain_state(state: OuterState, spec: RunSpec) -> OuterState:
    """A state without drawn numbers: they are not the same everywhere."""
    params = {
        name: torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape) / 8
        for name, shape in tensor_shapes(spec).items()
    }
    norms = dict.fromkeys(params, 0.5)
    plain = dataclasses.replace(
        state,
        params=params,
        root=bytes(32),
        initial_norms=norms,
        accepted_norms=((5, (norms,)),),
    )
    return dataclasses.replace(plain, checkpoint_digest=state_digest(plain))


@pytest.mark.parametrize(("name", "part_bytes"), [("one part", 2**20), ("parts", 4096)])
def test_the_bytes_are_those_of_the_format(name, part_bytes, state, spec) -> None:
    zeros = "00" * 32
    spec = dataclasses.replace(
        _of_parts(spec, part_bytes),
        data=dataclasses.replace(spec.data, manifest_digest=zeros),
    )
    spec = dataclasses.replace(
        spec, checkpoint=dataclasses.replace(spec.checkpoint, theta0_digest=zeros)
    )
    published = _built(_plain_state(state, spec), spec)
    table = json.loads(published.manifest)
    assert table.pop("run_id") == spec.run_id.hex()
    digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode())
    for data in published.blobs.values():
        digest.update(data)
    assert digest.hexdigest() == GOLDEN[name]


def test_companions_are_listed_and_change_nothing_else(state, cut) -> None:
    companions = companion_files(cut, ByteTokenizer.entry, b"")
    assert companions.keys() == COMPANIONS
    state = _of(state)
    published, plain = build_checkpoint(state, cut, companions), build_checkpoint(state, cut)
    manifest = parse_published(published.manifest, cut)
    found = {file.name: published.blobs[file.digest] for file in manifest.files}
    assert companions.items() <= found.items()
    assert manifest.parts == parse_published(plain.manifest, cut).parts
    assert sum(map(len, companions.values())) <= MAX_COMPANIONS_BYTES
    restored = restore_published(manifest, iter(_parts(published, manifest)), cut)
    assert equal_states(restored, state)


def test_a_companion_named_twice_is_refused(state, cut) -> None:
    published = build_checkpoint(state, cut, companion_files(cut, ByteTokenizer.entry, b""))

    def edit(table) -> None:
        table["files"] += [e for e in table["files"] if e["name"] == GENERATION_FILE]

    with pytest.raises(ObjectError, match="do not fit this layout"):
        parse_published(_edited(published, edit), cut)


@pytest.mark.parametrize("cut", [2**20], indirect=True)
def test_one_part_keeps_the_plain_name(state, cut) -> None:
    manifest = parse_published(_built(state, cut).manifest, cut)
    assert {f.name for f in manifest.files} == {CONFIG_FILE, "theta.safetensors"}


def test_parts_are_filled_in_name_order_up_to_the_limit(state, parted) -> None:
    published = _built(state, parted)
    manifest = parse_published(published.manifest, parted)
    assert [part.name for part in manifest.parts] == part_names(len(manifest.parts))
    groups = [sorted(load(data)) for data in _parts(published, manifest)]
    assert [name for group in groups for name in group] == sorted(state.params)
    assert len(groups) > 2

    def size(names) -> int:
        return sum(4 * state.params[name].numel() for name in names)

    limit = parted.checkpoint.part_bytes
    assert all(size(group) <= limit or len(group) == 1 for group in groups)
    assert all(size([*one, other[0]]) > limit for one, other in pairwise(groups))


def test_a_part_may_be_exactly_full(state, spec) -> None:
    names = sorted(state.params)
    two = sum(4 * state.params[name].numel() for name in names[:2])
    for part_bytes, together in ((two, 2), (two - 1, 1)):
        cut = _of_parts(spec, part_bytes)
        published = _built(state, cut)
        first = parse_published(published.manifest, cut).parts[0]
        assert sorted(load(published.blobs[first.digest])) == names[:together]


def test_its_config_is_the_runs(state, spec, tmp_path: Path) -> None:
    published = _built(state, spec)
    (entry,) = [e for e in json.loads(published.manifest)["files"] if e["name"] == CONFIG_FILE]
    (tmp_path / CONFIG_FILE).write_bytes(published.blobs[bytes.fromhex(entry["sha256"])])
    found = LlamaConfig.from_pretrained(tmp_path).to_dict()
    ours = model_config(spec).to_dict()
    differing = {key for key in found.keys() | ours.keys() if found.get(key) != ours.get(key)}
    assert differing <= {"architectures", "dtype", "_name_or_path", "use_cache"}
    assert b"transformers_version" not in published.blobs[bytes.fromhex(entry["sha256"])]


def test_a_tampered_part_is_refused(state, parted) -> None:
    published = _built(state, parted)
    manifest = parse_published(published.manifest, parted)
    for index in range(len(manifest.parts)):
        parts = _parts(published, manifest)
        parts[index] = parts[index][:-1] + bytes([parts[index][-1] ^ 1])
        with pytest.raises(ObjectError, match="another digest"):
            restore_published(manifest, parts, parted)


def test_parts_in_another_order_or_number_are_refused(state, parted) -> None:
    published = _built(state, parted)
    manifest = parse_published(published.manifest, parted)
    parts = _parts(published, manifest)
    with pytest.raises(ObjectError, match="another digest"):
        restore_published(manifest, parts[::-1], parted)
    with pytest.raises(ValueError, match="shorter"):
        restore_published(manifest, parts[:-1], parted)


def test_tensors_that_are_not_those_of_the_checkpoint_digest_are_refused(state, cut) -> None:
    """Its publisher could name any file; the digest that enters the next root binds it."""
    name = sorted(state.params)[0]
    other = {**state.params, name: state.params[name] * 2}
    published = build_checkpoint(dataclasses.replace(_of(state), params=other), cut)
    manifest = parse_published(published.manifest, cut)
    with pytest.raises(ObjectError, match="checkpoint digest"):
        restore_published(manifest, _parts(published, manifest), cut)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"{}", b"\xff\xfe", b'{"format": 2}', b"[" * 100_000]
)
def test_bytes_that_are_no_manifest_are_refused(data: bytes, spec) -> None:
    with pytest.raises(ObjectError, match="checkpoint manifest"):
        parse_published(data, spec)


def test_a_manifest_of_another_run_or_format_is_refused(state, spec, other_spec) -> None:
    published = _built(state, spec)
    with pytest.raises(ObjectError, match="another run"):
        parse_published(published.manifest, other_spec)
    with pytest.raises(ObjectError, match="another run or format"):
        parse_published(_edited(published, lambda table: table.update(format=3)), spec)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window", float("inf")),
        ("window", "eight"),
        ("window", None),
        ("root", "zz"),
        ("accepted", [[1]]),
        ("accepted", 5),
        ("norms", []),
        ("norms", ""),
        ("norms", "AAAA"),
        ("norms", "@"),
        ("reference_rao", float("inf")),
        ("checkpoint_digest", 7),
    ],
)
def test_a_state_that_is_none_is_refused(field: str, value: object, state, spec) -> None:
    published = _built(state, spec)
    data = _edited(published, lambda table: table["state"].update({field: value}))

    def restore() -> None:
        manifest = parse_published(data, spec)
        restore_published(manifest, _parts(published, manifest), spec)

    with pytest.raises(ObjectError, match="checkpoint"):
        restore()


@pytest.mark.parametrize("carried", [None, [], "state", 7])
def test_a_state_that_is_no_table_is_refused(carried: object, state, spec) -> None:
    data = _edited(_built(state, spec), lambda table: table.update(state=carried))
    with pytest.raises(ObjectError, match="checkpoint manifest"):
        parse_published(data, spec)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bytes", float("inf")),
        ("bytes", "many"),
        ("bytes", None),
        ("bytes", [1]),
        ("bytes", True),
        ("bytes", 0),
        ("bytes", -1),
        ("bytes", 2**80),
        ("sha256", "00" * 31),
        ("sha256", "0X" * 32),
        ("sha256", None),
        ("sha256", "../../../etc/passwd"),
        ("name", None),
        ("name", ["theta.safetensors"]),
        ("name", "../theta.safetensors"),
        ("name", "/etc/theta.safetensors"),
        ("name", "pytorch_model.bin"),
        ("name", "theta-00001-of-00001.safetensors"),
        ("name", "model.safetensors"),
    ],
)
def test_a_file_entry_that_is_none_is_refused(field: str, value: object, state, cut) -> None:
    def edit(table) -> None:
        for entry in table["files"]:
            entry[field] = value

    with pytest.raises(ObjectError, match="checkpoint manifest"):
        parse_published(_edited(_built(state, cut), edit), cut)


@pytest.mark.parametrize(
    "edit",
    [
        lambda files: files.clear(),
        lambda files: files.pop(),
        lambda files: files.append(files[0]),
        lambda files: files.append({**files[0], "name": "modeling_llama.py"}),
        lambda files: files.extend([files[-1]] * 1000),
        lambda files: files.append(7),
    ],
)
def test_more_or_fewer_files_than_the_layout_has_are_refused(edit, state, cut) -> None:
    data = _edited(_built(state, cut), lambda table: edit(table["files"]))
    with pytest.raises(ObjectError, match="checkpoint manifest"):
        parse_published(data, cut)


@pytest.mark.parametrize("change", [-1, 1, 2**40])
def test_a_part_of_another_length_is_refused_before_it_is_read(change: int, state, cut) -> None:
    """A reader knows every length from the spec: three bytes a value, and the header."""
    published = _built(state, cut)
    parts = parse_published(published.manifest, cut).parts
    values = sum(tensor.numel() for tensor in state.params.values())
    headers = sum(len(part_header(part.shapes)) for part in layout_of(cut))
    assert sum(part.num_bytes for part in parts) == 3 * values + headers
    for index in range(len(parts)):

        def edit(table, name=parts[index].name) -> None:
            (entry,) = [e for e in table["files"] if e["name"] == name]
            entry["bytes"] += change

        with pytest.raises(ObjectError, match="another length than the run's"):
            parse_published(_edited(published, edit), cut)


def test_more_or_fewer_parts_than_the_runs_are_refused(state, spec, parted) -> None:
    """A run of another cut: the names say so."""
    for one, other in ((spec, parted), (parted, spec)):
        table = json.loads(_built(state, one).manifest) | {"run_id": other.run_id.hex()}
        with pytest.raises(ObjectError, match="do not fit this layout"):
            parse_published(json.dumps(table).encode(), other)


def test_a_theta_that_is_not_rounded_is_never_published(state, cut) -> None:
    """No byte is lost in silence."""
    name = sorted(state.params)[-1]
    other = {**state.params, name: state.params[name] + 2.0**-20}
    with pytest.raises(ValueError, match="more than 24 bits"):
        _built(dataclasses.replace(state, params=other), cut)


def test_the_limit_of_a_checkpoint_is_its_length_but_for_norms(state, cut) -> None:
    companions = companion_files(cut, ByteTokenizer.entry, b"")
    published = build_checkpoint(_of(state), cut, companions)
    num_bytes = sum(map(len, published.blobs.values()))
    spare = MAX_COMPANIONS_BYTES - sum(map(len, companions.values()))
    assert num_bytes + spare == checkpoint_limit_bytes(cut) - published_limit_bytes(cut)


def test_the_limit_of_a_manifest_is_above_the_largest_and_close(state, cut) -> None:
    """Every window full, every norm as long as a double can be written."""
    clip_windows = 5
    cut = dataclasses.replace(
        cut,
        outer=dataclasses.replace(cut.outer, clip_windows=clip_windows, peers_per_step=20),
    )
    norms = dict.fromkeys(state.params, 1.2345678901234567e-123)
    largest = _built(
        dataclasses.replace(
            state,
            window=2**32 - 1,
            initial_norms=norms,
            accepted_norms=tuple((2**32 - 1, (norms,) * 20) for _ in range(clip_windows)),
            reference_rao=2**64 - 1,
            checkpoint_digest=bytes(32),
        ),
        cut,
    ).manifest
    assert len(largest) <= published_limit_bytes(cut) <= 2 * len(largest)
    parse_published(largest, cut)
    with pytest.raises(ObjectError, match="bytes, at most"):
        parse_published(largest + b" " * published_limit_bytes(cut), cut)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window", -1),
        ("window", 2**32),
        ("window", "8"),
        ("window", True),
        ("root", "00" * 31),
        ("checkpoint_digest", "00" * 31),
        ("reference_rao", -1),
        ("reference_rao", 2**64),
        ("reference_rao", "7"),
        ("reference_rao", {"a": 1}),
        ("accepted", [[-1, 2], [7, 1]]),
        ("accepted", [[5, [7]]]),
        ("accepted", [[5, 2], [7, 0]]),
        ("accepted", [[5, 2**60], [7, 1]]),
        ("accepted", "ab"),
    ],
)
def test_a_state_beyond_its_bounds_is_refused_shortly(field, value, state, spec) -> None:
    carried = {**carried_values(state), field: value}
    with pytest.raises(ObjectError, match="state is malformed") as caught:
        restored_state(carried, state.params)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("norm", [-1.0, -2.0, float("inf"), float("nan"), -5e-324])
@pytest.mark.parametrize("place", [0, 5, -1])
def test_a_norm_beyond_its_bounds_is_refused(norm, place, state) -> None:
    if norm == -1.0 and place == -1:
        place = len(state.initial_norms) - 1  # in a payload's row: a tensor that it does not hold
    values = np.frombuffer(pack_norms(state.initial_norms, state.accepted_norms), "<f8").copy()
    values[place] = norm
    text = base64.b64encode(values.tobytes()).decode()
    with pytest.raises(ObjectError, match="state is malformed"):
        restored_state({**carried_values(state), "norms": text}, state.params)
