"""A subnet's work at the start of every block: prices, reveals, emission, epochs.

Owns the order, the way from storage to Yuma's inputs and back, and the payments. `yuma.py` has
Yuma, `schedule.py` the schedule. Source: subtensor, coinbase/block_step.rs and
run_coinbase.rs. Departures: every started subnet emits 1 alpha a block (no halving) and no TAO;
root stakers get 0; a validator's dividend goes whole to the validator's coldkey.
"""

from dataclasses import dataclass
from fractions import Fraction

from localnet.chain import schedule
from localnet.chain.config import U16_MAX
from localnet.chain.pallets import (
    commit_reveal,
    neurons,
    registration,
    staking,
    weight_commits,
)
from localnet.chain.state import State
from localnet.chain.yuma import EpochInputs, EpochOutputs, YumaParams, run_epoch

ALPHA_PER_BLOCK_RAO = 1_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """Alpha created since the last epoch and still unpaid."""

    owner_rao: int
    server_rao: int
    validator_rao: int


def run_block_hooks(state: State) -> None:
    """Run a block's steps before the extrinsics: prices, reveals, emission, epochs.

    Each step covers all subnets in netuid order. Subnets beyond `MaxEpochsPerBlock` run epoch
    and reveals in the next block.
    """
    netuids = schedule.subnets(state)
    for netuid in netuids:
        registration.decay_price(state, netuid)
    _, deferred = schedule.due_epochs(state, netuids)
    for netuid in netuids:
        if netuid not in deferred:
            commit_reveal.reveal_due(state, netuid)
    for netuid in netuids:
        _emit(state, netuid)
        since = state.subtensor.get("BlocksSinceLastStep", netuid)
        tempo = state.subtensor.get("Tempo", netuid)
        state.subtensor.put("BlocksSinceLastStep", netuid, value=min(since + 1, tempo + 1))
    due, deferred = schedule.due_epochs(state, netuids)
    for netuid in due:
        _close_epoch(state, netuid)
    for netuid in deferred:
        _defer_epoch(state, netuid)


def activity_cutoff_blocks(state: State, netuid: int) -> int:
    factor_milli = int(state.subtensor.get("ActivityCutoffFactorMilli", netuid))
    return factor_milli * int(state.subtensor.get("Tempo", netuid)) // 1000


def _emit(state: State, netuid: int) -> None:
    """Create this block's alpha and set the parts aside: owner's cut, then half and half."""
    storage = state.subtensor
    first_block = storage.get("FirstEmissionBlockNumber", netuid)
    if first_block is None or state.block_number < first_block:
        return
    staking.create_alpha(state, netuid, ALPHA_PER_BLOCK_RAO)
    owner_share = storage.get("SubnetOwnerCut") if storage.get("OwnerCutEnabled", netuid) else 0
    owner_rao = ALPHA_PER_BLOCK_RAO * owner_share // U16_MAX
    server_rao = (ALPHA_PER_BLOCK_RAO - owner_rao) // 2
    validator_rao = ALPHA_PER_BLOCK_RAO - owner_rao - server_rao
    storage.put("SubnetAlphaOutEmission", netuid, value=ALPHA_PER_BLOCK_RAO)
    storage.add("PendingOwnerCut", netuid, amount=owner_rao)
    storage.add("PendingServerEmission", netuid, amount=server_rao)
    storage.add("PendingValidatorEmission", netuid, amount=validator_rao)


def _close_epoch(state: State, netuid: int) -> None:
    """Run the due epoch; the epoch counter advances before Yuma checks commits' expiry."""
    storage = state.subtensor
    storage.put("LastEpochBlock", netuid, value=state.block_number)
    storage.put("PendingEpochAt", netuid, value=0)
    storage.put("BlocksSinceLastStep", netuid, value=0)
    storage.add("SubnetEpochIndex", netuid, amount=1)
    inputs = read_inputs(state, netuid)
    outputs = run_epoch(inputs)
    _write_outputs(state, netuid, inputs, outputs)
    _pay(state, netuid, _drain(state, netuid), outputs)
    storage.put("LastMechansimStepBlock", netuid, value=state.block_number)


def _defer_epoch(state: State, netuid: int) -> None:
    block = state.block_number
    state.subtensor.put("PendingEpochAt", netuid, value=block + 1)
    attributes = {"netuid": netuid, "from_block": block, "to_block": block + 1}
    state.emit("SubtensorModule", "EpochDeferred", attributes)


def read_inputs(state: State, netuid: int) -> EpochInputs:
    """Yuma's inputs from storage, an element per uid."""
    storage = state.subtensor
    hotkeys = neurons.hotkeys(state, netuid)
    uids = range(len(hotkeys))
    return EpochInputs(
        stake_rao=[staking.stake_weight_rao(state, netuid, hotkey) for hotkey in hotkeys],
        weights=[dict(storage.get("Weights", netuid, uid)) for uid in uids],
        bonds=[dict(storage.get("Bonds", netuid, uid)) for uid in uids],
        last_update=list(storage.get("LastUpdate", netuid)),
        block_at_registration=[storage.get("BlockAtRegistration", netuid, uid) for uid in uids],
        commit_block=_commit_blocks(state, netuid, hotkeys),
        validator_permit=list(storage.get("ValidatorPermit", netuid)),
        owner_uid=neurons.owner_uid(state, netuid),
        block=state.block_number,
        last_epoch_block=storage.get("LastMechansimStepBlock", netuid),
        params=_read_params(state, netuid),
    )


