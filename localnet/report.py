"""The report of a finished localnet run: one dict read from chain, buckets and logs.

Owns the report's keys and the reading of each number. Only wall time and restarts come from the
launcher's memory. `checks` judges a report; `table` and `picture` show a report.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from localnet.adversaries.attacks import ATTACKS
from localnet.events import NodeEvents, accepted_uids, read_node_events, verdict_files
from localnet.pacer import PaceReport
from localnet.pay import LATE_TEMPOS, Pay
from localnet.roster import HONEST
from localnet.tallies import (
    bucket_bytes,
    claimed_pages,
    committed_counts,
    final_digests,
    mean_weights,
    refusal_counts,
)
from template.chain import Chain, Neuron
from template.protocol.spec import RunSpec
from template.store import Store
from template.training.card import Facts

RAO_PER_ALPHA = 10**9
LOSS_TOLERANCE_NATS = 1e-6
"""Validators measure equal parameters on equal pages. A larger spread counts as a difference."""


@dataclass(frozen=True, kw_only=True)
class NodeInfo:
    """One participant of the run.

    `role`: "owner", "validator" or "miner". `behaviour`: "honest", or a name of the catalogue
    of attacks ("idle", "garbage", ...). `speed`: as --speeds says. `state_dir` may be missing: the
    owner has no process.
    `exit`: the exit status; None for a running process or no process.
    """

    name: str
    role: str
    behaviour: str
    hotkey: str
    state_dir: Path
    log_path: Path | None
    exit: int | None
    speed: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The inputs of a report, all read-only.

    `initial_alpha_rao`: hotkey -> alpha staked just before the first window. `weights`: the
    weights on chain, validator uid -> destination uid -> share. `buckets`: hotkey -> bucket,
    only listed and sized. `restarts`: process -> number of restarts after a crash. `wall_s`:
    seconds since the launcher started. `pace`: of the blocks. `model`: what a reader fetched from
    chain and buckets; None for a run too short for a checkpoint, and with `model_fault`.
    `reveal_epochs`: epochs by which weights count later, 0 without commit-reveal.
    """

    spec: RunSpec
    nodes: tuple[NodeInfo, ...]
    chain: Chain
    initial_alpha_rao: Mapping[str, int]
    weights: Mapping[int, Mapping[int, float]]
    buckets: Mapping[str, Store]
    restarts: Mapping[str, int]
    wall_s: float
    pace: PaceReport | None = None
    model: Facts | None = None
    model_fault: str = ""
    reveal_epochs: int = 0


class LossReport(TypedDict):
    """Held-out loss, nats per token. `per_window[i]`: the loss at the parameters of state window
    i + 1, None if unknown or not finite. `first`, `last`: the two ends of `per_window`.
    `unigram`: the entropy of single tokens on the same text. `differing`: state window ->
    validator -> loss, only for windows with a difference between validators.
    """

    first: float | None
    last: float | None
    per_window: list[float | None]
    unigram: float | None
    differing: dict[str, dict[str, float | None]]


class WindowReport(TypedDict):
    """One decided window; `disagreeing`: names of nodes with another root or uids in the log."""

    window: int
    accepted_uids: list[int]
    state_root: str
    disagreeing: list[str]


class SwitchReport(TypedDict):
    """A succession: the first window whose payloads are made and judged by the new spec."""

    window: int
    spec_id: str


class MisbehaviourReport(TypedDict):
    """Pay of a misbehaving neuron. `kind`: see `localnet.adversaries`. `first_window`: honest
    before. `emission_rao`: gained in all epochs with knowledge of `first_window`.
    `earned_vs_honest`: `emission_rao` over the mean of the honest miners, or for a validator
    over the honest validators' gain for equal stake; None if the honest neurons gained 0.
    `may_earn`: the limit of `earned_vs_honest`, for a sybil of all hotkeys together; None for
    no limit.
    """

    kind: str
    first_window: int
    emission_rao: int
    earned_vs_honest: float | None
    may_earn: float | None


class NeuronReport(TypedDict):
    """One neuron. `weight`: stake-weighted mean over the validators' weights; None for owner
    and validators without weight. `emission`: alpha gained since the first window, exact in
    `emission_rao`. `refusals`: status -> number of verdicts, summed over honest validators.
    A miner's `speed`: of its inner steps, as --speeds says; `utilisation`: the median share of a
    window's time in inner steps, None if unknown; `pages_claimed`: in all payloads that a validator
    opened; `work_share`: of all honest miners' pages, None for others.
    `final_window`: the state window of `final_params_digest`. `misbehaviour`: None if honest.
    """

    name: str
    uid: int | None
    hotkey: str
    role: str
    behaviour: str
    weight: float | None
    incentive: float | None
    emission: float
    emission_rao: int
    payloads_committed: int
    payloads_accepted: int
    bytes_uploaded: int
    speed: float
    utilisation: float | None
    pages_claimed: int
    work_share: float | None
    refusals: dict[str, int]
    final_window: int | None
    final_params_digest: str | None
    exit: int | None
    misbehaviour: MisbehaviourReport | None


