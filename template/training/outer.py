"""The outer step: theta_{w+2} from theta_{w+1} and the accepted payloads of window w.

theta <- theta - alpha * sum_i w_{i,t} c_{i,t} g_{i,t} delta_i, w_{i,t} = lambda^staleness /
max(|A_{w,t}|, n_min), c_{i,t} the clip and g_{i,t} the caps of length and energy, 1 or near 1 for
all among equal honest miners; alpha is in the state, and the votes move alpha
(`template.training.alpha`). A_{w,t}: the accepted payloads that hold tensor t, all but those of a
part of the model without t.
Pure, and the same bits on every node: coefficients are IEEE doubles made with + - * / and
square root only. Each value is multiplied by the coefficient, then added, payload after payload
in ascending uid order. A theta with a checkpoint is rounded to 24 bits (`compression.rounding`) as
the last part of the step, so that three bytes a parameter hold it exactly.

Source: SparseLoCo (arXiv 2508.15706), equation 2: the mean over all R peers. The paper's published
code averages over the senders of each coordinate instead, so a lone sender has full control of
coordinates without another sender.
"""

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from torch import Tensor

from compression import HeldUpdates, Plan, aggregate, round_to_short
from template.protocol.hashing import labelled_hash
from template.protocol.lineage import Accepted
from template.protocol.payload import Payload
from template.protocol.quorum import next_reference
from template.protocol.root import (
    Member,
    first_root,
    next_root,
)
from template.protocol.spec import OuterSpec, RunSpec
from template.training.alpha import alpha_at, next_exponent
from template.training.energy import Norms, cap_energy, cap_lengths
from template.training.memory import KEPT
from template.training.norms import count_accepted, pack_norms
from template.training.spread import SpreadTensors, digest_of, norms_of, shapes_of


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownDigest:
    """`digest`: of `params` (`template.protocol.tree`), 32 bytes."""

    params: Mapping[str, Tensor]
    digest: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class OuterState:
    """The state of the run at one window; a node carries this state from step to step.

    `params`: theta_window. `root`: R_window, 32 bytes. `initial_norms`: norms of theta_0's
    tensors. `accepted_norms`: (window, norms of each payload accepted in the window), latest
    last, `clip_windows` at most. `reference_rao`: the reference stake of the last window
    (`template.protocol.quorum`). `exponent`: of alpha (`template.training.alpha`); follows from
    the votes on all windows before. `checkpoint_digest`: part of the next root, then empty again.
    `known_digest`: no part of the state; theta need not be hashed again.
    """

    window: int
    params: Mapping[str, Tensor]
    root: bytes
    initial_norms: Norms
    accepted_norms: tuple[tuple[int, tuple[Norms, ...]], ...] = ()
    reference_rao: int = 0
    exponent: int = 0
    checkpoint_digest: bytes = b""
    known_digest: KnownDigest | None = field(default=None, compare=False, repr=False)

    def digest(self) -> KnownDigest:
        """The digest of theta: the known one, or hashed now."""
        known = self.known_digest
        # A state made of another by a change of `params` has the other's digest: of no use here.
        if known is None or known.params is not self.params:
            return KnownDigest(params=self.params, digest=digest_of(self.params))
        return known

    def hashed(self) -> "OuterState":
        """The same state, with the digest of theta known."""
        return replace(self, known_digest=self.digest())

    def alpha(self, outer: OuterSpec) -> float:
        """The factor on the mean of the payloads in the step from this state, and in its scores."""
        return alpha_at(self.exponent, outer.outer_lr)

    @property
    def is_last_applied(self) -> bool:
        """Whether the step to this state applied a payload."""
        return bool(self.accepted_norms) and self.accepted_norms[-1][0] == self.window - 2


def first_state(params: Mapping[str, Tensor], run_id: bytes) -> OuterState:
    """The state at window 1: theta_0, since the first update is in force at window 2."""
    known = KnownDigest(params=params, digest=digest_of(params))
    return OuterState(
        window=1,
        params=params,
        root=first_root(run_id, known.digest),
        initial_norms=norms_of(params),
        known_digest=known,
    )


