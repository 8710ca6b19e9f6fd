"""A model that other programs load, in a validator's bucket: bfloat16, two bytes a parameter.

Beside the checkpoint, which nodes read and verify, and under keys that say what they are:
RUN_ID/model/WINDOW/config.json and so on. A plain download of the folder loads with `transformers`.
Nobody verifies it: `tessera model latest --dtype bf16` makes the same numbers from what is proven.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

from template.context import NodeContext
from template.data.manifest import TokenizerEntry
from template.protocol.keys import model_key
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
    """Makes the objects of a state's model; `companions` as in the published checkpoint."""

    def __init__(
        self, context: NodeContext, entry: TokenizerEntry, companions: Mapping[str, bytes]
    ) -> None:
        self._context, self._entry, self._companions = context, entry, companions

    def objects(self, state: OuterState) -> Objects:
        """The config goes last: a folder without it is not whole, and no loader takes it."""
        spec = self._context.run.at(state.window)
        files = files_with_card(state, spec, self._companions, self._facts(state))
        small = {name: partial(BytesSource, data) for name, data in files.small.items()}
        makers: dict[str, Callable[[], Source]] = {**files.weights, **small}
        names = sorted(makers, key=lambda name: (name == CONFIG_FILE, name))
        return [(model_key(spec.run_id, state.window, name), makers[name]) for name in names]

    def last_key(self, window: int) -> str:
        """The key of the config."""
        return model_key(self._context.run.run_id, window, CONFIG_FILE)

    def _facts(self, state: OuterState) -> Facts:
        spec = self._context.run.at(state.window)
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
            tokenizer=self._entry.name,
            end_of_document=self._entry.end_of_document,
            num_payloads=None,
            max_tokens=None,
            loss_nats=None,
            loss_pages=0,
            dtype=DTYPE,
        )
