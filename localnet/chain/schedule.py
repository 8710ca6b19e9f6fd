"""When epochs run: which subnets there are, whose epoch is due, and which epoch a block is in.

Owns the schedule only; what an epoch does is `epoch.py`. Source: subtensor,
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
    """The block of the next epoch: `LastEpochBlock` + `Tempo`, or a pending one that is sooner."""
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
    """(subnets whose epoch runs in this block, subnets that `MaxEpochsPerBlock` defers)."""
    due = [netuid for netuid in netuids if is_epoch_due(state, netuid)]
    limit = int(state.subtensor.get("MaxEpochsPerBlock"))
    return due[:limit], due[limit:]


def current_epoch(state: State, netuid: int) -> int:
    """The epoch that a commit or reveal of the open block belongs to.

    While an epoch is due and has not run, that is already the next one: reveals come first in
    a block, and see the epoch that the same block begins.
    """
    index = int(state.subtensor.get("SubnetEpochIndex", netuid))
    return index + 1 if is_epoch_due(state, netuid) else index


def blocks_into_epoch(state: State, netuid: int) -> int:
    """Blocks since the current epoch began; 0 in its first block, run or still to run."""
    if is_epoch_due(state, netuid):
        return 0
    return state.block_number - int(state.subtensor.get("LastEpochBlock", netuid))