def clip_references(
    state: OuterState, outer: OuterSpec, present: Iterable[Norms] = ()
) -> dict[str, float]:
    """nu_t per tensor: the lower median of the norms accepted in the last windows.

    Before the first accepted payload with the tensor: the lower median over the window's own
    payloads, `present`, limited to a share of the tensor's norm in theta_0, with a floor.
    """
    usual, names = _usual_norms(state), state.initial_norms
    if len(usual) == len(names):
        return {name: usual[name] for name in names}
    limits, norms = _initial_limits(state, outer), list(present)
    own = {name: min(limits[name], _lower_median(name, norms, limits[name])) for name in names}
    return {name: usual.get(name, own[name]) for name in names}


def _usual_norms(state: OuterState) -> dict[str, float]:
    """The lower median of each tensor of which a payload was accepted in the last windows."""
    accepted = [norms for _, members in state.accepted_norms for norms in members]
    medians = {name: _lower_median(name, accepted, math.nan) for name in state.initial_norms}
    return {name: median for name, median in medians.items() if not math.isnan(median)}


def has_usual_norms(state: OuterState) -> bool:
    """Whether payloads of the last windows alone bound those of the next, tensor by tensor."""
    return len(_usual_norms(state)) == len(state.initial_norms)


def _lower_median(name: str, norms: Sequence[Norms], without: float) -> float:
    """The lower median over the payloads that hold the tensor; `without` if none does."""
    held = [each[name] for each in norms if name in each]
    # The lower median is one of the norms; the mean of the middle two would round.
    return statistics.median_low(held) if held else without


def _initial_limits(state: OuterState, outer: OuterSpec) -> dict[str, float]:
    return {
        name: max(outer.initial_norm_share * norm, _norm_floor(name, state, outer))
        for name, norm in state.initial_norms.items()
    }


def _norm_floor(name: str, state: OuterState, outer: OuterSpec) -> float:
    return outer.initial_norm_floor * math.sqrt(math.prod(shapes_of(state.params)[name]))


def clip(norm: float, reference: float, factor: float) -> float:
    """c = min(1, kappa * nu / norm); 1 for a tensor of norm zero."""
    # Compared before dividing: a norm of zero never becomes a divisor.
    limit = factor * reference
    return 1.0 if norm <= limit else limit / norm


def staleness_weight(staleness: int, decay: float) -> float:
    """lambda^s by repeated multiplication; the last bit of `pow` differs between platforms."""
    weight = 1.0
    for _ in range(staleness):
        weight *= decay
    return weight


def step_divisor(state: OuterState, count: int, outer: OuterSpec, name: str | None = None) -> int:
    """The divisor of the sum of `count` accepted payloads: max(count, n_min, usual).

    `usual` is the lower median of the counts of recent windows with accepted payloads. So few
    payloads make a short step: a payload in a thin window is applied little further than scored.
    `name`: counts the payloads that hold the tensor; None: all payloads.
    """
    counts = [_num_holding(name, members) for _, members in state.accepted_norms]
    usual = statistics.median_low(counts) if counts else 0
    return max(count, outer.min_divisor, usual)


def step_divisors(
    state: OuterState, present: Sequence[Norms], outer: OuterSpec
) -> dict[str, float]:
    """The divisor of each tensor's sum; `present`: norms of the payloads added."""
    return {
        name: step_divisor(state, _num_holding(name, present), outer, name)
        for name in state.initial_norms
    }


def _num_holding(name: str | None, norms: Sequence[Norms]) -> int:
    return len(norms) if name is None else sum(name in each for each in norms)


