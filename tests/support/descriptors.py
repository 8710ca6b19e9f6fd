"""File descriptors of this process: how many are open, and a machine without any left. Linux."""

import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

SPARE = 8


def num_open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Every open of a file or a socket fails with EMFILE inside the block."""
    gc.collect()  # what other tests left would be closed in the middle, and leave room
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + SPARE, hard))
    try:
        try:
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
