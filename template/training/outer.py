"""The outer step: theta_{w+2} from theta_{w+1} and the accepted payloads of window w.

theta <- theta - alpha * sum_i w_i c_{i,t} g_i delta_i, w_i = lambda^staleness / max(|A_w|, n_min),
c_{i,t} the clip and g_i the energy cap, which is 1 for all in an honest window.
Pure, and the same bits on every node: coefficients are IEEE doubles made with + - * / and
square root only; a value is multiplied by its coefficient and then added, one payload
after another in ascending uid order.

Source: SparseLoCo (arXiv 2508.15706), equation 2: the mean over all R peers. Its published
code averages over the senders of each coordinate instead, which gives a lone sender full
control of coordinates that nobody else picked.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compression import aggregate
from template.protocol.hashing import labelled_hash
from template.protocol.lineage import Accepted
from template.protocol.payload import Payload
from template.protocol.root import Member, first_root, next_root, tensors_digest
from template.protocol.spec import OuterSpec, RunSpec
from template.training.energy import Norms, cap_energy
from template.training.model import Params


@dataclass(frozen=True, kw_only=True, slots=True)
class OuterState:
    """All that a node must carry from one window to the next.

    `window`: theta is theta_window. `initial_norms`: of theta_0's tensors. `accepted_norms`:
    (window, norms of each payload accepted in it), latest last, `clip_windows` at most.
    `voting_stakes_rao`: of the last `quorum_windows` windows. `checkpoint_digest` enters the
    next root, then is empty again.
    """

    window: int
    params: Params
    root: bytes
    initial_norms: Norms
    accepted_norms: tuple[tuple[int, tuple[Norms, ...]], ...] = ()
    voting_stakes_rao: tuple[int, ...] = ()
    checkpoint_digest: bytes = b""


def first_state(params: Params, run_id: bytes) -> OuterState:
    """The state at window 1: theta_0, since no update can be in force before window 2."""
    return OuterState(
        window=1,
        params=params,
        root=first_root(run_id, tensors_digest(params)),
        initial_norms={name: exact_norm(tensor) for name, tensor in params.items()},
    )


def exact_norm(tensor: Tensor) -> float:
    """Euclidean norm by `math.fsum` over exact squares: the same double on every machine."""
    values = tensor.detach().cpu().reshape(-1).to(torch.float64)
    return math.sqrt(math.fsum((values * values).tolist()))


def clip_references(
    state: OuterState, outer: OuterSpec, present: Iterable[Norms] = ()
) -> dict[str, float]:
    """nu_t per tensor: the lower median of the norms accepted in the last windows.

    Before any payload was accepted: that of the payloads `present`, the window's own, and at
    most a share of the tensor's norm in theta_0, with a floor.
    """
    names = state.initial_norms
    if accepted := [norms for _, members in state.accepted_norms for norms in members]:
        return {name: _median(name, accepted) for name in names}
    limits, norms = _initial_limits(state, outer), list(present)
    return {n: min(limits[n], _median(n, norms)) for n in names} if norms else limits


def _median(name: str, norms: Sequence[Norms]) -> float:
    return statistics.median_low([n[name] for n in norms])


def _initial_limits(state: OuterState, outer: OuterSpec) -> dict[str, float]:
    return {
        name: max(outer.initial_norm_share * norm, _floor(name, state, outer))
        for name, norm in state.initial_norms.items()
    }


def _floor(name: str, state: OuterState, outer: OuterSpec) -> float:
    return outer.initial_norm_floor * math.sqrt(state.params[name].numel())


def clip(norm: float, reference: float, factor: float) -> float:
    """c = min(1, kappa * nu / norm); 1 for a tensor of norm zero."""
    limit = factor * reference
    return 1.0 if norm <= limit else limit / norm


def staleness_weight(staleness: int, decay: float) -> float:
    """lambda^s by repeated multiplication: `pow` is not the same on every platform."""
    weight = 1.0
    for _ in range(staleness):
        weight *= decay
    return weight


def step_divisor(state: OuterState, count: int, outer: OuterSpec) -> int:
    """What the sum of `count` accepted payloads is divided by: their number, and at least n_min and
    the lower median of the numbers accepted in the last windows that accepted any.

    So few payloads make a short step: where most are refused, those left do not get the weight of
    all, and none is applied much further than it was scored.
    """
    counts = [len(members) for _, members in state.accepted_norms]
    usual = statistics.median_low(counts) if counts else 0
    return max(count, outer.min_divisor, usual)


def coefficients(
    staleness: int, norms: Norms, references: Norms, outer: OuterSpec, divisor: float
) -> dict[str, float]:
    """alpha * lambda^s / divisor * c_{i,t} per tensor of a payload of such norms, as doubles."""
    share = staleness_weight(staleness, outer.staleness_decay) / divisor
    return {
        name: outer.outer_lr * share * clip(norm, references[name], outer.clip_factor)
        for name, norm in norms.items()
    }


def scored_references(
    state: OuterState, present: Iterable[Norms], outer: OuterSpec
) -> dict[str, float]:
    """The clip's references, as far as they are known before the vote. Before any payload was
    accepted the window's payloads stand for those that will be, with a floor, so that empty ones
    cannot empty the others.
    """
    references = clip_references(state, outer, present)
    if state.accepted_norms:
        return references
    return {name: max(nu, _floor(name, state, outer)) for name, nu in references.items()}


def scored_coefficients(
    staleness: int, norms: Norms, references: Norms, outer: OuterSpec, share: float
) -> dict[str, float]:
    """Those at which a payload is scored: of `share` of its full step, clipped as when applied.

    At a shorter one a payload can gain that does harm at its full length: one blown up, or whose
    length lies in few values.
    """
    return coefficients(staleness, norms, references, outer, divisor=1.0 / share)


def apply_updates(
    params: Mapping[str, Tensor], updates: Sequence[tuple[Payload, Mapping[str, float]]]
) -> Params:
    """New parameters: each payload times its factors subtracted, in the order given.

    The input is not touched. Payloads are decoded chunk by chunk as they are added.
    """
    after = {name: tensor.clone() for name, tensor in params.items()}
    if updates:
        added = (
            (payload.body, {name: -factor for name, factor in factors.items()})
            for payload, factors in updates
        )
        aggregate(after, added, updates[0][0].plan)
    return after


def start_of_miner(
    state: OuterState, own: Sequence[Payload], spec: RunSpec
) -> Mapping[str, Tensor]:
    """Where a miner starts whose payloads `own` are under way: theta less a share of them.

    theta - share * alpha * lambda^s * c_{i,t} * delta_i, as if it were the only sender: its
    own work stands for what all others did at the same time. Remedy for the lag: with the
    mean rule, the mean of all miners' starts is theta after the update that is under way. Where
    fewer are accepted than divided by the update is shorter, and so is the share (by the last
    window).
    Source: eager updates (arXiv 2502.12996), there with the sender's share 1/R.
    """
    share = spec.training.own_update_share
    if not own or share == 0:
        return state.params
    if state.accepted_norms:
        _, last = state.accepted_norms[-1]
        share *= len(last) / step_divisor(state, len(last), spec.outer)
    updates = []
    for payload in own:
        references = clip_references(state, spec.outer, [payload.norms])
        staleness, norms = payload.header.staleness, payload.norms
        factors = coefficients(staleness, norms, references, spec.outer, 1.0 / share)
        updates.append((payload, factors))
    return apply_updates(state.params, updates)


def expected_params(
    state: OuterState, members: Sequence[Member], payloads: Mapping[int, Payload], spec: RunSpec
) -> Params:
    """theta one window on if just these members, in uid order, were accepted.

    `payloads` by uid; a member without one takes no part.
    """
    present = [member for member in members if member.uid in payloads]
    return apply_updates(state.params, _updates(state, present, payloads, spec.outer))


def outer_step(
    state: OuterState, decision: Accepted, payloads: Mapping[int, Payload], spec: RunSpec
) -> OuterState:
    """The state one window on: `decision` is on window `state.window - 1`.

    `payloads` holds the accepted ones by uid, less those that no node can admit: they take
    no part in the step, though the root names them. An empty set is a step too: only the
    root moves. Where the new window has a checkpoint, its digest enters the next root.
    """
    if decision.window != state.window - 1:
        raise ValueError(f"window {decision.window} cannot follow theta_{state.window}")
    accepted = [payloads[m.uid] for m in decision.members if m.uid in payloads]
    after = replace(
        state,
        window=state.window + 1,
        params=expected_params(state, decision.members, payloads, spec),
        root=next_root(state.root, decision.window, decision.members, state.checkpoint_digest),
        accepted_norms=_remember_norms(state, decision.window, accepted, spec.outer),
        voting_stakes_rao=(*state.voting_stakes_rao, decision.voting_stake_rao)[
            -spec.outer.quorum_windows :
        ],
        checkpoint_digest=b"",
    )
    if after.window % spec.checkpoint.every_windows:
        return after
    return replace(after, checkpoint_digest=state_digest(after))


def state_digest(state: OuterState) -> bytes:
    """Digest over everything that a checkpoint carries: tensors, norms, voting stakes."""
    history = [[window, [dict(n) for n in norms]] for window, norms in state.accepted_norms]
    carried = [state.window, dict(state.initial_norms), history, list(state.voting_stakes_rao)]
    canonical = json.dumps(carried, sort_keys=True).encode()
    return labelled_hash("tessera/checkpoint", tensors_digest(state.params), canonical)


def _updates(
    state: OuterState, members: Sequence[Member], payloads: Mapping[int, Payload], outer: OuterSpec
) -> list[tuple[Payload, Mapping[str, float]]]:
    """Each member's payload with its factors: the mean over all, clipped, and then capped."""
    accepted = [payloads[member.uid] for member in members]
    norms = [payload.norms for payload in accepted]
    references = clip_references(state, outer, norms)
    divisor = step_divisor(state, len(accepted), outer)
    factors = [
        coefficients(p.header.staleness, p.norms, references, outer, divisor) for p in accepted
    ]
    coldkeys = [member.coldkey for member in members]
    capped = cap_energy(factors, norms, coldkeys, outer.max_energy_share)
    return list(zip(accepted, capped, strict=True))


def _remember_norms(
    state: OuterState, window: int, accepted: Sequence[Payload], outer: OuterSpec
) -> tuple[tuple[int, tuple[Norms, ...]], ...]:
    norms = tuple(dict(p.norms) for p in accepted)
    recent = [entry for entry in state.accepted_norms if entry[0] > window - outer.clip_windows]
    return (*recent, (window, norms)) if norms else tuple(recent)