def coefficients(
    alpha: float,
    staleness: int,
    norms: Norms,
    references: Norms,
    outer: OuterSpec,
    divisor: float | Mapping[str, float],
) -> dict[str, float]:
    """alpha * lambda^s / divisor * c_{i,t} per tensor of a payload with `norms`, as doubles.

    `alpha`: `OuterState.alpha`; the run spec has the first alpha alone. `divisor`: of all tensors,
    or by name.
    """
    by_name = divisor if isinstance(divisor, Mapping) else dict.fromkeys(norms, divisor)
    weight = staleness_weight(staleness, outer.staleness_decay)
    # The order of the products is part of the protocol: another order rounds differently.
    return {
        name: alpha * (weight / by_name[name]) * clip(norm, references[name], outer.clip_factor)
        for name, norm in norms.items()
    }


def scored_references(
    state: OuterState, present: Iterable[Norms], outer: OuterSpec
) -> dict[str, float]:
    """References of the clip before the vote, per tensor.

    Before the first accepted payload with a tensor, all payloads of the window stand in for the
    accepted set. A floor keeps empty payloads from clipping honest payloads to zero.
    """
    references, usual = clip_references(state, outer, present), _usual_norms(state)
    return {
        name: nu if name in usual else max(nu, _norm_floor(name, state, outer))
        for name, nu in references.items()
    }


def scored_coefficients(
    alpha: float,
    staleness: int,
    norms: Norms,
    references: Norms,
    outer: OuterSpec,
    share: float,
) -> dict[str, float]:
    """Coefficients for scoring a payload: `share` of the full step, clipped as when applied.

    Scored at a shorter step, an oversized or spiky payload would show a gain and still do harm
    when applied.
    """
    return coefficients(alpha, staleness, norms, references, outer, divisor=1.0 / share)


Updates = Sequence[tuple[Payload, Mapping[str, float]]]
"""Payloads with factors by tensor name, in the order of addition."""


def apply_updates(
    params: Mapping[str, Tensor], updates: Updates, *, is_short: bool = False
) -> Mapping[str, Tensor]:
    """New parameters: theta minus the sum of factor * payload, added in the order given.

    `params` stays unchanged. Payloads are decoded chunk by chunk during the addition. `is_short`:
    round the sum to 24 bits.
    """
    groups = list(_by_plan(updates))
    if isinstance(params, SpreadTensors):
        if not groups:
            return params.updated((), None, is_short=True) if is_short else params
        *before, (last, plan) = groups
        for group, its_plan in before:
            params = params.updated(_signed(group), its_plan)
        return params.updated(_signed(last), plan, is_short=is_short)
    after = {name: KEPT.copy_of(tensor) for name, tensor in params.items()}
    for group, plan in groups:
        aggregate(after, _signed(group), plan)
    if is_short:
        for tensor in after.values():
            round_to_short(tensor)
    return after


def _signed(updates: Updates) -> Iterator[tuple[memoryview, Mapping[str, float]]]:
    # The factor carries the sign. torch's add(alpha=) may fuse product and sum into one rounding
    # on some machines; `aggregate` rounds factor, product and sum to float32 in turn.
    for payload, factors in updates:
        yield payload.body, {name: -factor for name, factor in factors.items()}


def _by_plan(updates: Updates) -> Iterator[tuple[Updates, Plan]]:
    """The updates in their order, cut where the length of bodies changes.

    At a succession a miner may have payloads under way of two specs.
    """
    for _, group in groupby(updates, key=lambda update: update[0].plan.top_k):
        found = list(group)
        yield found, found[0][0].plan


def updated_when_read(
    params: Mapping[str, Tensor], updates: Updates, *, is_short: bool = False
) -> Mapping[str, Tensor]:
    """The parameters of `apply_updates`, each tensor made anew when asked for, and not kept."""
    if isinstance(params, SpreadTensors):
        groups = list(_by_plan(updates))
        if not groups:
            return params.with_updates((), None, is_short=True) if is_short else params
        *before, (last, plan) = groups
        for group, its_plan in before:
            params = params.updated(_signed(group), its_plan)
        return params.with_updates(_signed(last), plan, is_short=is_short)
    return UpdatedParams(params, updates, is_short=is_short)


