"""Checks the report of a localnet run: loss, emission, exits, digests, agreement, model.

Owns the criteria and the sentences on failures. Reads only the report, so a report from disk
passes the same checks.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Literal

from localnet.config import LONG_RUN_WINDOWS, MIN_LOSS_DROP_NATS
from localnet.report import LOSS_TOLERANCE_NATS, MisbehaviourReport, NeuronReport, Report
from localnet.roster import HONEST

FREE, SYBIL = "free", "sybil"

LUCK = 0.25
"""Relative spread of pay between honest miners in one short run: the tolerance on a working
miner's `may_earn`."""
WORKING = (None, "partial", SYBIL, "faulty")
"""Kinds of miners with paid work. None is honest."""
MIN_HONEST_EMISSION_SHARE = 0.95
SHORT_DROP_NATS_PER_WINDOW = 0.005
"""Least fall of the loss below the first loss in a run of fewer than LONG_RUN_WINDOWS. A longer
run must end MIN_LOSS_DROP_NATS below the first loss (theta_0 may be trained) and below the
unigram entropy."""

LossReference = Literal["unigram", "first"]


def failures_of_run(report: Report, num_windows: int) -> list[str]:
    """`failures` by the standard for a run of `num_windows`.

    A node killed by a signal is allowed: the run must continue without the node.
    """
    killed = [n["name"] for n in report["neurons"] if n["exit"] is not None and n["exit"] < 0]
    if num_windows >= LONG_RUN_WINDOWS:
        return failures(report, killed=killed)
    drop = SHORT_DROP_NATS_PER_WINDOW * num_windows
    first: tuple[LossReference, ...] = ("first",)
    return failures(report, min_loss_drop_nats=drop, loss_references=first, killed=killed)


def failures(
    report: Report,
    *,
    min_loss_drop_nats: float = MIN_LOSS_DROP_NATS,
    loss_references: Collection[LossReference] = ("unigram", "first"),
    killed: Collection[str] = (),
) -> list[str]:
    """One sentence per failed check; [] for a good run.

    The last held-out loss must be more than `min_loss_drop_nats` below every reference.
    `killed`: names of nodes stopped on purpose; any exit status is good.
    """
    neurons = report["neurons"]
    return [
        *(f for r in loss_references for f in _loss_failures(report, min_loss_drop_nats, r)),
        *_emission_failures(report),
        *_exit_failures(neurons, killed),
        *_digest_failures(neurons),
        *_agreement_failures(report),
        *_model_failures(report),
    ]


def _loss_failures(
    report: Report, min_drop_nats: float, reference_name: LossReference
) -> Iterator[str]:
    losses = report["held_out_loss"]
    last, reference = losses["last"], losses[reference_name]
    if last is None or reference is None:
        missing = "last" if last is None else reference_name
        yield f"loss: held_out_loss.{missing} is missing or not finite; see the validators' logs"
    elif not last < reference - min_drop_nats:
        yield (
            f"loss: the last held-out loss is {last:.4f} nats per token; it must be more "
            f"than {min_drop_nats:g} below {reference_name} ({reference:.4f})"
        )


def _emission_failures(report: Report) -> Iterator[str]:
    miners = [neuron for neuron in report["neurons"] if neuron["role"] == "miner"]
    working = [miner for miner in miners if _kind(miner) in WORKING]
    total_rao = sum(miner["emission_rao"] for miner in miners)
    free_rao = sum(_dishonest_rao(miner) for miner in miners if _kind(miner) == "free")
    if not working:
        yield "emission: the run has no honest miner"
    elif not any(miner["emission_rao"] > 0 for miner in working):
        yield "emission: no honest miner earned anything"
    elif free_rao > (1 - MIN_HONEST_EMISSION_SHARE) * total_rao:
        yield (
            f"emission: honest work holds {1 - free_rao / total_rao:.2%} of the miners' emission, "
            f"less than {MIN_HONEST_EMISSION_SHARE:.0%}"
        )
    for miner in miners:
        yield from _limit_failures(miner)
    yield from _sybil_failures(miners)


def _limit_failures(miner: NeuronReport) -> Iterator[str]:
    """A sentence on a miner with more emission than `may_earn`."""
    found = miner["misbehaviour"]
    if found is None or found["may_earn"] is None or found["kind"] == SYBIL:
        return
    who = f"emission: {miner['name']} ({miner['behaviour']})"
    if found["may_earn"] == 0.0 and found["emission_rao"] != 0:
        yield f"{who} earned {found['emission_rao']} rao; a miner without honest work must earn 0"
    elif found["earned_vs_honest"] is not None and found["earned_vs_honest"] > _most(found):
        yield (
            f"{who} earned {found['earned_vs_honest']:.3f} of an honest miner's emission; "
            f"the limit is {found['may_earn']:.2f}"
        )


