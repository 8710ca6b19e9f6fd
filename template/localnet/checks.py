"""What a good localnet run must show, checked on its report.

Owns the criteria and their sentences. Does not read anything but the report, so the same
checks hold for a report from disk.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Literal

from template.localnet.report import NeuronReport, Report, emission_shares
from template.localnet.roster import HONEST

WORKING = (HONEST, "bitflip")
"""Behaviours that do the work, the second on a faulty machine: they may be paid for it."""
MIN_LOSS_DROP_NATS = 0.3
MIN_HONEST_EMISSION_SHARE = 0.95
LONG_RUN_WINDOWS = 20
SHORT_DROP_NATS_PER_WINDOW = 0.005
"""What a run of fewer than LONG_RUN_WINDOWS must learn, below its first loss; longer ones must
end MIN_LOSS_DROP_NATS below that (theta_0 may be trained) and below the unigram entropy."""

LossReference = Literal["unigram", "first"]


def failures_of_run(report: Report, num_windows: int) -> list[str]:
    """`failures` by the standard for a run of that length.

    A node that a signal killed is no failure: the run must go on without it.
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
    """Sentences naming what does not hold; [] for a good run.

    The last held-out loss must be more than `min_loss_drop_nats` below the references: the
    unigram entropy, unless the run is too short for it, and the first loss. `killed`: names of
    nodes that were stopped on purpose and need not have ended well.
    """
    neurons = report["neurons"]
    return [
        *(f for r in loss_references for f in _loss_failures(report, min_loss_drop_nats, r)),
        *_emission_failures(report),
        *_exit_failures(neurons, killed),
        *_digest_failures(neurons),
        *_agreement_failures(report),
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
    honest = [miner for miner in miners if miner["behaviour"] in WORKING]
    shares = emission_shares(report)
    share = sum(shares[miner["name"]] for miner in honest)
    if not honest:
        yield "emission: there is no honest miner in this run"
    elif not any(miner["emission_rao"] > 0 for miner in honest):
        yield "emission: no honest miner earned anything"
    elif share < MIN_HONEST_EMISSION_SHARE:
        yield (
            f"emission: honest miners hold {share:.2%} of the miners' emission, less than "
            f"{MIN_HONEST_EMISSION_SHARE:.0%}"
        )
    for miner in miners:
        if miner["behaviour"] not in WORKING and miner["emission_rao"] != 0:
            yield (
                f"emission: {miner['name']} ({miner['behaviour']}) has {miner['emission_rao']} "
                "rao; who does no honest work must have none"
            )


def _exit_failures(neurons: Collection[NeuronReport], killed: Collection[str]) -> Iterator[str]:
    for neuron in neurons:
        if _should_follow(neuron) and neuron["exit"] != 0 and neuron["name"] not in killed:
            ended = "never ended" if neuron["exit"] is None else f"exited {neuron['exit']}"
            yield f"exit: {neuron['name']} {ended}; see its log"


def _digest_failures(neurons: Collection[NeuronReport]) -> Iterator[str]:
    """Of the nodes that exited 0, those that ended on other parameters than most did."""
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
    """Whether a node must follow the run to its end: the owner has no process that does."""
    return neuron["role"] != "owner" and neuron["behaviour"] == HONEST


def _final(neuron: NeuronReport) -> tuple[int, str]:
    return neuron["final_window"] or 0, neuron["final_params_digest"] or ""


def _shown(final: tuple[int, str]) -> str:
    window, digest = final
    return f"{digest[:16]} at state window {window}"


def _agreement_failures(report: Report) -> Iterator[str]:
    """Windows that a node which exited 0 saw otherwise than most nodes."""
    ended = {neuron["name"] for neuron in report["neurons"] if neuron["exit"] == 0}
    for window in report["windows"]:
        odd = [name for name in window["disagreeing"] if name in ended]
        if odd:
            yield (
                f"windows: {', '.join(odd)} disagree with most nodes on the root or the accepted "
                f"uids of window {window['window']}"
            )