class UpdatedParams(Mapping[str, Tensor]):
    """The parameters of `apply_updates`, each tensor made anew when asked for, and not kept.

    The same bits. For a reader of one tensor after another: theta is in memory anyway, and a
    miner has no room for a second one beside training. The values are those of `params` when asked.
    """

    def __init__(
        self, params: Mapping[str, Tensor], updates: Updates, *, is_short: bool = False
    ) -> None:
        self._params, self._is_short = params, is_short
        self._updates = [HeldUpdates(_signed(group), plan) for group, plan in _by_plan(updates)]

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._params[name]
        if not self._updates and not self._is_short:
            return tensor
        made = KEPT.copy_of(tensor)
        for held in self._updates:
            held.add_to(made, name)
        if self._is_short:
            round_to_short(made)
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._params)

    def __len__(self) -> int:
        return len(self._params)


def start_of_miner(
    state: OuterState, own: Sequence[Payload], spec: RunSpec
) -> Mapping[str, Tensor]:
    """Parameters at which a miner with pending payloads `own` starts the inner loop.

    theta - share * alpha * lambda^s * c_{i,t} * delta_i, as if the miner were the only sender: the
    miner's own work stands in for the work of all. With the mean rule, the mean of all miners'
    starts is theta after the pending update, so the lag of a window costs less. If the last
    window's divisor exceeded the number of payloads, the share shrinks in proportion.
    The caps of length and energy compare payloads of the window, which a miner does not have yet: a
    payload that will be cut counts in full here.
    Source: eager updates (arXiv 2502.12996), there with the sender's share 1/R.
    """
    share = spec.training.own_update_share
    if not own or share == 0:
        return state.params
    shares = dict.fromkeys(state.initial_norms, share)
    if state.accepted_norms:
        _, last = state.accepted_norms[-1]
        for name in shares:
            # A tensor that nobody sent counts as sent by one: this miner sends it now, perhaps.
            count = max(1, _num_holding(name, last))
            shares[name] *= count / step_divisor(state, count, spec.outer, name)
    updates, alpha = [], state.alpha(spec.outer)
    for payload in own:
        references = clip_references(state, spec.outer, [payload.norms])
        staleness, norms = payload.header.staleness, payload.norms
        divisors = {name: 1.0 / share for name, share in shares.items()}
        factors = coefficients(alpha, staleness, norms, references, spec.outer, divisors)
        updates.append((payload, factors))
    return updated_when_read(state.params, updates)


def has_checkpoint(window: int, spec: RunSpec) -> bool:
    """Whether theta_window has a checkpoint: the step rounds theta, and the root covers theta."""
    return window % spec.checkpoint.every_windows == 0


def expected_params(
    state: OuterState, members: Sequence[Member], payloads: Mapping[int, Payload], spec: RunSpec
) -> Mapping[str, Tensor]:
    """theta of the next window, with `members` (in uid order) as the accepted set.

    `payloads` by uid; a member without a payload takes no part.
    """
    updates = _weigh_present(state, members, payloads, spec)
    return apply_updates(state.params, updates, is_short=has_checkpoint(state.window + 1, spec))


def previewed_params(
    state: OuterState, members: Sequence[Member], payloads: Mapping[int, Payload], spec: RunSpec
) -> Mapping[str, Tensor]:
    """As `expected_params`, without room for a second theta: made tensor by tensor when read."""
    updates = _weigh_present(state, members, payloads, spec)
    return updated_when_read(state.params, updates, is_short=has_checkpoint(state.window + 1, spec))