def _most(found: MisbehaviourReport) -> float:
    """`may_earn`, plus LUCK for every kind with some work."""
    may_earn = found["may_earn"] or 0.0
    return may_earn if found["kind"] == FREE else may_earn * (1 + LUCK)


def _sybil_failures(miners: Collection[NeuronReport]) -> Iterator[str]:
    """A sentence on hotkeys of one machine with more emission together than `may_earn`."""
    found = [m["misbehaviour"] for m in miners if _kind(m) == SYBIL]
    earned = sum((f["earned_vs_honest"] or 0.0) for f in found if f is not None)
    most = max((_most(f) for f in found if f is not None), default=0.0)
    if earned > most:
        yield (
            f"emission: {len(found)} hotkeys of one machine earned {earned:.3f} of an honest "
            f"miner's emission together; the limit is {most / (1 + LUCK):.2f}"
        )


def _kind(miner: NeuronReport) -> str | None:
    return None if miner["misbehaviour"] is None else miner["misbehaviour"]["kind"]


def _dishonest_rao(miner: NeuronReport) -> int:
    return 0 if miner["misbehaviour"] is None else miner["misbehaviour"]["emission_rao"]


def _exit_failures(neurons: Collection[NeuronReport], killed: Collection[str]) -> Iterator[str]:
    for neuron in neurons:
        if _should_follow(neuron) and neuron["exit"] != 0 and neuron["name"] not in killed:
            ended = "never ended" if neuron["exit"] is None else f"exited {neuron['exit']}"
            yield f"exit: {neuron['name']} {ended}; see its log"


def _digest_failures(neurons: Collection[NeuronReport]) -> Iterator[str]:
    """Sentences on nodes with exit status 0, but parameters different from the majority's."""
    ended = [neuron for neuron in neurons if neuron["exit"] == 0]
    finals = {n["name"]: _final(n) for n in ended if n["final_params_digest"] is not None}
    counts = Counter(finals.values())
    if not counts:
        yield "digests: no node that exited 0 has a digest of its parameters"
        return
    majority = min(counts, key=lambda final: (-counts[final], final))
    for name, final in finals.items():
        if final != majority:
            yield (
                f"digests: {name} ended on {_shown(final)}, "
                f"{counts[majority]} of {len(finals)} nodes on {_shown(majority)}"
            )
    for neuron in ended:
        if _should_follow(neuron) and neuron["final_params_digest"] is None:
            yield f"digests: {neuron['name']} exited 0 without a digest of its parameters"


def _should_follow(neuron: NeuronReport) -> bool:
    """Whether a node must follow the run to the end. The owner runs no process."""
    return neuron["role"] != "owner" and neuron["behaviour"] == HONEST


def _final(neuron: NeuronReport) -> tuple[int, str]:
    return neuron["final_window"] or 0, neuron["final_params_digest"] or ""


def _shown(final: tuple[int, str]) -> str:
    window, digest = final
    return f"{digest[:16]} at state window {window}"


def _agreement_failures(report: Report) -> Iterator[str]:
    """Sentences on windows with a different root or uids on a node with exit status 0."""
    ended = {neuron["name"] for neuron in report["neurons"] if neuron["exit"] == 0}
    for window in report["windows"]:
        odd = [name for name in window["disagreeing"] if name in ended]
        if odd:
            yield (
                f"windows: {', '.join(odd)} disagree with most nodes on the root or the accepted "
                f"uids of window {window['window']}"
            )


def _model_failures(report: Report) -> Iterator[str]:
    """Sentences on a model that no reader could have, or with a loss that no validator measured."""
    model, losses = report["model"], report["held_out_loss"]["per_window"]
    if report["model_fault"]:
        yield f"model: the newest checkpoint cannot be had: {report['model_fault']}"
    if model is None or model["window"] > len(losses):
        return
    expected, loss = losses[model["window"] - 1], model["loss"]
    if expected is not None and (loss is None or abs(loss - expected) > LOSS_TOLERANCE_NATS):
        yield (
            f"model: theta_{model['window']} as fetched has a held-out loss of "
            f"{'none' if loss is None else f'{loss:.6f}'}; the validators measured {expected:.6f}"
        )
