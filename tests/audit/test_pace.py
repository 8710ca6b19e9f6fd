"""Alpha moves while a small swarm runs: all who follow, join, restart, replay or audit agree."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from evaluation import pace
from evaluation.verdict_log import WindowLog, decode_log, encode_log
from evaluation.verify import verify_logs
from evaluation.work import HELD_OUT
from localnet.adversaries.catalogue import BEHAVIOURS
from simulation.swarm import Drive, build_world, digests, honest, metrics, run, to_the_end
from simulation.world import World, hotkey_of
from template.audit.auditor import Auditor
from template.audit.logs import audit_windows, logs_in_files
from template.audit.replay import replay_run
from template.base.miner import Miner
from template.base.supervisor import supervise
from template.base.validator import Validator
from template.context import NodeContext
from template.peers.client import Peers
from template.scoring.rules import pay_rules
from template.training.alpha import alpha_at
from tests.support.archive import Archive
from tests.support.audited import FORGED, WINDOWS, Bench, published, reader

STAKES_TAO = {
    "owner": 0, "val-a": 1000, "val-b": 900, "val-c": 300, "faster": 800,
    "m0": 0, "m1": 0, "m2": 0, "late": 0,
}  # fmt: skip
"""The one who always wants a larger alpha has 27 % of the stake."""
RESTARTS_IN, JOINS_IN = 2, 4


class Killed(BaseException):
    """A process that ends here and now."""


def restarting(world: World, context: NodeContext) -> Validator:
    """A validator that is killed in the middle, and starts again from its own checkpoint."""
    first = Validator(context)

    def step() -> bool:
        if first.follower.next_window == RESTARTS_IN:
            raise Killed
        return first.step()

    with pytest.raises(Killed):
        supervise(step, max_failures=1)
    again = Validator(world.context(context.hotkey, context.state_dir))
    assert again.memory == first.memory
    assert again.memory.paces
    assert again.follower.state.exponent == first.follower.state.exponent
    supervise(again.step, max_failures=1)
    return again


def joining(_world: World, context: NodeContext) -> Miner:
    context.waiter.until_head(context.schedule.first_block(JOINS_IN))
    node = Miner(context)
    assert node.follower.state.window > 1, "from a published state"
    supervise(node.step, max_failures=1)
    return node


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> tuple[World, dict]:
    world = build_world(
        STAKES_TAO,
        schedule__num_windows=WINDOWS,
        checkpoint__every_windows=2,
        training__inner_steps=3,
        outer__outer_lr=1.0,
    )
    archives = {hotkey: Archive() for hotkey in world.buckets if hotkey != hotkey_of("owner")}
    world.buckets |= archives
    drives: dict[str, Drive] = {
        **honest("val-a", "val-b", "m0", "m1", "m2"),
        "val-c": restarting,
        "faster": to_the_end(BEHAVIOURS["pace-up"].build),
        "late": joining,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "PACE_Z", 0.0)
        nodes = run(world, drives, tmp_path_factory.mktemp("run"))
    for bucket in archives.values():
        bucket.is_closed = False
    return world, nodes


@pytest.fixture
def world(ended, monkeypatch) -> World:
    """The opinions are those of the run."""
    monkeypatch.setattr(pace, "PACE_Z", 0.0)
    return ended[0]


@pytest.fixture
def bench(world, tmp_path) -> Bench:
    return Bench(world, tmp_path)


def test_nodes_that_follow_join_or_restart_end_with_one_model_and_one_alpha(ended) -> None:
    world, nodes = ended
    assert len(digests(nodes)) == 1
    assert len({node.follower.state.exponent for node in nodes.values()}) == 1
    alphas = metrics(nodes["m0"]).series("outer_lr")
    assert sorted(alphas) == list(range(WINDOWS))
    assert len(set(alphas.values())) > 2, "alpha has moved more than once"
    end = nodes["m0"].follower.state
    assert alphas[WINDOWS - 1] == alpha_at(end.exponent, world.spec.outer.outer_lr)
    for name in ("late", "val-c", "val-a"):
        seen = metrics(nodes[name]).series("outer_lr")
        assert seen
        assert seen.items() <= alphas.items(), name


def test_each_move_is_the_opinion_in_honest_logs_and_not_that_of_the_minority(world) -> None:
    logs = [decode_log(data.decode()) for data in published(world, "val-a").values()]
    others = [decode_log(data.decode()) for data in published(world, "val-b").values()]
    assert [log.pace for log in logs] == [log.pace for log in others]
    moves = [b.exponent - a.exponent for a, b in pairwise(logs)]
    assert moves == [log.pace for log in logs[:-1]]
    assert [log.measured.half_way_H is None for log in logs] == [True] + [False] * (WINDOWS - 1)
    restarted = [decode_log(data.decode()) for data in published(world, "val-c").values()]
    assert restarted[RESTARTS_IN].measured.half_way_H is None, "just started"
    assert restarted[RESTARTS_IN + 1].measured.half_way_H is not None


def test_a_replay_comes_to_the_same_alpha(ended, world, tmp_path) -> None:
    context = reader(world, tmp_path)
    replayed = replay_run(context, Peers(context), 1, lambda _line: None)
    end = ended[1]["val-a"].follower.state
    assert replayed.start == 1
    assert (replayed.state.exponent, replayed.state.root) == (end.exponent, end.root)
    assert replayed.wrong == {}


@pytest.mark.parametrize("name", ["val-a", "val-c"])
def test_honest_logs_follow_and_audit_clean(world, name, tmp_path) -> None:
    data = published(world, name)
    logs = [decode_log(log.decode()) for log in data.values()]
    assert verify_logs(logs, pay_rules(world.spec)).found == ()
    auditor = Auditor(reader(world, tmp_path), hotkey_of(name), 1)
    found = list(audit_windows(auditor, logs_in_files(data), 0, WINDOWS - 1))
    assert [line for each in found for line in each.wrong] == []
    assert not [line for each in found for line in each.unknown if "half-way" in line]
    assert [each.num_losses for each in found] == [_num_losses(log) for log in logs]


def _num_losses(log: WindowLog) -> int:
    half_way_H = log.measured.half_way_H
    own = 0 if half_way_H is None else half_way_H.size
    return log.ids_S.size + sum(len(a) for a in log.measured.after_KQ.values()) + own


def test_a_vote_against_the_own_log_is_named_by_an_audit(world, tmp_path) -> None:
    data = published(world, "faster")
    auditor = Auditor(reader(world, tmp_path), hotkey_of("faster"), 1)
    found = list(audit_windows(auditor, logs_in_files(data), 0, WINDOWS - 1))
    paces = {window: decode_log(log.decode()).pace for window, log in data.items()}
    named = [each.window for each in found if any("pace of alpha" in w for w in each.wrong)]
    assert named == [window for window, own in paces.items() if own != 1] != []


Forge = Callable[[Bench], WindowLog]


def _another_pace(bench: Bench) -> WindowLog:
    return replace(bench.honest, pace=0)


def _a_pace_that_was_not_voted(bench: Bench) -> WindowLog:
    """The losses half-way say so, too."""
    measured, wrong = bench.honest.measured, -bench.honest.pace
    half_way_H = measured.held_out_H + wrong
    forged = replace(bench.honest, measured=replace(measured, half_way_H=half_way_H))
    assert bench.resigned(forged).pace == wrong != 0
    return bench.resigned(forged)


def _an_exponent(bench: Bench) -> WindowLog:
    return bench.resigned(replace(bench.honest, exponent=-64))


@pytest.mark.parametrize(
    ("forge", "expected"),
    [
        (_another_pace, "window 3: the pace of alpha is "),
        (_a_pace_that_was_not_voted, "window 3, vote: pace of alpha by the log "),
        (_an_exponent, "window 3, exponent of alpha is "),
    ],
)
def test_a_forgery_is_named(forge: Forge, expected: str, bench) -> None:
    assert bench.audit(bench.honest).wrong == []
    found = bench.audit(forge(bench))
    assert any(line.startswith(expected) for line in found.wrong), found


def test_losses_half_way_are_measured_again_and_a_change_is_named(world, bench, tmp_path) -> None:
    """With the parameters before the step; without, the losses are the validator's word."""
    half_way_H = bench.honest.measured.half_way_H.copy()
    half_way_H[3] += 1.1 * world.spec.evaluation.loss_tolerance
    measured = replace(bench.honest.measured, half_way_H=half_way_H)
    forged = bench.resigned(replace(bench.honest, measured=measured))
    logs = {**published(world, "val-a"), FORGED: encode_log(forged).encode()}
    auditor = Auditor(reader(world, tmp_path), hotkey_of("val-a"), 1)
    found = list(audit_windows(auditor, logs_in_files(logs), 0, FORGED))[FORGED]
    ids_H = forged.ids_S[forged.measured.owners_S == HELD_OUT]
    expected = f"window 3: loss half-way on page {ids_H[3]}, number 3 of the pool, is "
    assert [line for line in found.wrong if line.startswith(expected)]

    found = bench.audit(forged)
    assert not any("half-way" in line for line in found.wrong)
    assert any("lacks the parameters before the last step" in line for line in found.unknown)


def test_no_losses_half_way_accuse_nobody(bench) -> None:
    """A validator that has just started holds no parameters of before."""
    measured = replace(bench.honest.measured, half_way_H=None)
    found = bench.audit(bench.resigned(replace(bench.honest, measured=measured)))
    assert not any("half-way" in line for line in [*found.wrong, *found.unknown])


def test_losses_half_way_through_no_step_are_named(world, bench, tmp_path) -> None:
    """Window 0 is scored at theta_1, to which no step leads."""
    first = bench.logs[0]
    measured = first.measured
    invented = replace(measured, half_way_H=measured.held_out_H + 1)
    data = {0: encode_log(replace(first, measured=invented, pace=1)).encode()}
    auditor = Auditor(reader(world, tmp_path), hotkey_of("val-a"), 1)
    (found,) = audit_windows(auditor, logs_in_files(data), 0, 0)
    assert any("losses half-way is none, since" in line for line in found.wrong), found
