"""Node config: what one neuron is told by its flags and environment, as frozen values.

Owns what belongs to one machine: chain endpoint, wallet, device, paths, bucket credentials.
What all nodes must agree on is the run spec, of which only the path is known here. Parsed
once, in neurons/; importing this module reads neither argv nor the environment.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from template.protocol.record import Access, AccessKind
from template.secret import Secret

ENV_ENDPOINT: Final = "TESSERA_BUCKET_ENDPOINT"
"""Environment variable with the URL of a bucket server that is not Cloudflare R2."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketKey:
    """One S3 access key."""

    key_id: str
    secret: Secret


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketSettings:
    """This node's bucket; `account` is the R2 account id or the URL of another S3 endpoint."""

    kind: AccessKind
    account: str
    write: BucketKey
    read: BucketKey

    @property
    def access(self) -> Access:
        """What the chain record says of this bucket; `read` is public from then on."""
        return Access(
            kind=self.kind,
            account=self.account,
            access_key_id=self.read.key_id,
            secret_access_key=self.read.secret.reveal(),
        )

    @property
    def endpoint_url(self) -> str:
        return self.access.endpoint_url


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainConfig:
    """Which subnet of which chain; `network` is finney, test, local or a ws:// or wss:// URL."""

    netuid: int
    network: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WalletConfig:
    """Where the keys are: `path`/`name` is the coldkey's folder, `hotkey` a file below it."""

    name: str
    hotkey: str
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggingConfig:
    """How much to log, and the folder of the log file (None: standard error only)."""

    level: Literal["info", "debug", "trace"]
    directory: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NeuronConfig:
    """This process. `device` is a torch device or "auto"; `run` is the path of the run spec."""

    name: str
    device: str
    state_dir: Path
    save_events: bool
    run: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class WandbConfig:
    """What Weights & Biases gets; "off" does not even import it."""

    mode: Literal["online", "offline", "off"]
    project_name: str
    entity: str | None
    notes: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MinerConfig:
    """Everything that neurons/miner.py is told."""

    chain: ChainConfig
    wallet: WalletConfig
    logging: LoggingConfig
    neuron: NeuronConfig
    wandb: WandbConfig
    bucket: BucketSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidatorConfig(MinerConfig):
    """Everything that neurons/validator.py is told."""

    set_weights: bool
