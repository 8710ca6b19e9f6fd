"""The baseline of the codec's benchmark: the published method of the peer, written afresh.

Per tensor: blocks of 64 x 64 (sides: the largest divisor <= 64), `torch.topk` with int64
indices, two 12-bit indices in three bytes, a 4-bin statistical quantiser (range 6 sigma) whose
codes take a whole byte each, dense decode, and the mean over the senders of each coordinate by
one `scatter_reduce` of everybody's values. Only the benchmark uses it.

Facts: SparseLoCo (arXiv 2508.15706), section 3, and the behaviour of the code deployed on
subnet 3. Sparse values of vectors are all sent, as there.

Legend: N chunks, C elements per chunk, K kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_SIDE = 64
NUM_BINS = 4
RANGE_SIGMAS = 6.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineTensor:
    """One tensor on the wire: uint8 [N*K*3/2] indices, uint8 [N, K] codes, 4 means, a shift."""

    indices: Tensor
    codes: Tensor
    lookup: Tensor
    shift: Tensor

    @property
    def num_bytes(self) -> int:
        floats = self.lookup.numel() + self.shift.numel()
        return self.indices.numel() + self.codes.numel() + 4 * floats


BaselinePayload = dict[str, BaselineTensor]


def to_chunks(dense: Tensor) -> Tensor:
    """[N, C]: a copy for matrices, a view for vectors."""
    if dense.dim() < 2:
        return dense.reshape(-1, _side(dense.numel()))
    grid = dense.reshape(dense.shape[0], -1)
    rows, cols = _side(grid.shape[0]), _side(grid.shape[1])
    blocks = grid.reshape(grid.shape[0] // rows, rows, grid.shape[1] // cols, cols)
    return blocks.permute(0, 2, 1, 3).reshape(-1, rows * cols)


def from_chunks(chunks_NC: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) < 2:
        return chunks_NC.reshape(shape)
    height, width = shape[0], shape.numel() // shape[0]
    rows, cols = _side(height), _side(width)
    blocks = chunks_NC.reshape(height // rows, width // cols, rows, cols)
    return blocks.permute(0, 2, 1, 3).reshape(shape)


def encode(tensors: Mapping[str, Tensor], top_k: int) -> BaselinePayload:
    """Every tensor on its own, as the peer does."""
    return {name: encode_tensor(dense, top_k) for name, dense in tensors.items()}


def encode_tensor(dense: Tensor, top_k: int) -> BaselineTensor:
    chunks_NC = to_chunks(dense)
    k = max(2, min(top_k, chunks_NC.shape[1]) // 2 * 2)
    index_NK = chunks_NC.abs().topk(k, dim=1, sorted=False).indices
    codes_NK, lookup, shift = _quantize(chunks_NC.gather(1, index_NK))
    return BaselineTensor(indices=_pack12(index_NK), codes=codes_NK, lookup=lookup, shift=shift)


def decode(payload: BaselinePayload, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dense tensors of the shapes of `like`."""
    dense = {}
    for name, packed in payload.items():
        chunks_NC = torch.zeros(_chunked_shape(like[name].shape))
        chunks_NC.scatter_reduce_(
            1, _unpack12(packed), _values(packed), reduce="mean", include_self=False
        )
        dense[name] = from_chunks(chunks_NC, like[name].shape)
    return dense


def error_feedback_step(
    feedback: dict[str, Tensor], delta: Mapping[str, Tensor], decay: float, top_k: int
) -> BaselinePayload:
    """e <- decay e + delta, send C(e), e <- e - D(C(e)): in place, by a dense second decode."""
    for name, residual in feedback.items():
        residual.mul_(decay).add_(delta[name])
    payload = encode(feedback, top_k)
    for name, sent in decode(payload, feedback).items():
        feedback[name].sub_(sent)
    return payload


def apply(params: Mapping[str, Tensor], payload: BaselinePayload, lr: float) -> None:
    """params -= lr * payload, by way of dense tensors."""
    for name, dense in decode(payload, params).items():
        params[name].add_(dense, alpha=-lr)


def aggregate(params: Mapping[str, Tensor], payloads: Sequence[BaselinePayload], lr: float) -> None:
    """One SGD step on the mean over senders, each clipped to the median norm per tensor."""
    for name, param in params.items():
        sent = [payload[name] for payload in payloads]
        values = [_values(packed) for packed in sent]
        norms = torch.stack([v.norm() for v in values])
        factors = (norms.median() / norms.clamp(min=1e-12)).clamp(max=1.0)
        clipped = [v * f for v, f in zip(values, factors, strict=True)]
        chunks_NC = torch.zeros(_chunked_shape(param.shape))
        chunks_NC.scatter_reduce_(
            1,
            torch.cat([_unpack12(packed) for packed in sent], dim=1),
            torch.cat(clipped, dim=1),
            reduce="mean",
            include_self=False,
        )
        param.add_(from_chunks(chunks_NC, param.shape), alpha=-lr)


def kept(dense: Tensor, packed: BaselineTensor) -> tuple[Tensor, Tensor]:
    """The values that were kept, and what stands for them."""
    return to_chunks(dense).gather(1, _unpack12(packed)), _values(packed)


def _side(length: int) -> int:
    return next(side for side in range(min(BLOCK_SIDE, length), 0, -1) if length % side == 0)


def _chunked_shape(shape: torch.Size) -> tuple[int, int]:
    if len(shape) < 2:
        size = _side(shape.numel())
    else:
        size = _side(shape[0]) * _side(shape.numel() // shape[0])
    return shape.numel() // size, size


def _pack12(index_NK: Tensor) -> Tensor:
    pairs = index_NK.reshape(-1, 2).to(torch.int32)
    first, second = pairs[:, 0], pairs[:, 1]
    packed = (first & 255, (first >> 8) | ((second & 15) << 4), second >> 4)
    return torch.stack(packed, dim=1).to(torch.uint8)


def _unpack12(packed: BaselineTensor) -> Tensor:
    low, middle, high = packed.indices.to(torch.int64).unbind(dim=1)
    pairs = torch.stack((low | ((middle & 15) << 8), (middle >> 4) | (high << 4)), dim=1)
    return pairs.reshape(packed.codes.shape)


def _quantize(values_NK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shift = values_NK.mean()
    centred_NK = values_NK - shift
    sigma = centred_NK.norm() / max(values_NK.numel() - 1, 1) ** 0.5
    width = (RANGE_SIGMAS * sigma / NUM_BINS).clamp(min=1e-12)
    bin_NK = (centred_NK / width + NUM_BINS // 2).round_().clamp_(0, NUM_BINS - 1).to(torch.int64)
    flat = bin_NK.reshape(-1)
    sums = torch.zeros(NUM_BINS).scatter_add_(0, flat, centred_NK.reshape(-1))
    lookup = sums / torch.bincount(flat, minlength=NUM_BINS).clamp(min=1)
    return bin_NK.to(torch.uint8), lookup, shift


def _values(packed: BaselineTensor) -> Tensor:
    return packed.lookup[packed.codes.to(torch.int64)] + packed.shift
