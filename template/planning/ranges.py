"""The parts of a cut model in figures: what a miner of a block range holds, sends and computes."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from template.protocol.payload import PayloadFormat
from template.protocol.ranges import cut_model
from template.protocol.spec import RunSpec
from template.training.flops import range_flops_per_token
from template.training.model import tensor_shapes

_LAYER = re.compile(r"\.layers\.(\d+)\.")
_EMBEDDING, _HEAD = "embed_tokens", "lm_head"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A part. Numbers of parameters, but for bytes and operations.

    `cast`: trained matrices that are multiplied, of which autocast makes copies. `head`: the output
    layer, if the part trains it. `frozen`: all others. `hosted`: of these, what lies on the host
    with `frozen="host"`. `streamed`: of these, the layers that come to the device for a forward
    pass; `streamed_again`: and once more for the backward pass. `reached_layers`: layers from the
    top down to the lowest trained one.
    """

    parameters: int
    cast: int
    head: int
    frozen: int
    hosted: int
    streamed: int
    streamed_again: int
    reached_layers: int
    flops_per_token: int
    payload_bytes: int


@lru_cache(maxsize=256)
def parts_of(spec: RunSpec, parts: int) -> tuple[Part, ...]:
    """The parts in their order; ValueError if a part would be empty."""
    return tuple(_part(spec, frozenset(cut)) for cut in cut_model(tensor_shapes(spec), parts))


@lru_cache(maxsize=16)
def possible_parts(spec: RunSpec) -> tuple[int, ...]:
    """Numbers of parts of two and more into which the model can be cut, the smallest first."""
    return tuple(_possible(spec))


def _possible(spec: RunSpec) -> Iterator[int]:
    shapes = tensor_shapes(spec)
    for parts in range(2, spec.model.num_hidden_layers + 3):
        try:
            cut_model(shapes, parts)
        except ValueError:
            continue
        yield parts


def _part(spec: RunSpec, names: frozenset[str]) -> Part:
    shapes, is_tied = tensor_shapes(spec), spec.model.tie_word_embeddings
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    layers = {name: int(m.group(1)) for name in shapes if (m := _LAYER.search(name))}
    count = spec.model.num_hidden_layers
    own_layers = [layers[name] for name in names if name in layers]
    lowest = min(own_layers, default=count)
    if any(_EMBEDDING in name for name in names):
        lowest = 0
    matrices = {name for name, shape in shapes.items() if len(shape) > 1}
    lookup = {name for name in shapes if _EMBEDDING in name and not is_tied}
    head = {name for name in shapes if (_EMBEDDING if is_tied else _HEAD) in name}
    away = {name for name in matrices - names if name in layers}

    def total(chosen: set[str] | frozenset[str]) -> int:
        return sum(sizes[name] for name in chosen)

    form = PayloadFormat(
        run_id=spec.run_id,
        shapes={name: shapes[name] for name in names},
        top_k=spec.compression.top_k,
    )
    return Part(
        parameters=total(names),
        cast=total((names & matrices) - lookup),
        head=total(names & head),
        frozen=total(shapes.keys() - names),
        hosted=total(away | (lookup - names)),
        streamed=total(away),
        streamed_again=total({name for name in away if layers[name] >= lowest}),
        reached_layers=count - lowest,
        flops_per_token=range_flops_per_token(spec, shapes, names),
        payload_bytes=form.num_bytes,
    )
