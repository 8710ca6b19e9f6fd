"""What miner and validator have in common: from a config to a running neuron."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch

from template import __spec_version__
from template.base.preflight import (
    ask_for_place,
    check_own_bucket,
    check_published_endpoint,
    check_state_dir,
    claimed,
    load_codec,
    warn_of_clock,
)
from template.base.supervisor import GIVE_UP_S, supervise
from template.chain.bittensor import BittensorChain, ChainOptions, Wallet, open_wallet
from template.chain.commands import Commands, wallet_flags
from template.chain.health import redact_endpoint
from template.chain.waiter import Waiter
from template.cli.log import setup_logging
from template.cli.signals import unwind_on_signals
from template.commands.reading import bucket_opener, payload_format
from template.context import NodeContext
from template.errors import (
    EXIT_ENDED,
    EXIT_INTERRUPTED,
    ConfigError,
    SubnetError,
    disk_trouble,
    exit_status,
)
from template.metrics import Metrics, open_metrics
from template.protocol.keys import bucket_name
from template.protocol.record import AccessKind
from template.protocol.spec import RunSpec, load_spec
from template.protocol.ss58 import public_key
from template.settings import BucketKey, MinerConfig
from template.store.endpoints import is_local_chain
from template.store.named import NamedStore
from template.store.s3 import S3Bucket, S3Store
from template.sync.own_checkpoint import LOCAL_FILE

log = logging.getLogger(__name__)

C = TypeVar("C", bound=MinerConfig)

START_PATIENCE = ChainOptions(read_timeout_s=15.0, read_deadline_s=15.0)
"""At the start: an endpoint that is silent costs half a minute, one that refuses a quarter."""
RUN_PATIENCE = ChainOptions(read_deadline_s=GIVE_UP_S)
"""In mid-run: what was trained is worth waiting for."""
PROBE_DEADLINE_S = 5.0


class Neuron(Protocol):
    """What a composition root runs."""

    def step(self) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Identity:
    """What is known without asking anybody."""

    spec: RunSpec
    wallet: Wallet
    hotkey: str
    commands: Commands


def run_neuron(role: str, parse: Callable[[], C], build: Callable[[NodeContext, C], Neuron]) -> int:
    """Parse, check, build and repeat a neuron's step until the run ends; the exit status.

    An error is said once: on standard error until the log is set up, then in the log.
    """
    unwind_on_signals()
    try:
        config = parse()
        identity = _identify(role, config)
    except SubnetError as error:
        sys.stderr.write(f"{role}: {error}\n")
        return exit_status(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    log.info("loading the codec; on a new machine it is compiled first, which takes seconds")
    try:
        load_codec()
        with _checked(config, identity), _context(role, config, identity) as context:
            supervise(build(context, config).step)
        log.info("the run has ended")
    except SubnetError as error:
        log.error("%s", error)
        return exit_status(error)
    except KeyboardInterrupt:
        log.info("interrupted; %s", _what_is_saved(config.neuron.state_dir))
        return EXIT_INTERRUPTED
    return EXIT_ENDED


def _what_is_saved(state_dir: Path) -> str:
    path = state_dir / LOCAL_FILE
    if path.exists():
        return f"what was saved last is in {path}, and a restart goes on from it"
    return "nothing was saved yet, and a restart begins anew"


def _identify(role: str, config: MinerConfig) -> _Identity:
    """Spec, wallet and device are right, in this order; then the log is set up."""
    spec = load_spec(config.neuron.run)
    wallet = open_wallet(config.wallet.name, config.wallet.hotkey, str(config.wallet.path))
    _device(config.neuron.device)
    hotkey = wallet.hotkey.ss58_address
    setup_logging(config.logging.level, config.logging.directory, role=role, hotkey=hotkey)
    commands = Commands(
        netuid=config.chain.netuid,
        network=redact_endpoint(config.chain.network),
        wallet=wallet_flags(config.wallet.name, config.wallet.hotkey, config.wallet.path),
    )
    return _Identity(spec=spec, wallet=wallet, hotkey=hotkey, commands=commands)


@contextmanager
def _checked(config: MinerConfig, identity: _Identity) -> Iterator[None]:
    """All that can be wrong outside this process, before anything of it goes on chain.

    The state folder is this process's own until the `with` block ends.
    """
    log.info("asking the chain at %s", identity.commands.network)
    with closing(_open_chain(config, None, START_PATIENCE)) as chain:
        ask_for_place(chain, identity.hotkey, identity.commands)
        clock_ahead_s = time.time() - chain.head_time_s()
    check_state_dir(config.neuron.state_dir)
    with claimed(config.neuron.state_dir):
        _try_bucket(config, identity, clock_ahead_s)
        warn_of_clock(clock_ahead_s)
        yield


def _try_bucket(config: MinerConfig, identity: _Identity, clock_ahead_s: float) -> None:
    url = config.bucket.endpoint_url
    check_published_endpoint(url, on_localnet=is_local_chain(config.chain.network))
    log.info("trying the bucket at %s", url)
    writer = own_bucket(config, identity.hotkey, deadline_s=PROBE_DEADLINE_S)
    reader = _bucket(config, identity.hotkey, config.bucket.read, PROBE_DEADLINE_S)
    source = "TESSERA_BUCKET_ENDPOINT" if config.bucket.kind is AccessKind.S3 else "R2"
    where = f"{source} {url}, bucket {bucket_name(public_key(identity.hotkey))}"
    with closing(writer), closing(reader):
        check_own_bucket(writer, reader, where=where, clock_ahead_s=clock_ahead_s)


@contextmanager
def _context(role: str, config: MinerConfig, identity: _Identity) -> Iterator[NodeContext]:
    spec, hotkey = identity.spec, identity.hotkey
    chain = _open_chain(config, identity.wallet, RUN_PATIENCE)
    metrics = _open_metrics(role, config, identity)
    try:
        yield NodeContext(
            spec=spec,
            form=payload_format(spec),
            hotkey=hotkey,
            access=config.bucket.access,
            chain=chain,
            waiter=Waiter(chain),
            bucket=NamedStore(
                own_bucket(config, hotkey), "this node's own bucket (TESSERA_BUCKET_*)"
            ),
            open_bucket=bucket_opener(on_localnet=is_local_chain(config.chain.network)),
            metrics=metrics,
            state_dir=config.neuron.state_dir,
            device=_device(config.neuron.device),
            run_file=config.neuron.run,
            commands=identity.commands,
        )
    finally:
        metrics.close()
        chain.close()


def _open_chain(
    config: MinerConfig, wallet: Wallet | None, options: ChainOptions
) -> BittensorChain:
    return BittensorChain(
        endpoint=config.chain.network,
        netuid=config.chain.netuid,
        wallet=wallet,
        version_key=__spec_version__,
        options=options,
    )


def _open_metrics(role: str, config: MinerConfig, identity: _Identity) -> Metrics:
    hotkey = identity.hotkey
    try:
        return open_metrics(
            state_dir=config.neuron.state_dir,
            save_events=config.neuron.save_events,
            wandb_config=config.wandb,
            run_name=f"{role}-{hotkey[:8]}",
            run_config={"run_id": identity.spec.run_id.hex(), "role": role, "hotkey": hotkey},
        )
    except OSError as error:
        raise disk_trouble(config.neuron.state_dir, error) from error


def own_bucket(config: MinerConfig, hotkey: str, *, deadline_s: float = 60.0) -> S3Store:
    """This neuron's bucket with the key that writes."""
    return _bucket(config, hotkey, config.bucket.write, deadline_s)


def _bucket(config: MinerConfig, hotkey: str, key: BucketKey, deadline_s: float) -> S3Store:
    bucket = S3Bucket(
        endpoint_url=config.bucket.endpoint_url,
        bucket=bucket_name(public_key(hotkey)),
        access_key_id=key.key_id,
        secret_access_key=key.secret,
    )
    return S3Store(bucket, deadline_s=deadline_s)


def _device(name: str) -> str:
    """The torch device; ConfigError if this machine does not have it."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    found = torch.cuda.device_count()
    index = int(name.partition(":")[2] or 0)
    if name.startswith("cuda") and index >= found:
        raise ConfigError(
            f"--neuron.device {name}: torch sees {found} CUDA devices on this machine; name one of "
            "them, or cpu"
        )
    return name