def outer_step(
    state: OuterState, decision: Accepted, payloads: Mapping[int, Payload], spec: RunSpec
) -> OuterState:
    """The state of the next window; `decision` is on window `state.window - 1`.

    `payloads`: the accepted payloads by uid. A member with inadmissible bytes is absent: the root
    covers the member, the step ignores the payload. With an empty set only the root changes, and
    theta by the rounding. The step is taken with the alpha of `state`; the decision's pace moves
    the alpha of the state returned. In a window with a checkpoint, theta is rounded to 24 bits, and
    the state's digest becomes part of the next root.
    ValueError for a decision on another window.
    """
    if decision.window != state.window - 1:
        raise ValueError(f"window {decision.window} cannot follow theta_{state.window}")
    # Members without an admissible payload leave no norms, but the root names all members.
    accepted = [payloads[m.uid] for m in decision.members if m.uid in payloads]
    after = replace(
        state,
        window=state.window + 1,
        params=expected_params(state, decision.members, payloads, spec),
        root=next_root(
            state.root,
            decision.window,
            decision.members,
            state.checkpoint_digest,
            decision.voting_stake_rao,
            decision.pace,
            decision.adopted,
        ),
        accepted_norms=_append_norms(state, decision.window, accepted, spec.outer),
        reference_rao=next_reference(
            state.reference_rao, decision.voting_stake_rao, spec.outer.quorum_rules()
        ),
        exponent=next_exponent(state.exponent, decision.pace),
        checkpoint_digest=b"",
        # The digest of the theta before would keep that theta in memory.
        known_digest=None,
    )
    if not has_checkpoint(after.window, spec):
        return after
    after = after.hashed()
    return replace(after, checkpoint_digest=state_digest(after))


def params_digest(state: OuterState) -> bytes:
    """Digest of theta; 32 bytes."""
    return state.digest().digest


def state_digest(state: OuterState) -> bytes:
    """Digest over the contents of a checkpoint: tensors, norms, stake, exponent; 32 bytes."""
    names = sorted(state.initial_norms)
    counts = count_accepted(state.accepted_norms)
    carried = [state.window, names, counts, state.reference_rao, state.exponent]
    norms = pack_norms(state.initial_norms, state.accepted_norms)
    canonical = json.dumps(carried).encode()
    return labelled_hash("tessera/checkpoint", params_digest(state), canonical, norms)


def _weigh_present(
    state: OuterState, members: Sequence[Member], payloads: Mapping[int, Payload], spec: RunSpec
) -> Updates:
    present = [member for member in members if member.uid in payloads]
    return _weigh_payloads(state, present, payloads, spec.outer)


def _weigh_payloads(
    state: OuterState, members: Sequence[Member], payloads: Mapping[int, Payload], outer: OuterSpec
) -> list[tuple[Payload, Mapping[str, float]]]:
    """Each member's payload with factors per tensor: mean, clip, cap of length, cap of energy."""
    accepted = [payloads[member.uid] for member in members]
    norms = [payload.norms for payload in accepted]
    references = clip_references(state, outer, norms)
    divisors, alpha = step_divisors(state, norms, outer), state.alpha(outer)
    factors = [
        coefficients(alpha, p.header.staleness, p.norms, references, outer, divisors)
        for p in accepted
    ]
    coldkeys = [member.coldkey for member in members]
    sizes = {name: math.prod(shape) for name, shape in shapes_of(state.params).items()}
    # The caps come last: they compare the lengths with which payloads are really applied.
    even = cap_lengths(factors, norms, coldkeys, outer.max_length_ratio)
    capped = cap_energy(even, norms, coldkeys, outer.max_energy_share, sizes)
    return list(zip(accepted, capped, strict=True))


def _append_norms(
    state: OuterState, window: int, accepted: Sequence[Payload], outer: OuterSpec
) -> tuple[tuple[int, tuple[Norms, ...]], ...]:
    # A window without payloads leaves no entry: it says little about usual norms and counts.
    norms = tuple(dict(p.norms) for p in accepted)
    recent = [entry for entry in state.accepted_norms if entry[0] > window - outer.clip_windows]
    return (*recent, (window, norms)) if norms else tuple(recent)
