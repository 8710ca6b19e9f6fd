"""theta_0 in parts: whatever the size of the model, no object is larger than a part."""

import dataclasses
import hashlib
from collections.abc import Mapping
from functools import partial

import pytest
import torch

from template.errors import ObjectError
from template.protocol.parts import hash_parts
from template.protocol.root import tensors_digest
from template.protocol.spec import RunSpec
from template.training.theta0 import (
    build_theta0,
    index_length,
    load_theta0,
    parse_index,
    theta0_bytes,
)


@pytest.fixture(params=[2**20, 4096, 1])
def cut(request, spec) -> RunSpec:
    """The run with one part, with a few, and with one for each tensor."""
    return dataclasses.replace(
        spec, checkpoint=dataclasses.replace(spec.checkpoint, part_bytes=request.param)
    )


def _named(spec: RunSpec, digest: bytes) -> RunSpec:
    checkpoint = dataclasses.replace(spec.checkpoint, theta0_digest=digest.hex())
    return dataclasses.replace(spec, checkpoint=checkpoint)


def _read(blobs: Mapping[bytes, bytes], digest: bytes, _num_bytes: int) -> bytes:
    return blobs[digest]


def test_it_comes_back_from_its_parts(cut, theta0) -> None:
    digest, blobs = build_theta0(theta0, cut.checkpoint.part_bytes)
    assert all(hashlib.sha256(data).digest() == name for name, data in blobs.items())
    spec = _named(cut, digest)
    read: list[int] = []

    def get(name: bytes, num_bytes: int) -> bytes:
        assert len(blobs[name]) == num_bytes
        read.append(num_bytes)
        return blobs[name]

    params = load_theta0(get, spec)
    assert tensors_digest(params) == tensors_digest(theta0)
    assert sum(read) == theta0_bytes(spec) == sum(map(len, blobs.values()))
    assert read[0] == index_length(spec) == 32 * (len(blobs) - 1)


def test_its_parts_are_those_of_a_checkpoint_of_it(cut, theta0) -> None:
    """A bucket that has theta_0 has the first checkpoint's tensors that nobody moved."""
    digest, blobs = build_theta0(theta0, cut.checkpoint.part_bytes)
    parts = [name for name, _ in parse_index(blobs[digest], cut)]
    assert tuple(parts) == hash_parts(theta0, cut.checkpoint.part_bytes)


@pytest.mark.parametrize("change", [1, -1, 32, -32])
def test_an_index_of_another_model_is_refused(change: int, cut, theta0) -> None:
    digest, blobs = build_theta0(theta0, cut.checkpoint.part_bytes)
    index = blobs[digest] + bytes(change) if change > 0 else blobs[digest][:change]
    with pytest.raises(ObjectError, match="an index of"):
        parse_index(index, cut)


def test_tensors_of_another_model_or_not_finite_are_refused(cut, theta0) -> None:
    name = "model.norm.weight"
    for bad in (theta0[name] * float("nan"), theta0[name][:-1], theta0[name].to(torch.float32) + 1):
        changed = {**theta0, name: bad}
        digest, blobs = build_theta0(changed, cut.checkpoint.part_bytes)
        spec = _named(cut, digest)
        if bad.shape == theta0[name].shape and torch.isfinite(bad).all():
            assert load_theta0(partial(_read, blobs), spec)[name].equal(bad)
            continue
        with pytest.raises(ObjectError, match="checkpoint: refused"):
            load_theta0(partial(_read, blobs), spec)
