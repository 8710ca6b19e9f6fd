"""Compile the codec's loops to machine code.

Numba compiles a function on first use and caches the result for the next process. The cache
notices changes in the function's own file alone. A compiled function may therefore call only
functions, and use only constants, from the same file; a change of the options below must
touch every file with compiled functions too.

Arithmetic is strict (Numba's default): no reassociation and no fused multiply-add, so a
product rounds before a sum does, on every machine.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The function as machine code, running without the interpreter lock.

    Every process compiles anew if the cache folder is not writable (see `warmup`).
    """
    try:
        made = njit(cache=True, nogil=True)(function)
    except RuntimeError:
        made = njit(nogil=True)(function)
    return cast(Function, made)
