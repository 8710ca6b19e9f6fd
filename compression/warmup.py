"""Compiling ahead of time: the first use of the codec must not cost a window its minutes."""

from pathlib import Path

import torch

from compression.decoder import aggregate, decode
from compression.encoder import encode, encode_with_feedback
from compression.plan import make_plan


class KernelCacheError(RuntimeError):
    """The folder of the compiled loops is damaged, or full."""


def load_kernels() -> None:
    """Compile every loop of `kernels`, or load what an earlier process compiled.

    About 7 s on one core for the first process on a machine, 0.2 s for any other. The
    machine code lies in `compression/__pycache__` or, where that cannot be written, in
    the user's cache folder; NUMBA_CACHE_DIR names another. KernelCacheError if what is kept
    there cannot be read or written.
    """
    try:
        _use_all()
    except (OSError, EOFError) as error:
        raise KernelCacheError(
            f"the compiled codec cannot be kept or read ({type(error).__name__}: {error}): delete "
            f"*.nbi and *.nbc in {Path(__file__).parent / '__pycache__'}, free some disk, or set "
            "NUMBA_CACHE_DIR to another folder"
        ) from error


def _use_all() -> None:
    shapes = {"": (1,)}
    plan, ones = make_plan(shapes), {"": torch.ones(1)}
    encode(ones, plan, 1)
    body = encode_with_feedback(ones, {"": torch.zeros(1)}, plan, 0.5, 1)
    decode(body, plan, 1)
    aggregate({"": torch.zeros(1)}, [(body, {"": 1.0})], plan, 1)
