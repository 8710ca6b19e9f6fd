"""Compile the codec before the first window, so compilation takes no time from a window."""

from pathlib import Path

import torch

from compression.decoder import aggregate, decode
from compression.encoder import encode, encode_with_feedback
from compression.plan import make_plan


class KernelCacheError(RuntimeError):
    """The cache folder of the compiled loops is damaged, full or not accessible."""


def load_kernels() -> None:
    """Compile every loop of the codec, or load machine code cached by an earlier process.

    About 7 s on a single core for the first process on a machine, 0.2 s afterwards. The cache is
    `compression/__pycache__` or, if not writable, the user's cache folder; NUMBA_CACHE_DIR
    overrides both. KernelCacheError if cached files cannot be read or written.
    """
    try:
        _use_all()
    except (OSError, EOFError) as error:
        raise KernelCacheError(
            f"the compiled codec cannot be read or written ({type(error).__name__}: {error}): "
            f"delete *.nbi and *.nbc in {Path(__file__).parent / '__pycache__'}, free some disk, "
            "or set NUMBA_CACHE_DIR to another folder"
        ) from error


def _use_all() -> None:
    shapes = {"": (1,)}
    plan, ones = make_plan(shapes), {"": torch.ones(1)}
    encode(ones, plan, 1)
    body = encode_with_feedback(ones, {"": torch.zeros(1)}, plan, 0.5, 1)
    decode(body, plan, 1)
    aggregate({"": torch.zeros(1)}, [(body, {"": 1.0})], plan, 1)
