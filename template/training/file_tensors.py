"""theta as it lies in a file of this node's own disk, mapped a tensor at a time when asked for.

For uploads that last longer than a window: a state kept in memory meanwhile would be a second copy
of theta, and a file that the node has anyway costs the system's cache alone, which any other use of
memory takes back. Owns no format: `template.training.tensor_files` does.
"""

import json
import math
import mmap
import os
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from template.errors import unreadable
from template.training.outer import OuterState
from template.training.tensor_files import DTYPES, read_header

PREFIX = "params/"
"""Of theta's tensors in a node's own checkpoint or anchor."""


class FileTensors(Mapping[str, Tensor]):
    """Tensors by name, each mapped at every reading. The file may be removed or replaced meanwhile.

    StateError if the disk refuses. The bytes are the disk's: whoever reads compares digests.
    """

    def __init__(self, path: Path) -> None:
        """OSError, SafetensorError or ValueError as `read_header`."""
        self._path = path
        header, self._start = read_header(path)
        self.metadata: Mapping[str, str] = header.pop("__metadata__", {})
        self._entries = {
            name.removeprefix(PREFIX): entry
            for name, entry in header.items()
            if name.startswith(PREFIX)
        }
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
        first, end = entry["data_offsets"]
        if first == end:
            return torch.empty(shape, dtype=dtype)
        # A mapping begins at a page of the system's.
        extra = (self._start + first) % mmap.ALLOCATIONGRANULARITY
        try:
            room = mmap.mmap(
                self._file,
                end - first + extra,
                access=mmap.ACCESS_COPY,
                offset=self._start + first - extra,
            )
        except OSError as error:
            raise unreadable(self._path, error) from error
        values = torch.frombuffer(room, dtype=dtype, count=math.prod(shape), offset=extra)
        return values.view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def state_on_disk(state: OuterState, path: Path) -> OuterState | None:
    """The same state with the theta of a file, or None if the file is gone or of another state.

    Holds none of the tensors of `state`.
    """
    try:
        tensors = FileTensors(path)
        carried = json.loads(tensors.metadata["state"])
        if (carried["window"], carried["root"]) != (state.window, state.root.hex()):
            return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    if tensors.keys() != state.params.keys():
        return None
    return replace(state, params=tensors, known_digest=None)
