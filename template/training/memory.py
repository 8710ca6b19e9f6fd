"""Memory for large tensors that is kept from window to window, and freed memory given back.

New memory costs a page fault every 4 KiB: copying into memory that was used before is six times
faster. A tensor's memory comes back by itself once nothing refers to the tensor any more, so no
user can write over a tensor that another still reads.
"""

import ctypes
import math
import weakref
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

MIN_BYTES = 1 << 20
"""Smaller tensors are left to the C library, which keeps their memory itself."""
FLOAT_BYTES = 4


class KeptMemory:
    """Blocks of memory by length, each in use by one tensor or free; for any thread."""

    def __init__(self) -> None:
        # Without a lock: blocks come back wherever a reference ends, in the middle of a method
        # here too. Each step below is one step of the interpreter.
        self._free: defaultdict[int, list[np.ndarray]] = defaultdict(list)

    def empty(self, shape: Sequence[int]) -> Tensor:
        """A contiguous float32 CPU tensor with any values."""
        num_elements = math.prod(shape)
        if num_elements * FLOAT_BYTES < MIN_BYTES:
            return torch.empty(tuple(shape))
        try:
            block = self._free[num_elements].pop()
        except IndexError:
            block = new_block(num_elements)
        lent = block.view()
        # The tensor refers to the view alone, and whatever is cut from the tensor does so too.
        weakref.finalize(lent, self._take_back, block).atexit = False
        return torch.from_numpy(lent).view(tuple(shape))

    def copy_of(self, tensor: Tensor) -> Tensor:
        """A contiguous float32 CPU copy."""
        return self.empty(tensor.shape).copy_(tensor.detach())

    @property
    def num_free_bytes(self) -> int:
        """Bytes that no tensor uses."""
        return sum(block.nbytes for free in list(self._free.values()) for block in list(free))

    def release(self) -> None:
        """Give the free blocks back to the system: before work that needs the room."""
        self._free.clear()

    def _take_back(self, block: np.ndarray) -> None:
        self._free[block.size].append(block)


def new_block(num_elements: int) -> np.ndarray:
    """Memory from the system."""
    return np.empty(num_elements, dtype=np.float32)


KEPT = KeptMemory()
"""The memory of this process: theta, the next theta and pseudo-gradients take turns in it."""

_C_LIBRARY = ctypes.CDLL(None)
TRIM_BYTES = 1 << 25
"""Gradients of a backward pass, at least, between two calls of `give_back_freed`."""
TRIM_SHARE = 1 / 16
"""And as a share of all gradients: many small returns would cost time, few large ones memory."""


def give_back_freed() -> None:
    """Give what was freed between living blocks back to the system, where the C library can.

    glibc by itself gives back what lies after the last living block alone.
    """
    if hasattr(_C_LIBRARY, "malloc_trim"):
        _C_LIBRARY.malloc_trim(0)


class TrimmedBackward:
    """Gives the activations that a backward pass has used up back while gradients are made.

    Without this, the activations of a pass stay in memory between the gradients until the end. For
    parameters on the CPU; the values are untouched.
    """

    def __init__(self, trained: Iterable[torch.nn.Parameter]) -> None:
        parameters = list(trained)
        total_bytes = sum(parameter.numel() * FLOAT_BYTES for parameter in parameters)
        self._step_bytes = max(TRIM_BYTES, int(TRIM_SHARE * total_bytes))
        self._made_bytes = 0
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._note_gradient)

    def _note_gradient(self, parameter: Tensor) -> None:
        self._made_bytes += parameter.numel() * FLOAT_BYTES
        if self._made_bytes >= self._step_bytes:
            self._made_bytes = 0
            give_back_freed()


class TrimmedForward:
    """Gives the whole parameters of layers back that a cut model's forward pass has used up.

    FSDP2 frees a layer's once the layer is computed; on the CPU, the C library keeps these pieces
    between living blocks, up to the size of the whole model. The values are untouched.
    """

    def __init__(self, layers: Iterable[torch.nn.Module]) -> None:
        """After FSDP2's cut: hooks run in the order of their registration."""
        sizes = {layer: num_parameter_bytes(layer) for layer in layers}
        self._step_bytes = max(TRIM_BYTES, int(TRIM_SHARE * sum(sizes.values())))
        self._freed_bytes = 0
        for layer, num_bytes in sizes.items():
            layer.register_forward_hook(partial(self._note_layer, num_bytes))

    def _note_layer(self, num_bytes: int, *_ignored: object) -> None:
        self._freed_bytes += num_bytes
        if self._freed_bytes >= self._step_bytes:
            self._freed_bytes = 0
            give_back_freed()


def num_parameter_bytes(module: torch.nn.Module) -> int:
    """Bytes of a module's whole parameters."""
    return FLOAT_BYTES * sum(parameter.numel() for parameter in module.parameters())
