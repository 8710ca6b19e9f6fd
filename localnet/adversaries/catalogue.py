"""The attacks as real neurons of a local chain: `attacks` lists, this module builds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Protocol

from localnet.adversaries import (
    copying,
    damaging,
    repeating,
    shirking,
    validators,
    withholding,
)
from localnet.adversaries.attacks import ATTACKS, SLEEPS_WINDOWS, Attack
from template.base.conduct import WorkFactory
from template.base.miner import Miner
from template.base.policy import ValidatorPolicy
from template.base.validator import Validator
from template.context import NodeContext


class Neuron(Protocol):
    """A running neuron."""

    def step(self) -> bool: ...

    def stop(self) -> None: ...


Build = Callable[[NodeContext], Neuron]


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour(Attack):
    """An attack by a real neuron. `build` makes the neuron."""

    build: Build


def _miner(work: WorkFactory) -> Build:
    return lambda context: Miner(context, work=work)


def _validator(policy: Callable[[NodeContext], ValidatorPolicy]) -> Build:
    return lambda context: Validator(context, policy=policy(context))


_BUILDS: Mapping[str, Build] = {
    "garbage": _miner(damaging.Garbage),
    "malformed": _miner(damaging.Malformed),
    "oversized": _miner(damaging.Oversized),
    "idle": damaging.IdleMiner,
    "zero": _miner(damaging.Zero),
    "flipped": _miner(partial(damaging.Scaled, factor=-1.0)),
    "magnified": _miner(partial(damaging.Scaled, factor=10.0)),
    "magnified-1000": _miner(partial(damaging.Scaled, factor=1000.0)),
    "hijacker": _miner(damaging.Hijacker),
    "inner-product": _miner(copying.InnerProduct),
    "little-enough": _miner(copying.LittleIsEnough),
    "loner": _miner(copying.Loner),
    "copier": _miner(copying.Copier),
    "noisy-copier": _miner(copying.NoisyCopier),
    "partial-copier": _miner(copying.PartialCopier),
    "averager": _miner(copying.Averager),
    "replayer": _miner(copying.Replayer),
    "repeater": _miner(repeating.Repeater),
    "momentum-rider": _miner(shirking.MomentumRider),
    "sleeper": _miner(partial(damaging.Scaled, factor=-3.0, first_window=SLEEPS_WINDOWS)),
    "undelivered": _miner(withholding.Undelivered),
    "one-reader": withholding.build_one_reader,
    "good-draws": _miner(withholding.GoodDraws),
    "good-commits": _miner(withholding.GoodCommits),
    "fewer-steps": _miner(partial(shirking.FewerSteps, share=0.5)),
    "overclaimer": _miner(partial(shirking.FewerSteps, share=0.25, claims_all=True)),
    "small-batches": _miner(shirking.SmallBatches),
    "overfitter": _miner(shirking.Overfitter),
    "stale": _miner(shirking.Stale),
    "poisoner": _miner(shirking.Poisoner),
    "split": _miner(partial(shirking.FewerSteps, share=0.5)),
    "bitflip": _miner(damaging.BitFlip),
    "liar": _validator(lambda _: validators.Liar()),
    "weight-copier": _validator(validators.WeightCopier.of_chain),
    "absent-namer": _validator(validators.AbsentNamer),
    "false-root": _validator(partial(validators.FalseVoter, lie=validators.Lie.ROOT)),
    "false-sample": _validator(partial(validators.FalseVoter, lie=validators.Lie.SAMPLE)),
    "silent": _validator(lambda _: validators.SilentValidator()),
    "pace-up": _validator(lambda _: validators.Accelerator()),
}


def _behaviour(attack: Attack, build: Build) -> Behaviour:
    listed = {field.name: getattr(attack, field.name) for field in fields(Attack)}
    return Behaviour(**listed, build=build)


BEHAVIOURS: Mapping[str, Behaviour] = {
    name: _behaviour(attack, _BUILDS[name]) for name, attack in ATTACKS.items()
}
"""Name on the launcher's command line -> the attack by a real neuron."""
