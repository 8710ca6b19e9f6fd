"""Node config: a neuron's flags and environment as frozen values.

Owns the settings of a machine: chain endpoint, wallet, device, paths, bucket credentials. The run
spec holds the settings common to all nodes, and is part of the config as read. `template.cli`
parses the config once; importing this module reads neither argv nor the environment.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from template.protocol.record import Access, AccessKind
from template.protocol.spec.run import RunSpec
from template.secret import Secret

ENV_ENDPOINT: Final = "TESSERA_BUCKET_ENDPOINT"
"""Environment variable with the URL of a bucket server, unset for Cloudflare R2."""
ENV_R2_ACCOUNT: Final = "TESSERA_R2_ACCOUNT_ID"


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketKey:
    """An S3 access key."""

    key_id: str
    secret: Secret


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketSettings:
    """This node's bucket; `account` is the R2 account id or an S3 endpoint's URL."""

    kind: AccessKind
    account: str
    write: BucketKey
    read: BucketKey

    @property
    def access(self) -> Access:
        """The bucket's entry in the chain record; publishing the record makes `read` public."""
        return Access(
            kind=self.kind,
            account=self.account,
            access_key_id=self.read.key_id,
            secret_access_key=self.read.secret.reveal(),
        )

    @property
    def endpoint_url(self) -> str:
        return self.access.endpoint_url

    @property
    def endpoint_variable(self) -> str:
        """The environment variable that `endpoint_url` follows from."""
        return ENV_ENDPOINT if self.kind is AccessKind.S3 else ENV_R2_ACCOUNT


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainConfig:
    """A subnet of a chain; `network` is finney, test, local or a ws:// or wss:// URL.

    `fallbacks`: endpoints of the same chain for when `network` fails.
    """

    netuid: int
    network: str
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class WalletConfig:
    """The wallet's place: `path`/`name` is the folder, with the hotkey in `hotkeys/`."""

    name: str
    hotkey: str
    path: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggingConfig:
    """The log's level, and the folder of the log file (None: standard error only)."""

    level: Literal["info", "debug", "trace"]
    directory: Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NeuronConfig:
    """This process. `device` is a torch device or "auto"; `run` is the path of the run spec.

    `offload` says where a neuron of many ranks keeps theta, and a miner's error feedback.
    `scoring_batch` is a validator's: pages of a pass, None for what fills the device. The last are
    a miner's, for its inner loop: see `template.training.options`.
    """

    name: str
    device: str
    state_dir: Path
    save_events: bool
    run: Path
    offload: Literal["host", "device"] = "host"
    scoring_batch: int | None = None
    micro_batch: int | None = None
    activation_checkpointing: bool = False
    compile: bool = False
    peak_tflops: float | None = None
    width: int = 0
    windows: int = 1
    parts: int = 1
    frozen: Literal["bf16", "host"] = "bf16"


@dataclass(frozen=True, kw_only=True, slots=True)
class WandbConfig:
    """Options for Weights & Biases; mode "off" skips the import of `wandb`."""

    mode: Literal["online", "offline", "off"]
    project_name: str
    entity: str | None
    notes: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricsConfig:
    """The address of the Prometheus endpoint; port 0 is a free port of the system's choice."""

    host: str
    port: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """This process among the equal processes (ranks) of a neuron, started by torchrun.

    `local_rank` counts the ranks of this machine. `host`, `port`: torchrun's place of meeting, used
    anew in each `attempt`.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    host: str = ""
    port: int = 0
    attempt: int = 0

    @property
    def is_alone(self) -> bool:
        return self.size == 1


ALONE: Final = Place()


@dataclass(frozen=True, kw_only=True, slots=True)
class RankConfig:
    """The settings of a rank that obeys rank 0: neither wallet, nor chain, nor bucket."""

    role: Literal["miner", "validator"]
    spec: RunSpec
    neuron: NeuronConfig
    logging: LoggingConfig
    place: Place


@dataclass(frozen=True, kw_only=True, slots=True)
class MinerConfig:
    """All settings of neurons/miner.py. `metrics` None: no Prometheus endpoint."""

    spec: RunSpec
    chain: ChainConfig
    wallet: WalletConfig
    logging: LoggingConfig
    neuron: NeuronConfig
    wandb: WandbConfig
    bucket: BucketSettings
    metrics: MetricsConfig | None = None
    place: Place = ALONE


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidatorConfig(MinerConfig):
    """All settings of neurons/validator.py. `publish_bf16`: put each checkpoint's model into the
    bucket for other programs too.
    """

    set_weights: bool
    publish_bf16: bool = False
