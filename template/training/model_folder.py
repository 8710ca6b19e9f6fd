"""A model's files in Hugging Face's layout, which `transformers` loads as they are.

`config.json`, companions, and the tensors as float32 or bfloat16 in one `model.safetensors` or in
parts `model-0000i-of-0000N.safetensors` beside `model.safetensors.index.json`. Tensors are
converted where a file is written or uploaded, a stretch at a time: no second theta is made.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from torch import Tensor

from template.protocol.parts import BFLOAT16, FLOAT32, Packing, PartSource, group_tensors
from template.protocol.spec import RunSpec
from template.training.model import config_json
from template.training.published import CONFIG_FILE, part_names
from template.training.spread import shapes_of

INDEX_FILE: Final = "model.safetensors.index.json"
STEM: Final = "model"
WEIGHTS: Final = f"{STEM}*.safetensors"
"""All files with tensors, as a pattern."""
PACKINGS: Final[Mapping[str, Packing]] = {"float32": FLOAT32, "bfloat16": BFLOAT16}
"""Type of the numbers, as configs name it -> how files have them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiles:
    """A folder's files by name: small ones, and those with tensors, which are made when read."""

    small: Mapping[str, bytes]
    weights: Mapping[str, Callable[[], PartSource]]


def model_files(
    params: Mapping[str, Tensor], spec: RunSpec, companions: Mapping[str, bytes], dtype: str
) -> ModelFiles:
    """The files of a model with numbers of `dtype`, one of `PACKINGS`; bfloat16 is to nearest."""
    packing, shapes = PACKINGS[dtype], shapes_of(params)
    groups = group_tensors(shapes, spec.checkpoint.part_bytes)
    names = part_names(len(groups), STEM)
    small = {CONFIG_FILE: config_json(spec, dtype), **companions}
    if len(groups) > 1:
        total = sum(math.prod(shape) for shape in shapes.values()) * packing.value_bytes
        placed = {n: name for name, group in zip(names, groups, strict=True) for n in group}
        index = {"metadata": {"total_size": total}, "weight_map": placed}
        small[INDEX_FILE] = json.dumps(index, sort_keys=True, indent=2).encode()
    weights = {
        name: partial(PartSource, params, group, packing)
        for name, group in zip(names, groups, strict=True)
    }
    return ModelFiles(small=small, weights=weights)


def write_files(folder: Path, files: ModelFiles) -> None:
    """Write a model into a folder, in place of an earlier one; OSError if refused.

    The config goes first and comes last: a folder left half written does not load.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder / CONFIG_FILE, folder / INDEX_FILE, *folder.glob(WEIGHTS)):
        path.unlink(missing_ok=True)
    for name, make in files.weights.items():
        _write_whole(folder / name, make())
    for name in sorted(files.small, key=lambda name: (name == CONFIG_FILE, name)):
        _write_whole(folder / name, files.small[name])


def _write_whole(path: Path, data: bytes | PartSource) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        for piece in [data] if isinstance(data, bytes) else data.stretches():
            file.write(piece)
    part.replace(path)
