"""The owner's part in a localnet's run: dataset, theta_0 and run spec, put into a bucket."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from localnet.config import LocalnetConfig
from template.commands.plan import PreparedRun, RunChoices, load_plan, prepare_run, upload
from template.data.corpus import load_corpus
from template.data.folder import open_folder
from template.protocol.spec import RunSpec
from template.protocol.spec.plan import draft_spec
from template.store import Store

FAR_BLOCK: Final = 1_000_000
"""The first block of a run that is not published yet."""


def draft(config: LocalnetConfig, owner_hotkey: str) -> RunSpec:
    """The spec of the run, without first block and digests."""
    return draft_spec(load_plan(config.plan), _choices(config, owner_hotkey))


def prepare(config: LocalnetConfig, owner_hotkey: str, say: Callable[[str], None]) -> PreparedRun:
    """The run but for its first block; `say` gets the progress of a warm start."""
    data = load_corpus(config.text) if config.data is None else open_folder(config.data)
    return prepare_run(load_plan(config.plan), data, _choices(config, owner_hotkey), say)


def _choices(config: LocalnetConfig, owner_hotkey: str) -> RunChoices:
    return RunChoices(
        owner_hotkey=owner_hotkey,
        start_block=FAR_BLOCK,
        seed=config.seed,
        num_windows=config.num_windows,
    )


def upload_from(run: PreparedRun, bucket: Store, start_block: int) -> PreparedRun:
    """The run with its first block, once the bucket holds every blob of its spec."""
    upload(run, bucket)
    schedule = replace(run.spec.schedule, start_block=start_block)
    return replace(run, spec=replace(run.spec, schedule=schedule))
