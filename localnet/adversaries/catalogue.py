"""All misbehaviours of a localnet by name: what each does, what it is, and what it may earn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from localnet.adversaries import copying, damaging, shirking, validators, withholding
from template.base.miner import Miner
from template.base.policy import ValidatorPolicy
from template.base.validator import Validator
from template.base.work import WorkFactory
from template.context import NodeContext

Role = Literal["miner", "validator"]
Kind = Literal["free", "partial", "sybil", "validator", "faulty"]
"""`free`: no honest work. `partial`: a share of it. `sybil`: one machine's work, on several
hotkeys. `faulty`: honest, on a broken machine. `validator`: a validator's."""

FREE_SHARE, PARTIAL_EXCESS = 0.1, 1.1


class Neuron(Protocol):
    """What a behaviour builds."""

    def step(self) -> bool: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """`about`: one line. `may_earn`: at most, as a share of an honest miner's emission, in one
    run; of hotkeys that are `sybil` all together. None: not limited. `first_window`: it is
    honest before.
    """

    role: Role = "miner"
    kind: Kind
    build: Callable[[NodeContext], Neuron]
    about: str
    may_earn: float | None
    first_window: int = 0


def _miner(work: WorkFactory) -> Callable[[NodeContext], Neuron]:
    return lambda context: Miner(context, work=work)


def _nothing(work: WorkFactory, about: str) -> Behaviour:
    """Payloads without any chance of a gain."""
    return Behaviour(kind="free", build=_miner(work), about=about, may_earn=0.0)


def _free(work: WorkFactory, about: str, first_window: int = 0) -> Behaviour:
    return Behaviour(
        kind="free",
        build=_miner(work),
        about=about,
        may_earn=FREE_SHARE,
        first_window=first_window,
    )


def _partial(work: WorkFactory, about: str, share: float) -> Behaviour:
    """`share`: of an honest miner's work."""
    return Behaviour(
        kind="partial", build=_miner(work), about=about, may_earn=PARTIAL_EXCESS * share
    )


def _validator(policy: Callable[[NodeContext], ValidatorPolicy], about: str) -> Behaviour:
    def build(context: NodeContext) -> Neuron:
        return Validator(context, policy=policy(context))

    return Behaviour(role="validator", kind="validator", build=build, about=about, may_earn=None)


SLEEPS_WINDOWS = 6

BEHAVIOURS: Mapping[str, Behaviour] = {
    "garbage": _nothing(damaging.Garbage, "random values at an honest norm"),
    "malformed": _nothing(damaging.Malformed, "frames that break a rule each"),
    "oversized": _nothing(damaging.Oversized, "objects a thousand times too long"),
    "idle": Behaviour(kind="free", build=damaging.IdleMiner, about="never commits", may_earn=0.0),
    "zero": _nothing(damaging.Zero, "payloads that say nothing"),
    "flipped": _nothing(partial(damaging.Scaled, factor=-1.0), "its work, sign turned"),
    "magnified": _partial(partial(damaging.Scaled, factor=10.0), "all of its work, times 10", 1.0),
    "magnified-1000": _partial(
        partial(damaging.Scaled, factor=1000.0), "all of its work, times 1000", 1.0
    ),
    "hijacker": _free(
        damaging.Hijacker, "colluding: minus three times the last update, on its coordinates"
    ),
    "inner-product": _free(copying.InnerProduct, "minus ten times the rivals' last mean"),
    "little-enough": _free(copying.LittleIsEnough, "their last mean less 1.5 deviations"),
    "loner": _free(copying.Loner, "noise on coordinates that no rival sent"),
    "copier": _free(copying.Copier, "a rival's last payload as its own"),
    "noisy-copier": _free(copying.NoisyCopier, "the same, with noise"),
    "partial-copier": _free(copying.PartialCopier, "two fifths of it, and noise"),
    "averager": _free(copying.Averager, "the mean of two rivals' last payloads"),
    "replayer": _free(copying.Replayer, "its own first payload for ever", first_window=1),
    "momentum-rider": _free(
        shirking.MomentumRider, "the last update again, and a tenth of the steps"
    ),
    "sleeper": _free(
        partial(damaging.Scaled, factor=-3.0, first_window=SLEEPS_WINDOWS),
        f"honest for {SLEEPS_WINDOWS} windows, then its work times -3",
        first_window=SLEEPS_WINDOWS,
    ),
    "undelivered": _nothing(withholding.Undelivered, "commits, never uploads"),
    "one-reader": Behaviour(
        kind="free",
        build=withholding.build_one_reader,
        about="honest work that one reader alone can fetch",
        may_earn=FREE_SHARE,
    ),
    "good-draws": _partial(withholding.GoodDraws, "commits all, uploads its better half", 1.0),
    "good-commits": _partial(withholding.GoodCommits, "commits its better half only", 1.0),
    "fewer-steps": _partial(
        partial(shirking.FewerSteps, share=0.5), "half of the steps, honestly claimed", 0.5
    ),
    "overclaimer": _partial(
        partial(shirking.FewerSteps, share=0.25, claims_all=True),
        "a quarter of the steps, all claimed",
        0.25,
    ),
    "small-batches": _partial(shirking.SmallBatches, "half of each batch, all claimed", 0.5),
    "overfitter": _partial(shirking.Overfitter, "all steps on a quarter of its pages", 1.0),
    "stale": _partial(shirking.Stale, "from parameters of four windows ago, claimed fresh", 1.0),
    "poisoner": _partial(shirking.Poisoner, "all steps, a trigger in every fourth page", 1.0),
    "split": Behaviour(
        kind="sybil",
        build=_miner(partial(shirking.FewerSteps, share=0.5)),
        about="half of a machine's steps: two must not earn more than one miner",
        may_earn=1.0,
    ),
    "bitflip": Behaviour(
        kind="faulty",
        build=_miner(damaging.BitFlip),
        about="honest, but a flipped bit from window 2 on: paid, named, exit 1",
        may_earn=None,
    ),
    "liar": _validator(
        lambda _: validators.Liar(),
        "names the worst payload, weighs it alone, calls honest ones missing",
    ),
    "weight-copier": _validator(validators.WeightCopier.of_chain, "scores nothing, copies weights"),
    "absent-namer": _validator(validators.AbsentNamer, "also names payloads that nobody has"),
    "silent": _validator(lambda _: validators.SilentValidator(), "scores, never votes"),
}
"""Name on the launcher's command line -> the behaviour."""


def listing() -> str:
    """One line per behaviour, for people."""
    width = max(map(len, BEHAVIOURS))
    return "\n".join(
        f"  {name:<{width}}  {behaviour.kind:<9}  {behaviour.about}"
        for name, behaviour in BEHAVIOURS.items()
    )
