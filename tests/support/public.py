"""A run with most kinds of misbehaviour in it, gathered as a stranger sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localnet.adversaries.catalogue import BEHAVIOURS
from localnet.adversaries.validators import WeightCopier
from simulation.swarm import TINY, Drive, build_world, honest, run, to_the_end
from simulation.world import World, hotkey_of
from template.base.validator import Validator
from template.context import NodeContext
from template.public.facts import RunFacts
from template.public.gather import Gatherer
from template.public.payslip import payslip
from template.public.statements import Commands, Payslip
from template.public.view import RunView
from tests.support.audited import reader

WINDOWS = 6
HONEST_STAKES_TAO = {"val-a": 1000, "val-b": 900}
LIAR_STAKE_TAO = 150
"""Of each misbehaving validator: all together hold less than half of the stake."""
HONEST_MINERS = ("m0", "m1", "m2")


@dataclass
class Played:
    """A finished world and a folder for readers."""

    world: World
    folder: Path

    def gatherer(self) -> Gatherer:
        context = reader(self.world, self.folder / "reader")
        return Gatherer(context, netuid=1, network="local")

    def slips(self, facts: RunFacts, name: str) -> dict[int, Payslip]:
        """window -> payslip of a named neuron."""
        view, commands = RunView(facts), Commands(facts=facts)
        return {w: payslip(view, hotkey_of(name), w, commands) for w in sorted(facts.windows)}


def play(names: tuple[str, ...], folder: Path, **overrides: object) -> Played:
    """Two honest validators, three honest miners, and misbehaviours by their names."""
    validators = [name for name in names if BEHAVIOURS[name].role == "validator"]
    stakes = {"owner": 0, **HONEST_STAKES_TAO, **dict.fromkeys(validators, LIAR_STAKE_TAO)}
    stakes |= dict.fromkeys((*HONEST_MINERS, *(n for n in names if n not in validators)), 0)
    world = build_world(stakes, **{**TINY, "schedule__num_windows": WINDOWS, **overrides})
    drives: dict[str, Drive] = {name: to_the_end(BEHAVIOURS[name].build) for name in names}
    if "weight-copier" in names:
        drives["weight-copier"] = to_the_end(_copier_of(world))
    run(world, {**honest(*HONEST_STAKES_TAO, *HONEST_MINERS), **drives}, folder)
    return Played(world=world, folder=folder)


def _copier_of(world: World):
    """A weight copier that reads this world's ledger, which is no chain with an address."""

    def read_weights() -> Mapping[int, Mapping[int, float]]:
        uids = {n.hotkey: n.uid for n in world.ledger.neurons}
        return {uids[h]: rows[-1] for h, rows in list(world.ledger.weights.items())}

    def build(context: NodeContext) -> Validator:
        return Validator(context, policy=WeightCopier(context, read_weights))

    return build
