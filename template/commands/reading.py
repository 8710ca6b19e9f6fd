"""Reading a run without keys: chain, buckets by access records, payload format."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from template import __spec_version__
from template.chain.bittensor import BittensorChain, ChainOptions
from template.chain.waiter import Waiter
from template.cli.terminal import complain
from template.context import OpenBucket, ReadContext
from template.errors import ConfigError, RecordError
from template.metrics import FanOutMetrics
from template.peers.client import Peers
from template.protocol.keys import bucket_name
from template.protocol.record import Access
from template.protocol.run import Run
from template.protocol.spec import RunSpec
from template.protocol.ss58 import public_key
from template.secret import Secret
from template.settings import ChainConfig
from template.store.endpoints import check_peer_endpoint
from template.store.s3 import S3Bucket, S3Store
from template.store.transport import TransportLimits
from template.sync.successions import restore_run
from template.training.model import payload_format

OPTIONS = ChainOptions(read_timeout_s=15.0, read_deadline_s=60.0)
"""A person waits for the answer."""

PEER_DEADLINE_S = 20.0
"""Longest time for retries of a request to a peer's bucket: a dead peer must not stop a node."""
PEER_LIMITS = TransportLimits(connections=2)
"""Two idle connections per peer: a node has 1,024 descriptors on many machines, and 256 peers."""


def bucket_opener(*, on_localnet: bool) -> OpenBucket:
    """Opens peers' buckets by their access records; refuses endpoints inside our network.

    The opener raises RecordError for any record that names no usable bucket, and NodeTrouble if
    this node lacks the means to open one; nothing else, whatever a stranger put on chain.
    """

    def open_bucket(hotkey: str, access: Access) -> S3Store:
        check_peer_endpoint(access.endpoint_url, on_localnet=on_localnet)
        try:
            bucket = S3Bucket(
                endpoint_url=access.endpoint_url,
                bucket=bucket_name(public_key(hotkey)),
                access_key_id=access.access_key_id,
                secret_access_key=Secret(access.secret_access_key),
            )
            return S3Store(
                bucket, deadline_s=PEER_DEADLINE_S, limits=PEER_LIMITS, waits_for_node=False
            )
        except ValueError as error:
            raise RecordError(f"access record of {hotkey}: {error}") from error

    return open_bucket


@contextmanager
def read_only(run: Path, chain_config: ChainConfig, spec: RunSpec) -> Iterator[ReadContext]:
    """Chain and buckets without a wallet; fetched objects lie in a temporary folder."""
    with _temporary_folder() as folder:
        chain = BittensorChain(
            endpoint=chain_config.network,
            fallbacks=chain_config.fallbacks,
            netuid=chain_config.netuid,
            wallet=None,
            version_key=__spec_version__,
            options=OPTIONS,
        )
        try:
            yield ReadContext(
                run=Run(spec),
                make_format=payload_format,
                chain=chain,
                waiter=Waiter(chain, tell=complain, nominal_block_s=chain.block_time_s),
                open_bucket=bucket_opener(on_localnet=spec.schedule.is_local),
                metrics=FanOutMetrics([]),
                state_dir=folder,
                device="cpu",
                run_file=run,
            )
        finally:
            chain.close()


@contextmanager
def follow_run(run: Path, chain_config: ChainConfig, spec: RunSpec) -> Iterator[ReadContext]:
    """As `read_only`, with the specs that continue the run; SubnetError where they are unknown."""
    with read_only(run, chain_config, spec) as context:
        restore_run(context, Peers(context))
        yield context


def check_window(run: Run, flag: str, window: int | None) -> None:
    """ConfigError for a window after the run's end, as far as its specs are known."""
    if window is not None and window >= run.num_windows:
        raise ConfigError(f"{flag}: the run has windows 0 to {run.num_windows - 1}")


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A folder until the `with` block ends; ConfigError where this machine has no room for one."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="tessera-reading-")
    except OSError as error:
        raise ConfigError(
            f"no temporary folder can be made ({error}): set TMPDIR to a folder that this user "
            "can write, with room for the run's objects"
        ) from error
    with folder as path:
        yield Path(path)