def _commit_blocks(state: State, netuid: int, hotkeys: list[str]) -> list[int | None]:
    """Per uid the block of the earliest unexpired commit; None without a commit."""
    modelled = state.defaults.commit_reveal == "modelled"
    if not (modelled or state.subtensor.get("CommitRevealWeightsEnabled", netuid)):
        return [None] * len(hotkeys)
    blocks = weight_commits.earliest_blocks(state, netuid)
    return [blocks.get(hotkey) for hotkey in hotkeys]


def _read_params(state: State, netuid: int) -> YumaParams:
    storage = state.subtensor
    alpha_low, alpha_high = storage.get("AlphaValues", netuid)
    return YumaParams(
        kappa=storage.get("Kappa", netuid),
        bonds_penalty=storage.get("BondsPenalty", netuid),
        bonds_moving_average=storage.get("BondsMovingAverage", netuid),
        activity_cutoff_blocks=activity_cutoff_blocks(state, netuid),
        max_allowed_validators=storage.get("MaxAllowedValidators", netuid),
        yuma3=storage.get("Yuma3On", netuid),
        liquid_alpha=storage.get("LiquidAlphaOn", netuid),
        alpha_low=alpha_low,
        alpha_high=alpha_high,
        alpha_steepness=storage.get("AlphaSigmoidSteepness", netuid),
        stake_threshold_rao=storage.get("StakeThreshold"),
    )


def _write_outputs(state: State, netuid: int, inputs: EpochInputs, outputs: EpochOutputs) -> None:
    total_rao = sum(inputs.stake_rao)
    vectors = {
        "Active": outputs.active,
        "Consensus": outputs.consensus,
        "Incentive": outputs.incentive,
        "Dividends": outputs.dividends,
        "ValidatorTrust": outputs.validator_trust,
        "ValidatorPermit": outputs.new_permits,
        "StakeWeight": [rao * U16_MAX // total_rao if total_rao else 0 for rao in inputs.stake_rao],
    }
    for item, vector in vectors.items():
        state.subtensor.put(item, netuid, value=vector)
    for uid, row in enumerate(outputs.bonds):
        if row and outputs.new_permits[uid]:
            state.subtensor.put("Bonds", netuid, uid, value=sorted(row.items()))
        else:
            state.subtensor.remove("Bonds", netuid, uid)


def _drain(state: State, netuid: int) -> Pending:
    storage = state.subtensor
    pending = Pending(
        owner_rao=storage.get("PendingOwnerCut", netuid),
        server_rao=storage.get("PendingServerEmission", netuid),
        validator_rao=storage.get("PendingValidatorEmission", netuid),
    )
    for item in ("PendingOwnerCut", "PendingServerEmission", "PendingValidatorEmission"):
        storage.put(item, netuid, value=0)
    return pending


def _pay(state: State, netuid: int, pending: Pending, outputs: EpochOutputs) -> None:
    """Pay owner, miners and validators, and burn the exact rest, to the last rao."""
    server_rao, validator_rao = _sides(pending, outputs)
    incentive_rao = split(server_rao, outputs.server_share)
    dividend_rao = split(validator_rao, outputs.validator_share)
    owner_coldkey = state.subtensor.get("SubnetOwner", netuid)
    owner_hotkey = state.subtensor.get("SubnetOwnerHotkey", netuid)
    paid_rao = []
    for uid, hotkey in enumerate(neurons.hotkeys(state, netuid)):
        coldkey = state.subtensor.get("Owner", hotkey)
        # The runtime burns what miners' half gives to the owner's hotkey, whoever holds its
        # coldkey, and to every other hotkey of the owner's coldkey.
        is_owners = hotkey == owner_hotkey or coldkey == owner_coldkey
        kept_rao = 0 if is_owners else incentive_rao[uid]
        paid_rao.append(kept_rao + dividend_rao[uid])
        staking.credit_alpha(
            state, netuid, hotkey=hotkey, coldkey=coldkey, amount_rao=paid_rao[uid]
        )
    state.subtensor.put("Emission", netuid, value=paid_rao)
    _report_dividends(state, netuid, dividend_rao)
    staking.credit_alpha(
        state,
        netuid,
        hotkey=owner_hotkey,
        coldkey=owner_coldkey,
        amount_rao=pending.owner_rao,
    )
    burned_rao = server_rao + validator_rao - sum(paid_rao)
    state.alpha_assets.add("AlphaBurned", netuid, amount=burned_rao)


def _report_dividends(state: State, netuid: int, dividend_rao: list[int]) -> None:
    """Hotkey -> validator's pay of this epoch, only for pay above 0."""
    storage = state.subtensor
    for hotkey, _ in storage.entries("AlphaDividendsPerSubnet", netuid):
        storage.remove("AlphaDividendsPerSubnet", netuid, hotkey)
    for hotkey, paid_rao in zip(neurons.hotkeys(state, netuid), dividend_rao, strict=True):
        if paid_rao:
            storage.put("AlphaDividendsPerSubnet", netuid, hotkey, value=paid_rao)


def _sides(pending: Pending, outputs: EpochOutputs) -> tuple[int, int]:
    """(miners', validators') alpha: half each, or all alpha to the only side with shares."""
    total_rao = pending.server_rao + pending.validator_rao
    if not any(outputs.server_share):
        return 0, total_rao
    if not any(outputs.validator_share):
        return total_rao, 0
    return pending.server_rao, pending.validator_rao


def split(total_rao: int, shares: list[float]) -> list[int]:
    """Each share of the total, floored exactly; the sum never exceeds the total.

    `shares` are floats with a sum near 1, or 0; a sum past 1 by rounding is scaled back exactly.
    """
    exact = [Fraction(share) for share in shares]
    whole = max(Fraction(1), sum(exact, Fraction(0)))
    return [int(total_rao * share / whole) for share in exact]
