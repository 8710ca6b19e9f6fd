"""Tensor maths of sparse pseudo-gradients: chunking, top-k, error feedback, codes for indices
and values. The package imports torch, numpy and numba, no other package of this repository,
and knows neither windows nor peers.

A matrix is cut into chunks of 64 x 64 elements, numbered group by group. Shape [150, 200], with
K kept values per chunk at top_k = 64:

          64     64     64    8
       +------+------+------+----+    group             chunks   size       K
    64 |   0  |   1  |   2  |  6 |    0 whole blocks    0-5      64 x 64   64
       +------+------+------+----+    1 right edge      6-7      64 x  8    8
    64 |   3  |   4  |   5  |  7 |    2 bottom edge     8-10     22 x 64   22
       +------+------+------+----+    3 corner          11       22 x  8    3
    22 |   8  |   9  |  10  | 11 |
       +------+------+------+----+

A vector is cut into runs of 4096 and a shorter tail. Shape [10000]:

    +----------------+----------------+-------+
    |    0: 4096     |    1: 4096     |2: 1808|    group 0: runs 0-1; group 1: run 2
    +----------------+----------------+-------+

A tensor's bytes in a body, for G groups with N_g chunks each:

    exponent byte | ratio byte | scale bytes of all chunks | group 0 | ... | group G-1

    group g:  low parts of N_g chunks | upper maps of N_g chunks | codes of N_g chunks

The bytes of a chunk are therefore not contiguous. A whole chunk takes 81 bytes: scale 1, low
part 48, upper map 16, codes 16. contrib/FORMAT.md describes every bit. Several processes that hold
rows of every tensor write and read one body together: compression/bands.py. The bytes of tensors on
a GPU are made there, by operations of PyTorch: compression/torch_encoder.py, torch_decoder.py.
A body of some tensors alone, of a miner that trains a part of the model: compression/partial.py.
"""

from compression.chunking import CHUNK_ELEMENTS, TensorLayout, tensor_layout
from compression.decoder import aggregate, check, decode, decode_tensor
from compression.encoder import encode, encode_tensor, encode_with_feedback
from compression.feedback import accumulate, residual_after
from compression.held import HeldUpdates
from compression.norms import exact_norm
from compression.partial import short_bytes, widen
from compression.places import chunk_places
from compression.plan import Plan, body_bytes, held_plan, make_plan
from compression.rounding import SHORT_BYTES, pack_short, round_to_short, unpack_short
from compression.sparse import CodecError, SparseModel, SparseTensor, apply
from compression.warmup import KernelCacheError, load_kernels

__all__ = [
    "CHUNK_ELEMENTS",
    "SHORT_BYTES",
    "CodecError",
    "HeldUpdates",
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
    "chunk_places",
    "decode",
    "decode_tensor",
    "encode",
    "encode_tensor",
    "encode_with_feedback",
    "exact_norm",
    "held_plan",
    "load_kernels",
    "make_plan",
    "pack_short",
    "residual_after",
    "round_to_short",
    "short_bytes",
    "tensor_layout",
    "unpack_short",
    "widen",
]