class ModelReport(TypedDict):
    """The model that a reader fetched at the end: theta_window, and its loss as the reader measured
    it on the pages of the loss curve; None if no bucket had them.
    """

    window: int
    lineage_root: str
    parameters: int
    loss: float | None


class Report(TypedDict):
    """The whole report, written to JSON without conversion. `restarts`: process (neurons,
    "chain", "buckets") -> number of restarts after a crash. `model`: None for a run too short for a
    checkpoint, and where `model_fault` says why no reader could have the model.
    """

    run_id: str
    held_out_loss: LossReport
    windows: list[WindowReport]
    switches: list[SwitchReport]
    neurons: list[NeuronReport]
    restarts: dict[str, int]
    model: ModelReport | None
    model_fault: str
    pace: PaceReport | None
    wall_s: float


def collect(sources: Sources) -> Report:
    """Read the report of a run with ended neurons, at the last finalised block, without waiting.

    Raises ChainError or StoreError if chain or buckets cannot be read.
    """
    events = {node.name: read_node_events(node.state_dir) for node in sources.nodes}
    windows = _windows(events, sources.spec.schedule.num_windows)
    return {
        "run_id": sources.spec.run_id.hex(),
        "held_out_loss": _losses({n.name: events[n.name] for n in _validators(sources)}),
        "windows": windows,
        "switches": _switches(events),
        "neurons": _neurons(sources, _tally(sources, events, windows)),
        "restarts": dict(sources.restarts),
        "model": _model(sources.model),
        "model_fault": sources.model_fault,
        "pace": sources.pace,
        "wall_s": sources.wall_s,
    }


def _model(facts: Facts | None) -> ModelReport | None:
    if facts is None:
        return None
    return {
        "window": facts.window,
        "lineage_root": facts.lineage_root,
        "parameters": facts.parameters,
        "loss": facts.loss_nats,
    }


def emission_shares(report: Report) -> dict[str, float]:
    """Miner's name -> share of all miners' emission; 0.0 for each if the sum is 0."""
    miners = [neuron for neuron in report["neurons"] if neuron["role"] == "miner"]
    total_rao = sum(miner["emission_rao"] for miner in miners)
    return {m["name"]: m["emission_rao"] / total_rao if total_rao else 0.0 for m in miners}


def _validators(sources: Sources) -> list[NodeInfo]:
    return [node for node in sources.nodes if node.role == "validator"]


def _losses(events: Mapping[str, NodeEvents]) -> LossReport:
    per_window: list[float | None] = []
    differing = {}
    for window in range(1, max((w for e in events.values() for w in e.losses), default=0) + 1):
        measured = {name: e.losses[window] for name, e in events.items() if window in e.losses}
        per_window.append(next(iter(measured.values()), None))
        if not _alike(list(measured.values())):
            differing[str(window)] = measured
    unigrams = [e.unigram_nats for e in events.values() if e.unigram_nats is not None]
    return {
        "first": per_window[0] if per_window else None,
        "last": per_window[-1] if per_window else None,
        "per_window": per_window,
        "unigram": unigrams[0] if unigrams else None,
        "differing": differing,
    }


def _alike(losses: Sequence[float | None]) -> bool:
    known = [loss for loss in losses if loss is not None]
    if not known:
        return True
    return len(known) == len(losses) and max(known) - min(known) <= LOSS_TOLERANCE_NATS


def _windows(events: Mapping[str, NodeEvents], num_windows: int) -> list[WindowReport]:
    """Every decided window of the run, with the root and uids of most nodes.

    A tie goes to the least. Windows after the run's end, in which nothing can be accepted, are
    left out.
    """
    reports: list[WindowReport] = []
    for window in sorted({w for e in events.values() for w in e.decisions if w < num_windows}):
        seen = {
            name: (e.decisions[window]["state_root"], tuple(accepted_uids(e.decisions[window])))
            for name, e in events.items()
            if window in e.decisions
        }
        counts = Counter(seen.values())
        root, uids = min(counts, key=lambda value: (-counts[value], value))
        reports.append(
            {
                "window": window,
                "accepted_uids": list(uids),
                "state_root": root,
                "disagreeing": [name for name, value in seen.items() if value != (root, uids)],
            }
        )
    return reports


def _switches(events: Mapping[str, NodeEvents]) -> list[SwitchReport]:
    """Every adopted spec, by its first window, as any node's rows tell."""
    specs = {window: spec for node in events.values() for window, spec in node.specs.items()}
    return [{"window": window, "spec_id": specs[window]} for window in sorted(specs)]


