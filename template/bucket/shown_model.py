"""A model that other programs load, in a validator's bucket: bfloat16, two bytes a parameter.

Beside the checkpoint, which nodes read and verify, and under keys that say what they are:
RUN_ID/model/WINDOW/config.json and so on. A plain download of the folder loads with `transformers`.
Nobody verifies it: `tessera model latest --dtype bf16` makes the same numbers from what is proven.
"""

import math
from collections.abc import Callable
from functools import partial

from template.bucket.carried import Carried
from template.context import NodeContext
from template.data.manifest import TokenizerEntry
from template.protocol.keys import model_key
from template.protocol.spec import RunSpec
from template.store.multipart import BytesSource
from template.store.types import Source
from template.training.card import Facts, files_with_card
from template.training.model import tensor_shapes
from template.training.outer import OuterState
from template.training.published import CONFIG_FILE

DTYPE = "bfloat16"

Objects = list[tuple[str, Callable[[], Source]]]
"""Keys with what lies there, in the order of the upload."""


class ShownModel:
    """Makes the objects of a state's model; the companions are those of its checkpoint."""

    def __init__(self, context: NodeContext, carried: Carried) -> None:
        self._context, self._carried = context, carried

    def objects(self, state: OuterState) -> Objects:
        """The config goes last: a folder without it is not whole, and no loader takes it."""
        spec, carried = self._context.run.maker(state.window), self._carried.of(state.window)
        facts = self._facts(state, spec, carried.entry)
        files = files_with_card(state, spec, carried.files, facts)
        small = {name: partial(BytesSource, data) for name, data in files.small.items()}
        makers: dict[str, Callable[[], Source]] = {**files.weights, **small}
        names = sorted(makers, key=lambda name: (name == CONFIG_FILE, name))
        return [(model_key(spec.run_id, state.window, name), makers[name]) for name in names]

    def last_key(self, window: int) -> str:
        """The key of the config."""
        return model_key(self._context.run.run_id, window, CONFIG_FILE)

    def _facts(self, state: OuterState, spec: RunSpec, entry: TokenizerEntry) -> Facts:
        return Facts(
            run=spec.name,
            run_id=spec.run_id.hex(),
            network=spec.schedule.network,
            netuid=self._context.commands.netuid,
            window=state.window,
            lineage_root=state.root.hex(),
            checkpoint_digest=state.checkpoint_digest.hex(),
            parameters=sum(math.prod(shape) for shape in tensor_shapes(spec).values()),
            page_tokens=spec.data.page_tokens,
            tokenizer=entry.name,
            end_of_document=entry.end_of_document,
            num_payloads=None,
            max_tokens=None,
            loss_nats=None,
            loss_pages=0,
            dtype=DTYPE,
        )
