"""Memory for large tensors that is kept from window to window.

New memory costs a page fault every 4 KiB: copying into memory that was used before is six times
faster. A tensor's memory comes back by itself once nothing refers to the tensor any more, so no
user can write over a tensor that another still reads.
"""

import math
import weakref
from collections import defaultdict
from collections.abc import Sequence

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