@dataclass(frozen=True, kw_only=True)
class _Tallies:
    """The counts behind the rows of all neurons, read once."""

    neurons: Mapping[str, Neuron]
    pay: Pay
    weights: Mapping[int, float]
    committed: Mapping[str, int]
    accepted: Mapping[int, int]
    refusals: Mapping[str, Mapping[str, int]]
    finals: Mapping[str, tuple[int, str] | None]
    utilisations: Mapping[str, float]
    pages: Mapping[str, int]
    honest_pages: int


def _tally(
    sources: Sources, events: Mapping[str, NodeEvents], windows: Sequence[WindowReport]
) -> _Tallies:
    schedule = sources.spec.schedule
    graph = sources.chain.metagraph(sources.chain.finalized())
    logs = [
        path
        for n in _validators(sources)
        if n.behaviour == HONEST
        for path in verdict_files(n.state_dir)
    ]
    pages = claimed_pages(logs)
    return _Tallies(
        neurons={neuron.hotkey: neuron for neuron in graph.neurons},
        pay=Pay(
            sources.chain,
            schedule,
            sources.initial_alpha_rao,
            late_tempos=LATE_TEMPOS + sources.reveal_epochs,
        ),
        weights=mean_weights(sources.weights, graph),
        committed=committed_counts(sources.chain, sources.spec, schedule.num_windows),
        accepted=Counter(uid for window in windows for uid in window["accepted_uids"]),
        refusals=refusal_counts(logs),
        finals=final_digests(events, {n.name for n in sources.nodes if n.exit == 0}),
        utilisations={
            name: statistics.median(e.utilisations.values())
            for name, e in events.items()
            if e.utilisations
        },
        pages=pages,
        honest_pages=sum(pages[n.hotkey] for n in sources.nodes if _is_honest_miner(n)),
    )


def _neurons(sources: Sources, tallies: _Tallies) -> list[NeuronReport]:
    return [_neuron(node, sources, tallies) for node in sources.nodes]


def _neuron(node: NodeInfo, sources: Sources, tallies: _Tallies) -> NeuronReport:
    """One row. A deregistered hotkey has uid None and zeros for every count by uid."""
    neuron = tallies.neurons.get(node.hotkey)
    emission_rao, weight, accepted = 0, None, 0
    if neuron is not None:
        emission_rao = tallies.pay.gained_rao(node.hotkey)
        weight = tallies.weights.get(neuron.uid)
        accepted = tallies.accepted.get(neuron.uid, 0)
    if weight is None and node.role == "miner":
        weight = 0.0
    final_window, final_digest = tallies.finals[node.name] or (None, None)
    return {
        "name": node.name,
        "uid": None if neuron is None else neuron.uid,
        "hotkey": node.hotkey,
        "role": node.role,
        "behaviour": node.behaviour,
        "weight": weight,
        "incentive": None if neuron is None else neuron.incentive,
        "emission": emission_rao / RAO_PER_ALPHA,
        "emission_rao": emission_rao,
        "payloads_committed": tallies.committed.get(node.hotkey, 0),
        "payloads_accepted": accepted,
        "bytes_uploaded": bucket_bytes(sources.buckets.get(node.hotkey)),
        "speed": node.speed,
        "utilisation": tallies.utilisations.get(node.name),
        "pages_claimed": tallies.pages.get(node.hotkey, 0),
        "work_share": _work_share(node, tallies),
        "refusals": dict(sorted(tallies.refusals.get(node.hotkey, {}).items())),
        "final_window": final_window,
        "final_params_digest": final_digest,
        "exit": node.exit,
        "misbehaviour": _misbehaviour(node, sources, tallies.pay),
    }


def _is_honest_miner(node: NodeInfo) -> bool:
    return (node.role, node.behaviour) == ("miner", HONEST)


def _work_share(node: NodeInfo, tallies: _Tallies) -> float | None:
    if not _is_honest_miner(node) or not tallies.honest_pages:
        return None
    return tallies.pages.get(node.hotkey, 0) / tallies.honest_pages


def _misbehaviour(node: NodeInfo, sources: Sources, pay: Pay) -> MisbehaviourReport | None:
    behaviour = ATTACKS.get(node.behaviour)
    if behaviour is None:
        return None
    honest = [n.hotkey for n in sources.nodes if (n.role, n.behaviour) == (node.role, HONEST)]
    first = behaviour.first_window
    return {
        "kind": behaviour.kind,
        "first_window": first,
        "emission_rao": pay.gained_rao(node.hotkey, first),
        "earned_vs_honest": pay.against(
            node.hotkey, honest, first, by_stake=node.role == "validator"
        ),
        "may_earn": behaviour.may_earn,
    }
