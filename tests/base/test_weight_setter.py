"""Whose weights a validator sets where a run goes on at its planned end."""

from dataclasses import replace

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.base.memory import ValidatorMemory
from template.base.policy import ValidatorPolicy
from template.base.weight_setter import WeightSetter
from template.protocol.run import Run
from template.scoring.rules import pay_rules
from tests.support.successions import successor

END = 40


class Noting(ValidatorPolicy):
    """Notes of which window each row is."""

    def __init__(self) -> None:
        self.windows: list[int] = []

    def may_set_weights(self, memory: ValidatorMemory, window: int) -> bool:
        self.windows.append(window)
        return False


def test_a_run_that_goes_on_at_its_end_never_pays_for_an_earlier_window(tmp_path) -> None:
    """The last window of a run is paid out of turn; the succession's turns come thereafter."""
    world: World = build_world(
        {"owner": 0, "val-a": 9}, schedule__num_windows=END, schedule__tempo_blocks=45
    )
    context = world.context(hotkey_of("val-a"), tmp_path)
    run = Run(world.spec)
    period = next(w for w in range(1, END) if world.spec.schedule.pay_window(w) == w)
    run.extend(successor(run.newest, END, schedule__num_windows=END + 40))
    context = replace(context, run=run)
    policy = Noting()
    setter = WeightSetter(context, policy)
    memory = ValidatorMemory(rules=pay_rules(world.spec), last_voted=END + 20)
    assert period > 1, "every window would have a turn"
    for window in range(END - 2, END + 8):
        world.time.block = context.schedule.held_out_block(window + 1)
        setter._set_window = max(policy.windows, default=None)
        setter.set_if_due(window, memory)
    assert policy.windows == sorted(policy.windows)
    assert END - 1 in policy.windows
