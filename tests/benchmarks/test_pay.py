"""The benchmark of pay over work: its figures, its machines, and what is read from a localnet."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.attacks.actor import Actor
from benchmarks.attacks.idle import Zero
from benchmarks.attacks.panel import Setting
from benchmarks.attacks.working import Fewer
from benchmarks.learning.trial import Trial
from benchmarks.pay import cases, figures, localnet, neurons, picture, report
from benchmarks.pay.cases import FIRST, SETTLED, SPLIT, USUAL, Case, Wide
from benchmarks.pay.prices import figures_of, shares_of
from benchmarks.pay.suite import OfTheWholeText, PaidSwarm
from simulation.swarm import neurons_of, open_world, small_run
from simulation.world import hotkey_of
from template.scoring.rules import pay_rules

BEFORE = [[0.0, 9.0, 0.0, 5.0]] * FIRST
"""Windows that must not count."""
PAIRS = SETTLED - FIRST
"""Pairs of windows that count; half of them are settled."""
USUALS = [{"name": USUAL, "work": 1.0}] * 3


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def row(half: float, extra: float = 0.0) -> dict[str, Any]:
    """Three usual machines at 0.2, 0.3 and 0.25 of pay on average, and one with `half`."""
    shares = [[0.2, 0.3, 0.2, half - extra], [0.2, 0.3, 0.3, half + extra]]
    machines = [*USUALS, {"name": "0.5 of the steps", "work": 0.5}]
    return {"machines": machines, "shares": [*BEFORE, *shares * PAIRS]}


def test_pay_is_over_the_usual_machines_and_a_usual_one_over_the_others() -> None:
    assert figures.pays(row(0.125, extra=0.1)) == pytest.approx(
        [0.2 / 0.275, 0.3 / 0.225, 0.25 / 0.25, 0.125 / 0.25]
    )
    nothing = {"machines": row(0.1)["machines"], "shares": [*BEFORE, [0.0, 0.0, 0.0, 1.0]]}
    with pytest.raises(ValueError, match="earned nothing"):
        figures.pays(nothing)
    with pytest.raises(ValueError, match="windows; pay counts from"):
        figures.pays({"machines": USUALS, "shares": BEFORE})


def test_a_point_is_the_mean_over_seeds_with_students_interval() -> None:
    points = figures.curve([row(0.1), row(0.15)], "suite")
    assert [point["name"] for point in points] == ["0.5 of the steps", USUAL], "by work"
    half = points[0]
    # Pay of 0.4 and 0.6: mean 0.5, standard error 0.1, t of one degree of freedom 12.706.
    assert half["pay"] == pytest.approx(0.5)
    assert (half["low"], half["high"]) == pytest.approx((0.5 - 1.2706, 0.5 + 1.2706))
    assert (half["work"], half["seeds"], half["where"]) == (0.5, 2, "suite")
    assert not figures.outside(half)
    assert half["settled"] == pytest.approx(0.5)
    late = row(0.1)
    late["shares"][FIRST] = [0.2, 0.3, 0.2, 1.7]
    late["shares"][-4:] = [[0.2, 0.3, 0.25, 0.0], [0.2, 0.3, 0.25, 0.2]] * 2
    assert figures.curve([late], "suite")[0]["unpaid"] == 2 / (2 * PAIRS)
    assert figures.curve([late], "suite")[0]["settled"] == pytest.approx(0.4)
    assert figures.curve([late], "suite")[0]["pay"] == pytest.approx(0.8)
    (alone, _) = figures.curve([row(0.15)], "swarm")
    assert (alone["low"], alone["high"]) == (None, None)
    assert figures.outside(alone), "0.6 of the pay for 0.5 of the work"
    assert figures.outside({"work": 2.0, "pay": 1.69})


def test_chance_averages_out_and_a_lasting_difference_does_not() -> None:
    rng = np.random.default_rng(5)
    chance_WU = 0.2 * (1 + 0.1 * rng.standard_normal((4000, 5)))
    assert figures.deviation([chance_WU], 1) == pytest.approx(0.1, rel=0.05)
    assert figures.deviation([chance_WU], 16) == pytest.approx(0.025, rel=0.1)
    lasting_WU = np.tile([0.18, 0.2, 0.22], (40, 1))
    assert figures.deviation([lasting_WU], 1) == pytest.approx(0.1)
    assert figures.deviation([lasting_WU], 20) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="no run has 41 windows"):
        figures.deviation([lasting_WU], 41)


def test_a_day_is_as_many_windows_or_as_many_as_a_run_has() -> None:
    rng = np.random.default_rng(6)
    shares_WM = 0.2 * (1 + 0.1 * rng.standard_normal((FIRST + 32, 6)))
    shares_WM[:, 5] *= 3
    machines = [*USUALS, *USUALS[:2], {"name": "width 2", "work": 2.0}]
    equal = {"machines": machines, "shares": shares_WM.tolist()}
    each, slow, fast = figures.noise([equal], {"slow": 10_800.0, "fast": 7.0})
    assert (each["windows"], each["averaged"]) == (1, 1)
    assert (slow["windows"], slow["averaged"]) == (8, 8)
    assert (fast["windows"], fast["averaged"]) == (12_343, 32)
    assert each["sd"] == pytest.approx(0.1, rel=0.15), "machines of other work do not count"
    assert 0.02 < slow["sd"] < 0.06
    assert 0.005 < fast["sd"] < 0.04
    assert report.window_seconds()["72b"] == 1380


def split_row(shares: list[float]) -> dict[str, Any]:
    team = [{"name": SPLIT, "work": 1 / len(shares)}] * len(shares)
    usual = [[0.2, 0.2, 0.2, *shares]]
    return {"machines": [*USUALS, *team], "shares": [*BEFORE, *usual]}


def test_a_split_machines_hotkeys_are_paid_together() -> None:
    one, two, four = figures.splitting(
        [(4, split_row([0.06] * 4)), (1, split_row([0.21])), (2, split_row([0.1, 0.104]))]
    )
    assert [line["hotkeys"] for line in (one, two, four)] == [1, 2, 4]
    assert [line["pay"] for line in (one, two, four)] == pytest.approx([1.05, 1.02, 1.2])
    assert [line["holds"] for line in (one, two, four)] == [True, True, False]
    assert [line["limit"] for line in (one, two, four)] == [None, 1.05, 1.10]


def test_the_parts_of_a_split_machine_add_up_to_its_steps() -> None:
    for hotkeys in cases.SPLITS:
        case = Case(where="suite", seed=1, hotkeys=hotkeys)
        machines = cases.suite_machines(case)
        assert cases.usual_uids(machines) == list(range(cases.HONEST))
        team = machines[cases.HONEST :]
        assert len(team) == hotkeys
        assert sum(machine.work for machine in team) == pytest.approx(1.0)
        equal = figures.equal_uids({"machines": list(map(asdict, machines))})
        assert len(equal) == cases.HONEST + (hotkeys == 1)


def test_work_is_what_an_actor_trains() -> None:
    assert cases.work_of(Actor(), 30) == 1.0
    assert cases.work_of(Wide(4), 30) == 4.0
    # A quarter of 30 steps is 8 steps, and counts as 8.
    assert cases.work_of(Fewer(0.25), 30) == pytest.approx(8 / 30)
    machines = cases.suite_machines(Case(where="suite", seed=1))
    works = [machine.work for machine in machines]
    assert works == pytest.approx([1.0] * 4 + [0.1, 8 / 30, 0.5, 2.0, 4.0])


def test_every_case_is_played_under_a_key_of_its_own() -> None:
    everything = cases.everything()
    assert len({case.key for case in everything}) == len(everything)
    assert {case.key for case in cases.quick()} < {case.key for case in everything}


TINY = replace(
    cases.suite_trial(Case(where="suite", seed=1)),
    model="tiny",
    rounds=2,
    inner_steps=4,
    warm_steps=4,
)


class Watched(PaidSwarm):
    """`trained`, `claimed`: pages of each window and uid."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.trained: dict[int, list[np.ndarray]] = {}
        self.claimed: dict[int, list[np.ndarray]] = {}
        train = self.workers.trained

        def trained(start_N, miner, batches, rates):
            self.trained.setdefault(miner, []).append(np.concatenate(batches))
            return train(start_N, miner, batches, rates)

        self.workers.trained = trained  # type: ignore[method-assign]

    def _through_the_door(self, number, messages, consumed):
        for uid, pages in consumed.items():
            self.claimed.setdefault(uid, []).append(pages)
        return super()._through_the_door(number, messages, consumed)


