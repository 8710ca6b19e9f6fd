"""What a local chain is started with: the defaults of its subnets and its own pace.

Owns the values and their checks, not the command line (`__main__.py`) and not the storage
items that they end up in (`genesis.py`, `pallets/registration.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from template.errors import ConfigError

RAO_PER_TAO = 1_000_000_000
U16_MAX = 65_535
COMMIT_REVEAL = ("off", "on", "modelled")


@dataclass(frozen=True, kw_only=True, slots=True)
class SubnetDefaults:
    """Hyperparameters that a new subnet starts with.

    `burn_rao` is the first price of a registration; it grows by 1.26 with each one and
    halves every 360 blocks, between 0.0005 and 100 TAO, as in the real runtime.
    `weights_rate_limit_blocks` 0 means no limit. `network_cost_rao` is what creating the
    first subnet costs, and the least that a later one does: the price doubles and decays. Two
    new subnets are `network_rate_limit_blocks` apart, 0 means no limit.

    `commit_reveal` says how weights are set: "off" in the clear, "on" by timelocked commits as
    the real runtime's default has it (they open only with recorded pulses of the beacon),
    "modelled" in the clear, but a row takes effect when a commit of it would have opened.
    """

    tempo_blocks: int = 360
    weights_rate_limit_blocks: int = 100
    immunity_period_blocks: int = 5000
    max_uids: int = 256
    max_validators: int = 64
    min_allowed_weights: int = 1
    min_non_immune_uids: int = 10
    burn_rao: int = RAO_PER_TAO // 10
    network_cost_rao: int = 1000 * RAO_PER_TAO
    network_rate_limit_blocks: int = 7200
    subnet_limit: int = 128
    commit_reveal: str = "off"

    def __post_init__(self) -> None:
        for name in ("tempo_blocks", "immunity_period_blocks", "max_uids", "max_validators"):
            _check_range(name, getattr(self, name), 1, U16_MAX)
        _check_range("min_allowed_weights", self.min_allowed_weights, 0, U16_MAX)
        _check_range("min_non_immune_uids", self.min_non_immune_uids, 0, U16_MAX)
        _check_range("subnet_limit", self.subnet_limit, 1, U16_MAX)
        _check_range("network_rate_limit_blocks", self.network_rate_limit_blocks, 0, 2**63)
        for name in ("weights_rate_limit_blocks", "burn_rao", "network_cost_rao"):
            _check_range(name, getattr(self, name), 0, 2**63)
        if self.commit_reveal not in COMMIT_REVEAL:
            choices = ", ".join(COMMIT_REVEAL)
            raise ConfigError(f"commit_reveal is {self.commit_reveal!r}: choose one of {choices}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainConfig:
    """Everything that decides a chain's genesis and pace.

    `endowments_rao` maps an SS58 address to its balance in block 0. `seed` makes block
    hashes repeatable (tests); None draws them from the operating system, so that nobody
    can foretell one. `drand_pulses` maps rounds of the beacon to signatures in hex.
    """

    subnet: SubnetDefaults = field(default_factory=SubnetDefaults)
    endowments_rao: Mapping[str, int] = field(default_factory=dict)
    block_time_s: float = 0.25
    finality_lag_blocks: int = 2
    seed: str | None = None
    drand_pulses: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.01 <= self.block_time_s <= 60:
            raise ConfigError(f"block_time_s is {self.block_time_s}: choose 0.01 to 60")
        _check_range("finality_lag_blocks", self.finality_lag_blocks, 0, 1000)
        for address, rao in self.endowments_rao.items():
            _check_range(f"endowment of {address}", rao, 0, 2**63)

    def to_json(self) -> str:
        """All fields, in one order: block 0 commits to it, and a journal begins with it."""
        return json.dumps(asdict(self), sort_keys=True, default=dict)


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}: choose {low} to {high}")
