"""Compile the codec before the first window, so compilation takes no time from a window."""

from pathlib import Path

import numpy as np
import torch

from compression.decoder import aggregate, decode
from compression.encoder import encode, encode_with_feedback
from compression.jit import config, is_kept, shared_folders
from compression.norms import exact_norm
from compression.places import chunk_places
from compression.plan import make_plan
from compression.rounding import pack_short, round_to_short, unpack_short


class KernelCacheError(RuntimeError):
    """The cache folder of the compiled loops is damaged, full, not accessible or not private."""


def load_kernels() -> bool:
    """Compile every loop of the codec, or load machine code cached by an earlier process.

    About 7 s on a single core for the first process on a machine, 0.2 s afterwards. The cache is
    `compression/__pycache__` or, if not writable or not private, the user's cache folder;
    NUMBA_CACHE_DIR overrides both. KernelCacheError if cached files cannot be read or written, or
    if others may write into NUMBA_CACHE_DIR. Returns whether the next process finds the code.
    """
    _demand_private()
    try:
        _use_all()
    except (OSError, EOFError) as error:
        raise KernelCacheError(
            f"the compiled codec cannot be read or written ({type(error).__name__}: {error}): "
            f"delete *.nbi and *.nbc in {Path(__file__).parent / '__pycache__'}, free some disk, "
            "or set NUMBA_CACHE_DIR to another folder"
        ) from error
    return is_kept()


def _demand_private() -> None:
    """KernelCacheError if the folder named by the operator is one that others may write."""
    given = config.CACHE_DIR
    if given and not is_kept() and shared_folders():
        folder = min(shared_folders())
        raise KernelCacheError(
            f"NUMBA_CACHE_DIR {given}: others may write into {folder} or exchange it, and files "
            "from there run as code of this node; `chmod go-w` it and the folder above, remove "
            "the *.nbi and *.nbc files, or name a folder of this user alone (`mkdir -m 700`)"
        )


def _use_all() -> None:
    shapes = {"": (1,)}
    plan, ones = make_plan(shapes), {"": torch.ones(1)}
    encode(ones, plan, 1)
    body = encode_with_feedback(ones, {"": torch.zeros(1)}, plan, 0.5, 1)
    decode(body, plan, 1)
    aggregate({"": torch.zeros(1)}, [(body, {"": 1.0})], plan, 1)
    chunk_places(body, plan, np.zeros(1, dtype=np.int64))
    exact_norm(torch.ones(1), 1)
    round_to_short(ones[""], 1)
    values = ones[""].numpy()
    unpack_short(pack_short(values), values)
