"""From settings to a running neuron: what every miner and validator does at its start."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from template import __spec_version__, __version__
from template.base.miner import Miner
from template.base.preflight import (
    ClockWatch,
    ask_for_place,
    check_own_bucket,
    check_published_endpoint,
    check_room,
    check_state_dir,
    claimed,
    load_codec,
    owned_by_other,
)
from template.base.standing import VersionWatch
from template.base.supervisor import GIVE_UP_S, supervise
from template.base.validator import Validator
from template.bucket.own import START_PROBE_DEADLINE_S, UPLOAD_DEADLINE_S, open_own_bucket
from template.chain.ballots import read_records_of_any_run
from template.chain.bittensor import (
    BittensorChain,
    ChainOptions,
    Wallet,
    open_wallet,
    verify_signature,
)
from template.chain.commands import Commands, wallet_flags
from template.chain.health import redact_endpoint
from template.chain.waiter import Waiter
from template.cli.log import setup_logging
from template.cli.process_state import hide_memory, restored_process_state
from template.cli.signals import STOP_LIMIT_S, unwind_on_signals
from template.cli.terminal import complain
from template.commands.rank import Crew, inner_options, joined, run_rank
from template.commands.reading import bucket_opener
from template.context import NodeContext, OpenBucket
from template.errors import (
    EXIT_ENDED,
    EXIT_INTERRUPTED,
    ChainError,
    ConfigError,
    SubnetError,
    exit_status,
)
from template.metrics import FanOutMetrics, Metrics, open_metrics
from template.peers.notice import read_notice
from template.protocol.record import Record
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.settings import MinerConfig, RankConfig, ValidatorConfig
from template.store.named import NamedStore
from template.sync.own_checkpoint import LOCAL_FILE
from template.training.devices import find_device
from template.training.model import payload_format

log = logging.getLogger(__name__)

C = TypeVar("C", bound=MinerConfig)

READY: Final = "ready: everything is loaded, and the run is followed from here on"
"""The line in the log of a neuron that has started; a localnet waits for it."""
START_PATIENCE = ChainOptions(read_timeout_s=15.0, read_deadline_s=15.0)
"""At the start: a silent endpoint costs half a minute, a refusing endpoint a quarter."""
RUN_PATIENCE = ChainOptions(read_deadline_s=GIVE_UP_S)
"""During the run: the trained state is worth a long wait."""


class Neuron(Protocol):
    """A miner, a validator or an adversary."""

    def step(self) -> bool: ...

    def stop(self) -> None:
        """Called once where the run has not ended: within a few seconds, and without an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Identity:
    """Everything known before the first request to chain or bucket."""

    spec: RunSpec
    wallet: Wallet
    hotkey: str
    commands: Commands


