"""How the codec's loops become machine code.

Numba compiles a function on first use and keeps the result for the next process. It looks
for changes in the function's own file alone: a compiled function may only call others of
its file, and only use constants of its file. Whoever changes the options below must touch
those files too.

Arithmetic is strict: no reassociation and no fused multiply-add (Numba's default), so that
a product rounds, then a sum, on every machine.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Machine code that lets go of the interpreter.

    Where no folder for it can be written (see `warmup`), every process compiles anew.
    """
    try:
        made = njit(cache=True, nogil=True)(function)
    except RuntimeError:
        made = njit(nogil=True)(function)
    return cast(Function, made)
