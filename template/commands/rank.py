"""A neuron of many ranks under torchrun: how rank 0 meets the others, and how the others run."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from template.base.preflight import load_codec
from template.cli.environment import forget_secrets
from template.cli.log import setup_logging
from template.cli.process_state import hide_memory, restored_process_state
from template.cli.signals import STOP_SIGNALS, unwind_on_signals
from template.cli.terminal import complain
from template.errors import (
    EXIT_ENDED,
    EXIT_INTERRUPTED,
    ConfigError,
    RankLost,
    SubnetError,
    exit_status,
)
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.ranks.crew import Crew as Crew
from template.ranks.crew import Duties, follow
from template.ranks.group import device_of, join
from template.settings import MinerConfig, NeuronConfig, Place, RankConfig
from template.sync.spec_folder import SpecFolder
from template.training.devices import find_device
from template.training.model import check_parts, payload_format
from template.training.options import InnerOptions

log = logging.getLogger(__name__)


@contextmanager
def joined(config: MinerConfig) -> Iterator[Crew | None]:
    """Rank 0 with the other ranks, or None for a process alone; they end with the block."""
    place = config.place
    if place.is_alone:
        yield None
        return
    log.info("waiting for the other %d ranks", place.size - 1)
    duties = _duties(_spec_of(config), config.neuron, place)
    crew = Crew(join(place, str(duties.device)), duties)
    log.info("rank 0 of %d, on %s", place.size, duties.device)
    try:
        yield crew
    finally:
        crew.end()


@restored_process_state()
def run_rank(config: RankConfig) -> int:
    """Obey rank 0 until the run ends; the exit status. Holds neither key nor wallet."""
    place = config.place
    unwind_on_signals()
    forget_secrets(os.environ)
    hide_memory()
    role, level = f"{config.role}-rank-{place.rank}", config.logging.level
    try:
        setup_logging(level, config.logging.directory, role=role, hotkey="-")
        duties = _duties(_spec_of(config), config.neuron, place)
    except SubnetError as error:
        complain(f"{role}: {error}")
        return exit_status(error)
    stopped: list[int] = []
    try:
        load_codec()
        group = join(place, str(duties.device))
        _leave_signals_to_rank_0(stopped)
        log.info("rank %d of %d, on %s", place.rank, place.size, duties.device)
        follow(group, duties)
    except RankLost as error:
        if stopped:
            return EXIT_INTERRUPTED
        log.error("%s", error)
        return exit_status(error)
    except SubnetError as error:
        log.error("%s", error)
        return exit_status(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_ENDED


def _leave_signals_to_rank_0(stopped: list[int]) -> None:
    """A signal goes to all ranks: rank 0 takes its leave of the run first, and then all end."""

    def note(number: int, _frame: FrameType | None) -> None:
        stopped.append(number)

    for number in STOP_SIGNALS:
        signal.signal(number, note)


def _spec_of(config: MinerConfig | RankConfig) -> RunSpec:
    """The spec by which this machine's ranks train: that of a succession, once reached."""
    return SpecFolder(Run(config.spec), config.neuron.state_dir).of_ranks()


def _duties(spec: RunSpec, neuron: NeuronConfig, place: Place) -> Duties:
    return Duties(
        spec=spec,
        form=payload_format(spec),
        device=torch.device(device_of(find_device(neuron.device), place)),
        options=inner_options(neuron, spec),
        keeps_on_device=neuron.offload == "device",
        scoring_batch=neuron.scoring_batch,
    )


def inner_options(config: NeuronConfig, spec: RunSpec) -> InnerOptions:
    """How this machine trains; ConfigError for more parts or wider steps than the run has."""
    if config.parts > 1:
        check_parts(spec, config.parts)
    if config.width > spec.training.max_width:
        raise ConfigError(
            f"--neuron.width {config.width}: steps of this run are {spec.training.max_width} times "
            "batch_pages wide at most (training.max_width): name fewer, or auto"
        )
    return InnerOptions(
        micro_batch=config.micro_batch,
        checkpoints_activations=config.activation_checkpointing,
        compiles=config.compile,
        peak_tflops=config.peak_tflops,
        width=config.width,
        windows=config.windows,
        parts=config.parts,
        frozen=config.frozen,
    )
