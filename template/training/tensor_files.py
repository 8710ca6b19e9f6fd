"""Tensors as a file of this node's own disk: written from their memory, read into their memory.

The format is safetensors. The library's writer makes a second copy of every tensor first, and the
library's reader keeps the file mapped, so a deleted file would go on filling the disk.
"""

import errno
import json
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from safetensors import safe_open
from torch import Tensor

DTYPES: Final = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I32": torch.int32,
    "I64": torch.int64,
    "U8": torch.uint8,
}
"""Types of tensors that a node keeps, by their names in the format."""
FLUSH_BYTES: Final = 2**26
"""Written to the disk at a time. The system's cache of a part on disk is given up for the next
part: memory that was used a moment ago costs a fifth of memory that lay idle, and a file read once
a restart is of no use there."""
_LENGTH_BYTES: Final = 8


def num_bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the values."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Write a file whose bytes are on the disk at the return; its length. OSError if refused.

    Neither atomic nor in the folder for certain: the caller renames, and syncs the folder.
    ValueError for a type that no node keeps.
    """
    # The widest first, so that every tensor is aligned for readers that map the file.
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))
    with path.open("wb") as file:
        file.write(_header(ordered, metadata))
        flushed = 0
        for tensor in ordered.values():
            for part in _parts(tensor):
                file.write(part)
                if file.tell() - flushed >= FLUSH_BYTES:
                    flushed = _flush(file, flushed)
        return _flush(file, flushed)


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in names:
            raise ValueError(f"{name} is {tensor.dtype}; a file holds {sorted(DTYPES)}")
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    padded = -(-len(text) // _LENGTH_BYTES) * _LENGTH_BYTES
    return padded.to_bytes(_LENGTH_BYTES, "little") + text.ljust(padded)


def _parts(tensor: Tensor) -> list[memoryview]:
    """The values as bytes, up to `FLUSH_BYTES` at a time, without a copy of a CPU's tensor."""
    raw = raw_bytes(tensor.detach().cpu().contiguous())
    return [raw[at : at + FLUSH_BYTES] for at in range(0, len(raw), FLUSH_BYTES)]


def raw_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _flush(file: BinaryIO, since: int) -> int:
    """Everything up to here on the disk, and out of the system's cache; the position."""
    file.flush()
    os.fsync(file.fileno())
    end = file.tell()
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), since, end - since, os.POSIX_FADV_DONTNEED)
    return end


def sync_folder(folder: Path) -> None:
    """The names in a folder are on the disk from here on. OSError if refused."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    except OSError as error:
        # Some network file systems know no such call, and keep names by rules of their own.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata alone; errors as for `read_tensors`."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and the metadata.

    SafetensorError or ValueError for other bytes, OSError if refused.
    """
    header, start = read_header(path)
    metadata = header.pop("__metadata__", {})
    tensors = {}
    with path.open("rb", buffering=0) as file:
        for name, entry in header.items():
            tensor = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
            file.seek(start + entry["data_offsets"][0])
            fill(file, raw_bytes(tensor), path)
            tensors[name] = tensor
    return tensors, metadata


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the values begin; errors as for `read_tensors`."""
    read_metadata(path)  # the library checks header, offsets and length
    with path.open("rb", buffering=0) as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] not in DTYPES:
            raise ValueError(f"{name} is {entry['dtype']}; a file holds {sorted(DTYPES)}")
    return header, _LENGTH_BYTES + length


def fill(file: FileIO, room: memoryview, path: Path) -> None:
    """Read from the file's position on until `room` is full; ValueError if the file ends."""
    while room:
        num_read = file.readinto(room)
        if not num_read:
            raise ValueError(f"{path.name} ends early")
        room = room[num_read:]
