"""A swarm of validators and miners in one process, through the whole protocol."""

from template.base.miner import Miner
from template.base.supervisor import supervise
from template.base.validator import Validator
from template.protocol.root import tensors_digest
from tests.fakes import hotkey_of
from tests.swarm import build_world, run_swarm

NAMES = {"owner": 0, "val-a": 1000, "val-b": 900, "m0": 0, "m1": 0, "m2": 0, "m3": 0}


def _run(world, make):
    started = {}

    def node(name, kind):
        def body():
            started[name] = kind(name)
            supervise(started[name].step, max_failures=1)

        return body

    failures = run_swarm(world, [node(name, kind) for name, kind in make.items()])
    assert failures == [None] * len(make), failures
    return started


def test_two_validators_and_four_miners_train_one_model(tmp_path):
    world = build_world(NAMES)
    make = {
        name: (lambda n: Validator(world.context(hotkey_of(n), tmp_path / n)))
        if name.startswith("val")
        else (lambda n: Miner(world.context(hotkey_of(n), tmp_path / n)))
        for name in list(NAMES)[1:]
    }
    nodes = _run(world, make)
    states = {name: node.follower.state for name, node in nodes.items()}
    assert {s.window for s in states.values()} == {world.spec.schedule.num_windows + 1}
    assert len({tensors_digest(s.params) for s in states.values()}) == 1
    assert len({s.root for s in states.values()}) == 1
    curve = nodes["val-a"].context.metrics.series("held_out_loss")
    assert curve[max(curve)] < curve[1] - 0.1, curve
    accepted = nodes["val-a"].context.metrics.series("accepted_uids")
    assert any(len(uids.split(",")) == 4 for uids in accepted.values()), accepted
