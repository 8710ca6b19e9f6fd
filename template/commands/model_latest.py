"""`model latest`: the newest checkpoint of a run, verified, as a folder that others can load."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from template.cli.model_flags import FolderSource, RunSource, Source
from template.commands.newcomer import existing_subnet
from template.commands.reading import follow_run
from template.context import ReadContext
from template.data.manifest import TokenizerEntry
from template.data.pages import PageReader
from template.errors import StoreError, Unavailable
from template.peers.client import Peers
from template.scoring.measure import curve_ids
from template.sync.bootstrap import Bootstrap
from template.sync.dataset import downloaded_parts, fetch_companions, open_pages
from template.sync.lineage import read_lineage_to, wait_for_voted_root
from template.training.card import Facts, write_model
from template.training.devices import find_device
from template.training.model import tensor_shapes
from template.training.outer import OuterState
from template.training.scorer import Scorer

Say = Callable[[str], None]
MODEL_FOLDER = "model"


@dataclass(frozen=True, kw_only=True, slots=True)
class Newest:
    """The newest proven checkpoint. `num_payloads`: in its parameters, None if unknown."""

    state: OuterState
    tokenizer: TokenizerEntry
    companions: Mapping[str, bytes]
    pages: PageReader
    num_payloads: int | None


@contextmanager
def model_folder(source: Source, say: Say) -> Iterator[Path]:
    """A folder with the model: the one named, or a temporary one with the run's newest."""
    if isinstance(source, FolderSource):
        yield source.folder
        return
    with follow_run(source.run, source.chain, source.spec) as context:
        folder = context.state_dir / MODEL_FOLDER
        _fetch(context, source, folder, say)
        yield folder


def fetch_into(source: RunSource, folder: Path, say: Say) -> Facts:
    """Write the newest checkpoint of a run into `folder`; see `fetch_newest` for the errors."""
    with follow_run(source.run, source.chain, source.spec) as context:
        return _fetch(context, source, folder, say)


def _fetch(context: ReadContext, source: RunSource, folder: Path, say: Say) -> Facts:
    existing_subnet(context.chain)
    found = fetch_newest(context)
    device, netuid = find_device(source.device), source.chain.netuid
    measuring = Measuring(source.loss_pages, device, netuid, source.dtype)
    return save_newest(found, context, folder, measuring, say)


@dataclass(frozen=True, slots=True)
class Measuring:
    """How the loss of the model card is measured, of the run's float32; the subnet's number for the
    card; and the type of the numbers in the folder.
    """

    loss_pages: int
    device: str
    netuid: int
    dtype: str = "float32"


def fetch_newest(context: ReadContext) -> Newest:
    """The newest published checkpoint that leads to the voted root, from any validator.

    Unavailable if none is proven; ConfigError if the run's objects are wrong.
    """
    run, peers = context.run, Peers(context)
    state = Bootstrap(context, peers).published_up_to(run.num_windows + 1)
    downloaded_parts(context.state_dir).keep_only([])
    if state is None:
        raise Unavailable(
            f"--run {context.run_file}: no validator serves a checkpoint that the votes prove: the "
            f"first is theta_{run.first.checkpoint.every_windows}, proven two windows later. Try "
            "again later, or take `tessera replay`"
        )
    spec = run.maker(state.window)
    pages = open_pages(context, peers, spec=spec)
    entry = pages.manifest.tokenizer
    return Newest(
        state=state,
        tokenizer=entry,
        companions=fetch_companions(context, peers, entry, spec),
        pages=pages,
        num_payloads=_count_payloads(context, peers, state),
    )


def save_newest(
    found: Newest, context: ReadContext, folder: Path, measuring: Measuring, say: Say
) -> Facts:
    """Measure the loss, and write the model with its card into a folder."""
    state = found.state
    spec = context.run.maker(state.window)
    loss, num_pages = _measure(found, context, measuring, say)
    window_tokens = spec.training.pages_per_window * spec.data.page_tokens
    facts = Facts(
        run=spec.name,
        run_id=spec.run_id.hex(),
        network=spec.schedule.network,
        netuid=measuring.netuid,
        window=state.window,
        lineage_root=state.root.hex(),
        checkpoint_digest=state.checkpoint_digest.hex(),
        parameters=sum(math.prod(shape) for shape in tensor_shapes(spec).values()),
        page_tokens=spec.data.page_tokens,
        tokenizer=found.tokenizer.name,
        end_of_document=found.tokenizer.end_of_document,
        num_payloads=found.num_payloads,
        max_tokens=None if found.num_payloads is None else found.num_payloads * window_tokens,
        loss_nats=loss,
        loss_pages=num_pages,
        dtype=measuring.dtype,
    )
    write_model(folder, state, spec, found.companions, facts)
    return facts


def _count_payloads(context: ReadContext, peers: Peers, state: OuterState) -> int | None:
    """Payloads in theta, by the lineage that leads to the voted root."""
    steps = read_lineage_to(context, peers, wait_for_voted_root(context))
    before = [step for step in steps if step.window <= state.window - 2]
    if not before or before[0].window or before[-1].next_root != state.root:
        return None
    return sum(len(step.members) for step in before)


def _measure(
    found: Newest, context: ReadContext, measuring: Measuring, say: Say
) -> tuple[float | None, int]:
    """Mean held-out loss and the number of pages; (None, 0) if not wanted or no bucket has them."""
    spec = context.run.maker(found.state.window)
    wanted = min(measuring.loss_pages, spec.evaluation.curve_pages)
    if not wanted:
        return None, 0
    try:
        pages: np.ndarray = found.pages.held_out_pages(curve_ids(found.pages.manifest, wanted))
    except StoreError as error:
        say(f"the loss is not measured: {error}")
        return None, 0
    scorer = Scorer(spec, measuring.device)
    scorer.load(found.state.params)
    return float(scorer.losses(pages, spec.data.chat).mean()), wanted
