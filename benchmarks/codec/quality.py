"""Sizes and errors of the codec and of the baseline: nothing here is a time.

NMSE is the squared error over the squared norm, of the values that each side kept.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.codec import baseline
from benchmarks.codec.data import (
    COVENANT_PARAMS,
    covenant_spec,
    distributions,
    real_pseudo_gradients,
)
from benchmarks.codec.rice import rice_bits
from benchmarks.codec.shapes import num_params
from compression import SparseTensor, decode, encode_with_feedback, make_plan
from compression.chunking import BLOCK_SIDE, CHUNK_ELEMENTS, chunk_groups
from compression.indices import section_bytes
from compression.plan import Plan
from template.protocol.payload import PayloadFormat
from template.training.model import tensor_shapes

TOP_K = 64
RICE_BITS = 5
LENGTH_FIELD_BYTES = 4
"""A stream of variable length says how long it is, once per tensor."""
QUICK_SIDE, FULL_SIDE = 2048, 8192
QUICK_WINDOWS, FULL_WINDOWS = 8, 24


def quality(quick: bool) -> dict[str, Any]:
    """Of real tensors the matrices: of a vector of 64 we keep one value, the baseline all."""
    side = QUICK_SIDE if quick else FULL_SIDE
    nmse = {name: errors([{"x": dense}]) for name, dense in distributions(side, seed=7).items()}
    nmse["real"] = errors(
        {name: tensor for name, tensor in tensors.items() if tensor.dim() > 1}
        for tensors in real_pseudo_gradients(QUICK_WINDOWS if quick else FULL_WINDOWS, seed=0)
    )
    return {"nmse": nmse}


def errors(models: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    """NMSE over all tensors of all models together, of both sides."""
    sums = {"ours": [0.0, 0.0], "baseline": [0.0, 0.0]}
    for tensors in models:
        for side, pairs in (("ours", _our_pairs(tensors)), ("baseline", _their_pairs(tensors))):
            for kept, coded in pairs:
                sums[side][0] += float((kept - coded).double().square().sum())
                sums[side][1] += float(kept.double().square().sum())
    return {side: round(error / energy, 6) for side, (error, energy) in sums.items()}


def _our_pairs(tensors: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    plan = make_plan({name: tuple(t.shape) for name, t in tensors.items()}, TOP_K)
    residual = {name: torch.zeros_like(t) for name, t in tensors.items()}
    sparse = decode(encode_with_feedback(dict(tensors), residual, plan, decay=0.0), plan)
    return [(tensors[n].reshape(-1)[s.indices], s.values) for n, s in sparse.tensors.items()]


def _their_pairs(tensors: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [baseline.kept(t, baseline.encode_tensor(t, TOP_K)) for t in tensors.values()]


def sizes(body: bytes, packed: baseline.BaselinePayload, plan: Plan) -> dict[str, Any]:
    """Bytes and bits, of bodies of the timed model, and of the 72.7 B model's payload."""
    sparse = decode(body, plan)
    rice = sum(map(_rice_bytes, sparse.tensors.values()))
    elias_fano = sum(map(_elias_fano_bytes, sparse.tensors.values()))
    their_bytes = sum(t.num_bytes for t in packed.values())
    their_kept = sum(t.codes.numel() for t in packed.values())
    their_index_bytes = sum(t.indices.numel() for t in packed.values())
    return {
        "bytes_per_param": {
            "fixed": round(len(body) / plan.num_elements, 6),
            "variable": round((len(body) - elias_fano + rice) / plan.num_elements, 6),
            "baseline": round(their_bytes / plan.num_elements, 6),
        },
        "index_bits": {
            "elias_fano": 8 * sum(section_bytes(CHUNK_ELEMENTS, TOP_K)) / TOP_K,
            "golomb_rice": round(8 * rice / plan.num_kept, 4),
            "bound": round(math.log2(math.comb(CHUNK_ELEMENTS, TOP_K)) / TOP_K, 4),
            "baseline": 8 * their_index_bytes / their_kept,
        },
        "value_bits": {
            "ours": round(8 * (len(body) - elias_fano) / plan.num_kept, 4),
            "baseline": round(8 * (their_bytes - their_index_bytes) / their_kept, 4),
        },
        "payload_bytes_72b": payload_bytes_72b(),
        "params_72b": COVENANT_PARAMS,
    }


def payload_bytes_72b() -> int:
    """Header and sections of a model of 72.7 B parameters, from shapes on the meta device."""
    spec = covenant_spec()
    shapes = tensor_shapes(spec)
    assert num_params(shapes) == COVENANT_PARAMS
    return PayloadFormat(run_id=spec.run_id, shapes=shapes, top_k=TOP_K).num_bytes


def _elias_fano_bytes(sparse: SparseTensor) -> int:
    groups = chunk_groups(sparse.shape, TOP_K)
    return sum(g.num_chunks * sum(section_bytes(g.num_elements, g.k)) for g in groups)


def _rice_bytes(sparse: SparseTensor) -> int:
    """One tensor's indices as a Golomb-Rice stream; the rows are as long as a chunk keeps."""
    (group,) = chunk_groups(sparse.shape, TOP_K)
    index_NK = in_chunk(sparse).view(group.num_chunks, group.k)
    return LENGTH_FIELD_BYTES + -(-rice_bits(index_NK, RICE_BITS) // 8)


def in_chunk(sparse: SparseTensor) -> Tensor:
    """Flat indices of a matrix of whole blocks, or of one short vector, as positions in chunks."""
    if len(sparse.shape) < 2:
        return sparse.indices
    cols = sparse.shape[1]
    row, col = sparse.indices // cols, sparse.indices % cols
    block = row // BLOCK_SIDE * (cols // BLOCK_SIDE) + col // BLOCK_SIDE
    position = row % BLOCK_SIDE * BLOCK_SIDE + col % BLOCK_SIDE
    return (block * CHUNK_ELEMENTS + position).sort().values % CHUNK_ELEMENTS