def test_a_wide_actor_trains_and_claims_as_many_batches_in_each_step() -> None:
    swarm = Watched(TINY, [Actor(), Wide(3), Fewer(0.5)])
    swarm.run()
    usual = TINY.inner_steps * TINY.batch_pages
    for uid, pages in ((0, usual), (1, 3 * usual), (2, usual // 2)):
        for window in range(TINY.rounds):
            assert swarm.claimed[uid][window].shape == (pages, 64)
            assert np.array_equal(swarm.claimed[uid][window], swarm.trained[uid][window])
    verdicts = swarm.outcome.verdicts[-1]
    assert [verdict.width for verdict in verdicts] == [1, 3, 1]
    assert [verdict.pages_consumed for verdict in verdicts] == [usual, 3 * usual, usual // 2]


class Lenient(OfTheWholeText):
    """Workers of a run whose work test is sure after little evidence."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial)
        self.spec = replace(self.spec, evaluation=replace(self.spec.evaluation, work_error=0.45))


class LenientSwarm(PaidSwarm):
    make_workers = Lenient


def test_pay_from_the_record_is_the_pay_of_the_swarm() -> None:
    roster = [Actor(), Wide(2), Fewer(0.5), Zero()]
    setting = Setting(claimed_pages=48, work_effect=0.1)
    swarm = LenientSwarm(replace(TINY, rounds=6), roster, setting=setting)
    swarm.run()
    recorded = [[figures_of(v) for v in verdicts] for verdicts in swarm.outcome.verdicts]
    spec = swarm.workers.spec
    evaluation = replace(spec.evaluation, claimed_pages=48, work_effect=0.1)
    rules = pay_rules(replace(spec, evaluation=evaluation))
    found = shares_of(json.loads(json.dumps(recorded)), rules, spec.outer.quorum_rules())
    played = [[shares.get(uid, 0.0) for uid in range(4)] for shares in swarm.outcome.shares]
    assert found == played
    assert found[0] == [0.0] * 4, "nobody is paid yet"
    assert sum(share > 0.05 for share in found[-1]) >= 2, "nobody was ever paid"
    assert found[-1][3] == 0.0


def test_pages_come_from_all_of_the_text_and_repeat_rarely() -> None:
    workers = OfTheWholeText(replace(TINY, miners=9))
    drawn = [workers.draw(8, step, 4) for step in range(300)]
    pages = [page.tobytes() for page in np.concatenate(drawn)]
    assert len(pages) == 300 * 4 * TINY.batch_pages
    # In a shard of a ninth, 9,600 draws of 17,000 pages would repeat a fourth.
    assert len(set(pages)) > 0.93 * len(pages)


def test_weights_stand_until_the_next_are_written() -> None:
    written = [(1, {3: 0.5, 4: 0.25}), (1, {3: 0.4, 4: 0.3}), (3, {4: 1.0})]
    assert neurons.standing(written, [3, 4], 5) == [
        [0.0, 0.0], [0.4, 0.3], [0.4, 0.3], [0.0, 1.0], [0.0, 1.0],
    ]  # fmt: skip


def test_the_world_notes_the_block_of_the_validators_weights_alone() -> None:
    world = open_world(neurons.DatedWorld, neurons_of(neurons.STAKES), small_run(neurons.STAKES))
    world.time.block = 77
    world.chain(hotkey_of(neurons.VALIDATOR)).set_weights({2: 0.25, 0: 0.75})
    world.chain(hotkey_of("m0")).set_weights({2: 1.0})
    assert world.written == [(77, {2: 0.25, 0: 0.75})]
    assert world.ledger.weights[hotkey_of(neurons.VALIDATOR)] == [{2: 0.25, 0: 0.75}]


def verdict(name: str, window: int, **fields: Any) -> dict[str, Any]:
    usual = {"width": 1, "model_share": 1.0, "pages_consumed": 240, "kind": "verdict"}
    return {"hotkey": hotkey_of(name), "window": window, **usual, **fields}


def test_work_of_a_neuron_counts_steps_width_and_part() -> None:
    verdicts = [
        verdict(name, window)
        for name in neurons.POINTS
        if name not in (neurons.WIDE, neurons.PART)
        for window in (FIRST - 1, FIRST, FIRST + 1)
    ]
    verdicts += [verdict(neurons.WIDE, FIRST, width=2, pages_consumed=480)]
    verdicts += [verdict(neurons.PART, FIRST - 1, model_share=0.9)]
    verdicts += [verdict(neurons.PART, FIRST + i, model_share=0.4 + 0.2 * i) for i in (0, 1)]
    works = [machine.work for machine in neurons.machines(verdicts)]
    assert works == pytest.approx([1.0, 1.0, 1.0, 0.5, 8 / 30, 2.0, 0.5])


def neuron(name: str, emission_rao: int, **fields: Any) -> dict[str, Any]:
    usual = {"role": "miner", "behaviour": "honest", "speed": 1.0}
    return {"name": name, "hotkey": hotkey_of(name), "emission_rao": emission_rao} | usual | fields


NEURONS = [
    neuron("validator-1", 900, role="validator"),
    neuron("miner-1", 100),
    neuron("miner-2", 300),
    neuron("miner-3", 50, speed=0.25),
    neuron("miner-4", 420),
    neuron("miner-5", 80),
    neuron("miner-6", 7, behaviour="idle"),
]


def localnet_rows() -> list[dict[str, Any]]:
    """Of two validators, who saw the same; one line is of another kind."""
    rows = [
        verdict("miner-1", 3), verdict("miner-2", 3), verdict("miner-3", 3, pages_consumed=60),
        verdict("miner-4", 3, width=2, pages_consumed=480), verdict("miner-5", 3, model_share=0.5),
        verdict("miner-1", 4), verdict("miner-2", 4), verdict("miner-4", 4, pages_consumed=None),
    ]  # fmt: skip
    return [*rows, *rows, {"kind": "weights"}]


def test_a_localnets_miners_are_points_by_pages_of_the_whole_model() -> None:
    done = localnet.pages_by_hotkey(localnet_rows())
    assert done[hotkey_of("miner-1")] == 480
    assert done[hotkey_of("miner-5")] == 120
    points = {point["name"]: point for point in localnet.points_of(NEURONS, done)}
    assert set(points) == {f"miner-{number}" for number in range(1, 6)}
    # The usual machines are miners 1, 2 and 4, of 480 pages each: 273 1/3 rao on average.
    unit = (100 + 300 + 420) / 3
    assert points["miner-3"]["work"] == pytest.approx(60 / 480)
    assert points["miner-3"]["pay"] == pytest.approx(50 / unit)
    assert points["miner-5"]["work"] == pytest.approx(0.25)
    assert points["miner-2"]["pay"] == pytest.approx(300 / unit)
    with pytest.raises(ValueError, match="no honest miner of full speed"):
        localnet.points_of(NEURONS, {})
    with pytest.raises(ValueError, match="earned nothing"):
        localnet.points_of([neuron("miner-1", 0)], done)


def test_the_record_becomes_the_three_tables_and_the_picture(tmp_path) -> None:
    (tmp_path / "nodes" / "validator-1").mkdir(parents=True)
    lines = "".join(json.dumps(line) + "\n" for line in localnet_rows())
    (tmp_path / "nodes" / "validator-1" / "verdicts.jsonl").write_text(lines)
    content = {"run_id": "ab" * 32, "windows": [{}] * 5, "neurons": NEURONS}
    (tmp_path / "report.json").write_text(json.dumps(content))
    record = tmp_path / "runs.jsonl"
    said = localnet.record_report(tmp_path / "report.json", record)
    assert said.startswith("5 miners of run abab")
    rows = {"localnet": json.loads(record.read_text())}
    played = [Case(where="swarm", seed=seed) for seed in (1, 2)]
    rows |= {
        case.key: {"key": case.key, "case": {"where": case.where}, "outcome": row(half)}
        for case, half in zip(played, (0.2, 0.21), strict=True)
    }
    suite_cases = [Case(where="suite", seed=1, hotkeys=hotkeys) for hotkeys in (0, 1, 4)]
    rows |= {
        case.key: {"key": case.key, "case": {"where": case.where}, "outcome": claimed(case)}
        for case in suite_cases
    }
    found = report.summary([*played, *suite_cases], rows)
    curve = found["curve"]
    assert [point["where"] for point in curve] == ["suite"] * 6 + ["swarm"] * 2 + ["localnet"] * 5
    assert [point["pay"] for point in curve[:6]] == pytest.approx(
        [0.1, 8 / 30, 0.5, 1.0, 2.0, 4.0], rel=0.01
    )
    assert [point["outside"] for point in curve[:8]] == [False] * 6 + [True] * 2
    assert curve[6]["pay"] == pytest.approx(0.82)
    assert [line["pay"] for line in found["splitting"]] == pytest.approx([1.0, 1.0], rel=0.01)
    assert [line["holds"] for line in found["splitting"]] == [True, True]
    assert found["noise"][0]["sd"] < 0.001, "equal verdicts are equal pay"
    text = report.table(found)
    assert "| swarm | 0.5 of the steps | 0.500 | 0.820 |" in text
    assert text.count("OUTSIDE") == 2 + sum(point["outside"] for point in curve[8:])
    picture.draw(curve, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def claimed(case: Case) -> dict[str, Any]:
    """An outcome in which every machine of a case shows its work in full."""
    machines = [asdict(machine) for machine in cases.suite_machines(case)]
    line = [
        ["named", 1.0, round(240 * machine["work"]), 1, 1.0, 0.5, 0.04, 0.5, 1.0]
        for machine in machines
    ]
    return {"machines": machines, "verdicts": [line] * (SETTLED + 4)}