@restored_process_state()
def run_neuron(role: str, config: C, build: Callable[[NodeContext, C], Neuron]) -> int:
    """Check, build and repeat a neuron's step until the run ends; the exit status.

    An error is reported once: on standard error until the log is set up, in the log afterwards.
    """
    unwind_on_signals(limit_s=STOP_LIMIT_S)
    hide_memory()
    try:
        identity = _identify(role, config)
    except SubnetError as error:
        complain(f"{role}: {error}")
        return exit_status(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    log.info("loading the codec; on a new machine it is compiled first, which takes seconds")
    try:
        load_codec()
        clock = ClockWatch()
        with (
            _checked(role, config, identity, clock),
            joined(config) as crew,
            _context(role, config, identity, clock, crew) as context,
        ):
            neuron = build(context, config)
            log.info(READY)
            _run_until_stopped(neuron)
        log.info("the run has ended")
    except SubnetError as error:
        log.error("%s", error)
        return exit_status(error)
    except KeyboardInterrupt:
        log.info("interrupted; %s", _describe_saved_state(config.neuron.state_dir))
        return EXIT_INTERRUPTED
    return EXIT_ENDED


def _run_until_stopped(neuron: Neuron) -> None:
    """Repeat the neuron's step; whatever ends it early, the neuron takes its leave."""
    try:
        supervise(neuron.step)
    except (KeyboardInterrupt, SubnetError):
        neuron.stop()
        raise


def _describe_saved_state(state_dir: Path) -> str:
    path = state_dir / LOCAL_FILE
    if path.exists():
        return f"what was saved last is in {path}, and a restart goes on from it"
    return "nothing was saved yet, and a restart begins anew"


def run_miner(config: MinerConfig | RankConfig) -> int:
    """Run a miner, or one of its ranks, until the run ends; the exit status."""
    if isinstance(config, RankConfig):
        return run_rank(config)
    return run_neuron("miner", config, lambda context, _config: Miner(context))


def run_validator(config: ValidatorConfig | RankConfig) -> int:
    """Run a validator, or one of its ranks, until the run ends; the exit status."""
    if isinstance(config, RankConfig):
        return run_rank(config)
    return run_neuron(
        "validator",
        config,
        lambda context, config: Validator(
            context, sets_weights=config.set_weights, publishes_bf16=config.publish_bf16
        ),
    )


def _identify(role: str, config: MinerConfig) -> _Identity:
    """Check wallet and device, in this order; then set up the log."""
    wallet = open_wallet(config.wallet.name, config.wallet.hotkey, str(config.wallet.path))
    find_device(config.neuron.device)
    hotkey = wallet.hotkey.ss58_address
    setup_logging(config.logging.level, config.logging.directory, role=role, hotkey=hotkey)
    commands = Commands(
        netuid=config.chain.netuid,
        network=redact_endpoint(config.chain.network),
        wallet=wallet_flags(config.wallet.name, config.wallet.hotkey, config.wallet.path),
    )
    return _Identity(spec=config.spec, wallet=wallet, hotkey=hotkey, commands=commands)


@contextmanager
def _checked(
    role: str, config: MinerConfig, identity: _Identity, clock: ClockWatch
) -> Iterator[None]:
    """Check chain, registration, disk, bucket and clock before the first extrinsic.

    The state folder is locked until the `with` block ends.
    """
    log.info("asking the chain at %s", identity.commands.network)
    with closing(_open_chain(config, None, START_PATIENCE)) as chain:
        chain.check_fallbacks()
        ask_for_place(chain, identity.hotkey, identity.commands)
        clock_ahead_s = time.time() - chain.head_time_s()
    check_state_dir(config.neuron.state_dir)
    check_room(config.neuron.state_dir, identity.spec, trains=role == "miner")
    with claimed(config.neuron.state_dir):
        _try_bucket(config, identity, clock_ahead_s)
        clock.note(clock_ahead_s)
        yield


def _try_bucket(config: MinerConfig, identity: _Identity, clock_ahead_s: float) -> None:
    url = config.bucket.endpoint_url
    check_published_endpoint(
        url,
        on_localnet=identity.spec.schedule.is_local,
        variable=config.bucket.endpoint_variable,
    )
    log.info("testing the bucket at %s", url)
    bucket = open_own_bucket(config.bucket, identity.hotkey, deadline_s=START_PROBE_DEADLINE_S)
    with closing(bucket):
        try:
            check_own_bucket(bucket, clock_ahead_s=clock_ahead_s)
        except ConfigError as error:
            records = _records(config)
            access, hotkey = config.bucket.access, identity.hotkey
            raise owned_by_other(error, access, hotkey, records) from error


def _records(config: MinerConfig) -> Mapping[str, Record]:
    """The records on chain; none if the chain does not answer, for they only explain an error."""
    with closing(_open_chain(config, None, START_PATIENCE)) as chain:
        try:
            return read_records_of_any_run(chain, chain.finalized())
        except ChainError:
            return {}


@contextmanager
def _context(
    role: str, config: MinerConfig, identity: _Identity, clock: ClockWatch, crew: Crew | None
) -> Iterator[NodeContext]:
    run, hotkey = Run(identity.spec), identity.hotkey
    spec = run.newest
    chain = _open_chain(config, identity.wallet, RUN_PATIENCE)
    metrics = _open_metrics(role, config, identity, chain)
    opener = bucket_opener(on_localnet=spec.schedule.is_local)
    try:
        yield NodeContext(
            run=run,
            make_format=payload_format,
            hotkey=hotkey,
            access=config.bucket.access,
            chain=chain,
            waiter=Waiter(chain, nominal_block_s=chain.block_time_s),
            bucket=NamedStore(
                open_own_bucket(config.bucket, hotkey, deadline_s=UPLOAD_DEADLINE_S).writer,
                "this node's own bucket (TESSERA_BUCKET_*)",
            ),
            open_bucket=opener,
            metrics=metrics,
            state_dir=config.neuron.state_dir,
            device=find_device(config.neuron.device),
            inner=inner_options(config.neuron, spec),
            spreader=None if crew is None else crew.spreader,
            ranks=crew,
            scoring_batch=config.neuron.scoring_batch,
            run_file=config.neuron.run,
            commands=identity.commands,
            watch_clock=_watch(chain, clock, metrics, run, opener),
        )
    finally:
        metrics.close()
        chain.close()


def _watch(
    chain: BittensorChain, clock: ClockWatch, metrics: Metrics, run: Run, opener: OpenBucket
) -> Callable[[], None]:
    """Looks at this machine's clock, and now and then for a newer version."""
    ask_notice = partial(read_notice, chain, opener, verify_signature)
    version = VersionWatch(__spec_version__, chain.least_version_key, ask_notice)

    def watch() -> None:
        clock.note(time.time() - chain.head_time_s())
        if keys := version.look():
            metrics.log(max(0, run.schedule.window_of(chain.head())), keys)

    return watch


def _open_chain(
    config: MinerConfig, wallet: Wallet | None, options: ChainOptions
) -> BittensorChain:
    return BittensorChain(
        endpoint=config.chain.network,
        fallbacks=config.chain.fallbacks,
        netuid=config.chain.netuid,
        wallet=wallet,
        version_key=__spec_version__,
        options=options,
    )


def _open_metrics(
    role: str, config: MinerConfig, identity: _Identity, chain: BittensorChain
) -> Metrics:
    hotkey = identity.hotkey
    labels = {"run_id": identity.spec.run_id.hex(), "role": role, "hotkey": hotkey}
    sinks: list[Metrics] = [
        open_metrics(
            state_dir=config.neuron.state_dir,
            save_events=config.neuron.save_events,
            wandb_config=config.wandb,
            run_name=f"{role}-{hotkey[:8]}",
            run_config=labels,
        )
    ]
    if config.metrics is not None:
        # The library is an extra, which only the endpoint needs.
        from template.metrics_prometheus import Health, open_prometheus

        schedule, block_s = identity.spec.schedule, chain.block_time_s()
        health = Health(
            schedule.blocks_per_window * block_s,
            idle_s=(schedule.start_block - chain.head()) * block_s,
        )
        endpoint = open_prometheus(config.metrics, health, labels | {"version": __version__})
        sinks += [] if endpoint is None else [endpoint]
    return FanOutMetrics(sinks)
