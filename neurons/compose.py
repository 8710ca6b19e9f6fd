"""What miner and validator have in common: from a config to a running neuron."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, Protocol

import torch

from template import __spec_version__
from template.base.context import NodeContext, OpenBucket
from template.base.supervisor import supervise
from template.base.waiter import Waiter
from template.chain import Chain
from template.chain.bittensor import BittensorChain, open_wallet
from template.config import MinerConfig
from template.errors import ConfigError, SubnetError
from template.log import setup_logging
from template.metrics import open_metrics
from template.protocol.keys import bucket_name
from template.protocol.payload import PayloadFormat
from template.protocol.record import Access
from template.protocol.spec import RunSpec, load_spec
from template.protocol.ss58 import public_key
from template.secret import Secret
from template.store.endpoints import check_peer_endpoint, is_loopback
from template.store.s3 import S3Bucket, S3Store
from template.training.model import tensor_shapes

log = logging.getLogger(__name__)


class Neuron(Protocol):
    """What a composition root runs."""

    def step(self) -> bool: ...


def run_neuron(role: str, config: MinerConfig, build: Callable[[NodeContext], Neuron]) -> int:
    """Build a neuron and repeat its step until the run ends; the process's exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _context(role, config) as context:
            supervise(build(context).step)
            log.info("the run has ended")
    except SubnetError as error:
        log.error("%s", error)
        sys.stderr.write(f"{role}: {error}\n")
        return 1
    except KeyboardInterrupt:
        log.info("stopped; the state is on disk")
        return 130
    return 0


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def _context(role: str, config: MinerConfig) -> Iterator[NodeContext]:
    wallet = open_wallet(config.wallet.name, config.wallet.hotkey, str(config.wallet.path))
    hotkey = wallet.hotkey.ss58_address
    setup_logging(config.logging.level, config.logging.directory, role=role, hotkey=hotkey)
    spec = load_spec(config.neuron.run)
    chain = BittensorChain(
        endpoint=config.chain.network,
        netuid=config.chain.netuid,
        wallet=wallet,
        version_key=__spec_version__,
    )
    _require_registered(chain, hotkey, config)
    config.neuron.state_dir.mkdir(parents=True, exist_ok=True)
    metrics = open_metrics(
        state_dir=config.neuron.state_dir,
        save_events=config.neuron.save_events,
        wandb_config=config.wandb,
        run_name=f"{role}-{hotkey[:8]}",
        run_config={"run_id": spec.run_id.hex(), "role": role, "hotkey": hotkey},
    )
    try:
        yield NodeContext(
            spec=spec,
            form=payload_format(spec),
            hotkey=hotkey,
            access=config.bucket.access,
            chain=chain,
            waiter=Waiter(chain),
            bucket=own_bucket(config, hotkey),
            open_bucket=bucket_opener(allow_loopback=is_loopback(config.chain.network)),
            metrics=metrics,
            state_dir=config.neuron.state_dir,
            device=_device(config.neuron.device),
        )
    finally:
        metrics.close()
        chain.close()


def payload_format(spec: RunSpec) -> PayloadFormat:
    return PayloadFormat(
        run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=spec.compression.top_k
    )


def own_bucket(config: MinerConfig, hotkey: str) -> S3Store:
    """This neuron's bucket with the key that writes."""
    return S3Store(
        S3Bucket(
            endpoint_url=config.bucket.endpoint_url,
            bucket=bucket_name(public_key(hotkey)),
            access_key_id=config.bucket.write.key_id,
            secret_access_key=config.bucket.write.secret,
        )
    )


def bucket_opener(*, allow_loopback: bool) -> OpenBucket:
    """Opens peers' buckets by their access records; refuses endpoints inside our network."""

    def open_bucket(hotkey: str, access: Access) -> S3Store:
        check_peer_endpoint(access.endpoint_url, allow_loopback=allow_loopback)
        bucket = S3Bucket(
            endpoint_url=access.endpoint_url,
            bucket=bucket_name(public_key(hotkey)),
            access_key_id=access.access_key_id,
            secret_access_key=Secret(access.secret_access_key),
        )
        return S3Store(bucket, deadline_s=PEER_DEADLINE_S)

    return open_bucket


PEER_DEADLINE_S = 20.0
"""How long one request to a peer's bucket may be retried: a dead peer must not stop a node."""


def _require_registered(chain: Chain, hotkey: str, config: MinerConfig) -> None:
    if chain.metagraph(chain.finalized()).by_hotkey(hotkey) is None:
        raise ConfigError(
            f"--wallet.hotkey {config.wallet.hotkey}: {hotkey} is not registered on subnet "
            f"{config.chain.netuid}; run `btcli subnets register --netuid {config.chain.netuid} "
            f"-n {config.chain.network} -w {config.wallet.name} -H {config.wallet.hotkey}`"
        )


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
