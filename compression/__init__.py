"""Tensor maths of sparse pseudo-gradients: chunking, top-k, error feedback, codes for
indices and values. A leaf: it imports torch, numpy and numba and nothing of ours, and knows
neither windows nor peers.
"""

from compression.chunking import CHUNK_ELEMENTS, TensorLayout, tensor_layout
from compression.decoder import aggregate, check, decode, decode_tensor
from compression.encoder import encode, encode_tensor, encode_with_feedback
from compression.feedback import accumulate, residual_after
from compression.plan import Plan, body_bytes, make_plan
from compression.sparse import CodecError, SparseModel, SparseTensor, apply
from compression.warmup import KernelCacheError, load_kernels

__all__ = [
    "CHUNK_ELEMENTS",
    "CodecError",
    "KernelCacheError",
    "Plan",
    "SparseModel",
    "SparseTensor",
    "TensorLayout",
    "accumulate",
    "aggregate",
    "apply",
    "body_bytes",
    "check",
    "decode",
    "decode_tensor",
    "encode",
    "encode_tensor",
    "encode_with_feedback",
    "load_kernels",
    "make_plan",
    "residual_after",
    "tensor_layout",
]
