"""Frozen types for the chain's state, and the protocol of a neuron's and a reader's calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Neuron:
    """One row of the metagraph at one block.

    `total_stake_rao` is the chain's integer, so no float enters a vote count;
    `incentive` and `dividends` are shares in [0, 1] of the last Yuma epoch, `emission_rao` the
    epoch's pay; `alpha_stake_rao` is all the alpha staked to the hotkey, `last_update` the block
    of the hotkey's last weights.
    """

    uid: int
    hotkey: str
    coldkey: str
    validator_permit: bool
    total_stake_rao: int
    alpha_stake_rao: int
    block_at_registration: int
    last_update: int
    incentive: float
    dividends: float
    emission_rao: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Metagraph:
    """A subnet's neurons at one block, ordered by uid.

    `owner_hotkey`: the chain's `SubnetOwnerHotkey`, registered or not. `price_tao`: TAO for one
    alpha in the subnet's pool, None where the chain names no price.
    """

    netuid: int
    block: int
    tempo_blocks: int
    owner_hotkey: str
    neurons: tuple[Neuron, ...]
    price_tao: float | None = None

    def by_hotkey(self, hotkey: str) -> Neuron | None:
        return next((n for n in self.neurons if n.hotkey == hotkey), None)

    def uid_of(self, hotkey: str) -> int | None:
        neuron = self.by_hotkey(hotkey)
        return None if neuron is None else neuron.uid

    @property
    def owner_uid(self) -> int | None:
        """The uid of the subnet owner's hotkey: the chain burns its incentive. None without one."""
        return self.uid_of(self.owner_hotkey)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightTimes:
    """When a subnet takes a row of weights and for how long the row counts: hyperparameters.

    `rate_limit_blocks`: least blocks between a hotkey's last update and the next row, 0 for no
    limit. `cutoff_blocks`: an epoch more than so many blocks after the last update counts neither
    the row nor the stake behind the row. `reveal_epochs`: epochs from the commit of a row to the
    reveal, 0 on a subnet with weights in the clear.
    """

    rate_limit_blocks: int
    cutoff_blocks: int
    reveal_epochs: int

    def lag_blocks(self, tempo_blocks: int) -> int:
        """Blocks by which commit-reveal delays a row's pay, at a tempo of so many blocks."""
        return self.reveal_epochs * tempo_blocks


class Chain(Protocol):
    """One subnet on one chain, seen by one hotkey. Every method may raise ChainError.

    All reads at a finalised block are pure: the same block gives the same answer for ever.
    Callers read at finalised blocks wherever the answer enters a decision.
    """

    def head(self) -> int:
        """Number of the best block: for a node's own deadlines, never for acceptance."""

    def finalized(self) -> int:
        """Number of the last finalised block."""

    def block_hash(self, block: int) -> bytes:
        """Hash of a block, 32 bytes. ChainError if the block does not exist yet."""

    def metagraph(self, block: int) -> Metagraph:
        """The subnet's neurons after `block`."""

    def commitments(self, block: int) -> Mapping[str, bytes]:
        """hotkey -> bytes of the commitment (raw fields joined) after `block`."""

    def weights(self, block: int) -> Mapping[int, Mapping[int, float]]:
        """Validator's uid -> uid -> share of the validator's row, as they stand after `block`."""

    def weight_times(self, block: int) -> WeightTimes:
        """When the subnet takes weights and for how long a row counts, after `block`."""

    def least_version_key(self) -> int:
        """The subnet's `weights_version`: weights of a smaller version key are refused."""

    def publish(self, record: bytes) -> None:
        """Replace this hotkey's commitment (at most 384 bytes); returns once in a block."""

    def set_weights(self, weights: Mapping[int, float]) -> None:
        """Set this hotkey's weights, uid -> share (>= 0, not all zero); returns once in a block."""
