"""The schedule of epochs: the subnets, the due epochs, and a block's epoch number.

Owns only the schedule; `epoch.py` runs epochs. Source: subtensor,
coinbase/run_coinbase/drain_pending_emissions.rs and subnets/weights.rs
(`current_epoch_with_lookahead`).
"""

from localnet.chain.state import State

ROOT_NETUID = 0


def subnets(state: State) -> list[int]:
    """Netuids of all subnets but root, ascending."""
    added = state.subtensor.entries("NetworksAdded")
    return sorted(netuid for netuid, exists in added if exists and netuid != ROOT_NETUID)


def next_epoch_block(state: State, netuid: int) -> int:
    """The block of the next epoch: `LastEpochBlock` + `Tempo`, or an earlier pending epoch."""
    last = int(state.subtensor.get("LastEpochBlock", netuid))
    automatic = last + int(state.subtensor.get("Tempo", netuid))
    pending = int(state.subtensor.get("PendingEpochAt", netuid))
    return min(automatic, pending) if pending else automatic


def is_epoch_due(state: State, netuid: int) -> bool:
    """Whether an epoch is to run in the open block and has not run yet. Tempo 0 means never."""
    tempo = int(state.subtensor.get("Tempo", netuid))
    if tempo == 0:
        return False
    if state.subtensor.get("BlocksSinceLastStep", netuid) > tempo:
        return True
    return state.block_number >= next_epoch_block(state, netuid)


def due_epochs(state: State, netuids: list[int]) -> tuple[list[int], list[int]]:
    """(subnets with an epoch in this block, subnets deferred by `MaxEpochsPerBlock`)."""
    due = [netuid for netuid in netuids if is_epoch_due(state, netuid)]
    limit = int(state.subtensor.get("MaxEpochsPerBlock"))
    return due[:limit], due[limit:]


def current_epoch(state: State, netuid: int) -> int:
    """The epoch of a commit or reveal in the open block.

    With a due epoch still to run, already the next epoch: reveals come first in a block, and
    belong to the epoch started by the same block.
    """
    index = int(state.subtensor.get("SubnetEpochIndex", netuid))
    return index + 1 if is_epoch_due(state, netuid) else index


def blocks_into_epoch(state: State, netuid: int) -> int:
    """Blocks since the current epoch began; 0 in its first block, run or still to run."""
    if is_epoch_due(state, netuid):
        return 0
    return state.block_number - int(state.subtensor.get("LastEpochBlock", netuid))
