"""Tensor maths of sparse pseudo-gradients: chunking, top-k, error feedback, codes for
indices and values. A leaf: it imports torch and numpy and nothing of ours, and knows
neither windows nor peers.
"""

from compression.chunking import CHUNK_ELEMENTS, TensorLayout, tensor_layout
from compression.codec import CodecError, SparseTensor, decode_tensor, encode_tensor
from compression.feedback import accumulate, residual_after

__all__ = [
    "CHUNK_ELEMENTS",
    "CodecError",
    "SparseTensor",
    "TensorLayout",
    "accumulate",
    "decode_tensor",
    "encode_tensor",
    "residual_after",
    "tensor_layout",
]
