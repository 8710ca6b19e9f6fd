"""A local chain's configuration: the defaults of new subnets and the pace of blocks.

Owns values and checks. `__main__.py` owns the command line; the pallets own the storage items.
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
    """Hyperparameters of a new subnet.

    `burn_rao`: the first price of a registration. As in the real runtime, each registration
    multiplies the price by 1.26, and the price halves every 360 blocks, between 0.0005 and
    100 TAO. `weights_rate_limit_blocks`: 0 for no limit. `network_cost_rao`: the price of the
    first subnet and the least price of later subnets; the price doubles and decays.
    `network_rate_limit_blocks`: least distance of two new subnets, 0 for no limit.

    `commit_reveal`: "off": weights in the clear. "on": timelocked commits, the real runtime's
    default, opened only with recorded pulses of the beacon. "modelled": weights in the clear,
    effective at the reveal time of an equal commit.
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
    """All inputs of a chain's genesis and pace.

    `endowments_rao`: SS58 address -> balance in block 0. `seed` makes block hashes repeatable
    (tests); with None, block hashes are unpredictable, from the operating system's entropy.
    `drand_pulses`: round of the beacon -> signature in hex.
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
        """All fields in a fixed order, for the commitment of block 0 and a journal's first line."""
        return json.dumps(asdict(self), sort_keys=True, default=dict)


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}: choose {low} to {high}")
