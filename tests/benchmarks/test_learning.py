"""The learning benchmark compares what it says it compares: small real runs."""

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.learning import report, suite, tuning
from benchmarks.learning.averages import KEPT_SHARES, LENGTHS, Averages
from benchmarks.learning.contenders import ADAMW, OURS, SYNCHRONOUS, contenders, tuned
from benchmarks.learning.goals import goals
from benchmarks.learning.messages import DenseCodec, Message, SparseCodec
from benchmarks.learning.origin import code_digest, to_run
from benchmarks.learning.record import append, interval, load, pack, paired_percent
from benchmarks.learning.rules import RULES
from benchmarks.learning.run import as_row, run_trial
from benchmarks.learning.strategies.mean import Mean
from benchmarks.learning.strategies.ours import Ours
from benchmarks.learning.strategy import LocalUpdate, Strategy
from benchmarks.learning.trial import Trial
from benchmarks.learning.workers import Workers
from compression import check, make_plan
from template.errors import ConfigError
from template.protocol.payload import Payload, PayloadHeader
from template.protocol.quorum import Decision
from template.protocol.root import Member
from template.training.outer import first_state, outer_step

SMALL = Trial(
    strategy="mean", model="tiny", miners=3, inner_steps=2, rounds=4, batch_pages=2, warmup_steps=2
)


class DenseMean(Mean):
    """The mean without compression."""

    def codec(self, top_k: int) -> DenseCodec:
        return DenseCodec()


class Idle(LocalUpdate):
    """A rule that learns nothing."""

    def merge(self, params_N: Tensor, messages: Sequence[Message], alpha: float) -> Tensor:
        return params_N


def row_of(trial: Trial) -> dict[str, object]:
    """A row of the record, as the benchmark's jobs write it."""
    code = code_digest(trial)
    return as_row(trial, run_trial(trial, final_pages=20), code)


def run(strategy: Strategy, params_N: Tensor, rounds: int) -> list[Tensor]:
    seen = [params_N]
    for number in range(rounds):
        seen.append(strategy.round(number, seen[-1]))
    return [*seen, strategy.finish(seen[-1])]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_one_miner_one_step_and_no_compression_is_adamw():
    trial = replace(SMALL, miners=1, inner_steps=1, rounds=6, lag=0)
    dense = run(DenseMean(Workers(trial)), Workers(trial).theta0(), 6)
    adamw = run(RULES["adamw_dp"](Workers(trial)), Workers(trial).theta0(), 6)
    assert not torch.allclose(adamw[0], adamw[-1], atol=1e-3)
    assert torch.allclose(dense[-1], adamw[-1], atol=1e-5)


def test_lag_one_is_the_protocols():
    trial = replace(SMALL, outer_lr=0.7)
    seen = run(DenseMean(Workers(trial)), Workers(trial).theta0(), 3)
    by_hand = Workers(trial)
    theta = by_hand.theta0()

    def update(base: Tensor, number: int) -> Tensor:
        deltas = by_hand.train(base.repeat(3, 1), number)
        return 0.7 * (torch.ones(3) @ deltas / 3.0)

    first, second = update(theta, 0), update(theta, 1)
    assert torch.equal(seen[1], theta)
    assert torch.equal(seen[2], theta - first)
    third = update(theta - first, 2)
    assert torch.equal(seen[3], theta - first - second)
    assert torch.equal(seen[4], theta - first - second - third)


def test_lag_zero_applies_at_once():
    trial = replace(SMALL, lag=0)
    seen = run(DenseMean(Workers(trial)), Workers(trial).theta0(), 1)
    deltas = Workers(trial).train(seen[0].repeat(3, 1), 0)
    assert torch.allclose(seen[1], seen[0] - deltas.mean(dim=0), atol=1e-7)
    assert torch.equal(seen[2], seen[1])


def test_an_eager_miner_starts_from_its_own_work_and_a_compensated_one_takes_it_off():
    strategy = Mean(Workers(replace(SMALL, eager=0.5, outer_lr=2.0)))
    params = strategy.workers.theta0()
    strategy.round(0, params)
    own = torch.stack([message.dense for message in strategy._sent])
    assert float(own.norm()) > 0
    assert torch.equal(strategy._starts(1, params), params.repeat(3, 1) - 1.0 * own)
    plain, shifted = (Mean(Workers(replace(SMALL, compensate=c, decay=0.0))) for c in (0.0, 0.25))
    for other in (plain, shifted):
        other.round(0, params)
    total = [
        torch.stack([m.dense for m in other._send(1, torch.zeros_like(own))]) + other.residual_RN
        for other in (plain, shifted)
    ]
    assert torch.allclose(total[0] - total[1], 0.25 * own, atol=1e-7)


@pytest.mark.slow
def test_ours_is_the_outer_step_bit_for_bit():
    workers = Workers(replace(SMALL, strategy="ours", lag=0, outer_lr=0.9, clip_factor=1.01))
    ours, params = Ours(workers), workers.theta0()
    state = first_state(workers.space.views(params), workers.spec.run_id)
    plan = make_plan(workers.space.shapes, workers.trial.top_k)
    for window in range(3):
        deltas = workers.train(params.repeat(3, 1), window)
        deltas[0] *= 5.0
        messages = ours._send(window, deltas)
        payloads = {
            uid: Payload(header=PayloadHeader(
                window=window, base_window=window, pages_consumed=0, public_key=bytes(32)
            ), body=memoryview(message.body), norms=check(message.body, plan), plan=plan)
            for uid, message in enumerate(messages)
        }  # fmt: skip
        members = tuple(
            Member(
                uid=uid,
                hotkey=str(uid),
                public_key=bytes(32),
                coldkey=bytes([uid]),
                digest=bytes(32),
            )
            for uid in payloads
        )
        decision = Decision(
            window=window, members=members, namers={}, root=None, sample_digest=None,
            undelivered=(),
        dissenters=(), voting_stake_rao=1, reference_rao=1, no_op="",
        )  # fmt: skip
        state = outer_step(state, decision, payloads, workers.spec)
        merged = ours.merge(params, messages, 0.9)
        assert torch.equal(merged, workers.space.flat(state.params))
        unclipped = params - 0.9 * torch.stack([m.dense for m in messages]).mean(dim=0)
        clipped = float((merged - unclipped).norm()) > 0.1 * float((unclipped - params).norm())
        assert clipped, "in the first window too: by its own median"
        params = merged


@pytest.mark.slow
def test_a_rule_that_returns_its_input_learns_nothing_and_the_others_learn(monkeypatch):
    monkeypatch.setitem(RULES, "idle", Idle)
    trial = replace(SMALL, rounds=6, miners=2, inner_lr=1e-2, outer_lr=1.0)
    idle = run_trial(replace(trial, strategy="idle"), final_pages=100)
    assert len({loss for _, loss in idle.curve}) == 1
    for name in ("adamw_dp", "demo", "diloco", "ours"):
        outcome = run_trial(replace(trial, strategy=name, lag=0, top_k=512), final_pages=100)
        assert outcome.curve[0] == idle.curve[0]
        assert outcome.held_out_loss < idle.held_out_loss - 0.01, name
        assert outcome.tokens == 2 * 2 * 6 * 2 * 64


def test_all_rules_see_the_same_pages_and_miners_different_ones():
    trial = replace(SMALL, miners=3)
    one, other = Workers(trial), Workers(replace(trial, strategy="senders", lag=0))
    draws = [one._draw(0, miner, 5) for miner in range(3)]
    assert (draws[1] == other._draw(0, 1, 5)).all()
    pages = [page.tobytes() for draw in draws for page in draw]
    assert len(set(pages)) == len(pages)
    assert (draws[0] != Workers(replace(trial, seed=9))._draw(0, 0, 5)).any()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_what_is_sent_and_what_stays_are_the_whole(bits):
    space = Workers(SMALL).space
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(space.num_elements, generator=generator) * 1e-3
    residual = torch.randn(space.num_elements, generator=generator) * 1e-3
    total, before = residual * 0.9 + delta, delta.clone()
    message = SparseCodec(space, 64, 0.9, bits).send(delta, residual, 1)
    assert torch.equal(delta, before)
    assert torch.allclose(message.dense + residual, total, atol=1e-8)
    kept = message.dense != 0
    assert 0.01 < float(kept.float().mean()) < 0.04
    nmse = float(((message.dense - total)[kept] ** 2).sum() / (total[kept] ** 2).sum())
    assert nmse < {1: 0.1, 2: 0.02, 4: 0.01}[bits]
    num_kept = int(kept.sum())
    two_bits = SparseCodec(space, 64, 0.9).send(delta, residual, 1).num_bytes
    assert message.num_bytes - two_bits == pytest.approx(num_kept * (bits - 2) / 8, abs=1)


def test_noise_is_found_out_and_taken_back():
    trial = replace(
        SMALL, strategy="ours", miners=4, noise_miners=1, inner_steps=8, inner_lr=1e-2,
        batch_pages=8, top_k=512,
    )  # fmt: skip
    strategy = Ours(Workers(trial))
    run(strategy, strategy.workers.theta0(), 3)
    assert strategy.noise_kept == [0, 0, 0]
    assert trial.tokens(64) == 4 * 3 * 8 * 8 * 64


def test_ended_runs_are_skipped_even_after_a_crash(tmp_path):
    path = tmp_path / "record.jsonl"
    trials = [replace(SMALL, rounds=1, seed=seed) for seed in (1, 2)]
    append(path, row_of(trials[0]))
    assert to_run([*trials, trials[1]], load(path)) == [trials[1]]
    with path.open("a") as file:
        file.write('{"key": "cut off')
    append(path, row_of(trials[1]))
    assert to_run(trials, load(path)) == []
    row = load(path)[trials[1].key]
    assert Trial(**row["trial"]) == trials[1]
    assert row["outcome"]["held_out_loss"] == run_trial(trials[1], final_pages=20).held_out_loss


def test_a_trial_with_a_wrong_field_is_refused():
    with pytest.raises(ConfigError, match="lag"):
        replace(SMALL, lag=2)


def test_the_search_ends_inside_and_is_the_same_for_the_same_past():
    found: dict[tuple[int, int], float] = {}
    for _ in range(tuning.BUDGET):
        point = tuning.next_point(found)
        assert point == tuning.next_point(dict(found))
        assert point not in found
        found[point] = (point[0] - 1) ** 2 + 0.5 * (point[1] + 1) ** 2
    assert tuning.best_point(found) == ((1, -1), True)
    assert tuning.best_point({(0, 0): 1.0, (1, 0): 0.5}) == ((1, 0), False)


def test_contenders_are_compared_at_equal_tokens():
    rates = {name: {"inner_lr": 1e-3} for name in contenders()}
    quick = suite.quick(rates)
    for groups in (quick, suite.full(rates)):
        for section, x in {(g.section, g.x) for g in groups if g.section == "main"}:
            trials = [t for g in groups if (g.section, g.x) == (section, x) for t in g.trials]
            assert {trial.tokens(64) for trial in trials} == {int(x) * 15 * 8 * 8 * 64}
        of_h = [t for g in groups if g.section == "inner_steps" for t in g.trials]
        assert (len(of_h) > 4) == (groups is not quick)
        assert len({trial.tokens(64) for trial in of_h}) == (groups is not quick)
        assert len({t.warm_steps for t in of_h if t.lag}) == (groups is not quick)
    remedied = tuned("mean/1+", rates)
    assert remedied.eager > 0
    assert remedied.warm_steps > 0


def test_intervals_and_the_written_summary(tmp_path):
    assert interval([1.0, 2.0, 3.0]).half == pytest.approx(4.303 / 3**0.5, rel=1e-3)
    assert paired_percent([1.1, 2.2], [1.0, 2.0]).mean == pytest.approx(10.0)
    trials = [replace(SMALL, rounds=1, strategy=name, lag=0) for name in ("adamw_dp", "ours")]
    groups = [
        suite.seeded("main", t.strategy + "/0" * (t.strategy == "ours"), 24, t, 2) for t in trials
    ]
    path = tmp_path / "record.jsonl"
    for trial in (t for group in groups for t in group.trials):
        append(path, row_of(trial))
    report.write(groups, load(path), tmp_path, "a command")
    written = json.loads((tmp_path / "learning.json").read_text())
    assert [run["seed"] for run in written["runs"]] == [1, 2, 1, 2]
    adamw, ours = written["summary"]
    assert adamw["percent_over_adamw"]["mean"] == 0.0
    expected = sum(run["held_out_loss"] for run in written["runs"][2:]) / 2
    assert ours["held_out_loss"]["mean"] == pytest.approx(expected)
    assert (tmp_path / "learning_rules.png").stat().st_size > 10_000
    assert written["goals"] == []


def test_the_goals_are_checked_on_pairs_of_seeds():
    rates = {name: {"inner_lr": 1e-3} for name in contenders()}
    groups = suite.full(rates)
    losses = {OURS: 2.0, ADAMW: 1.9, SYNCHRONOUS: 1.99, "mean/1+": 2.02}
    rows = {
        trial.key: {
            "outcome": {
                "held_out_loss": losses[group.label] * (1 + 0.01 * trial.seed),
                "bytes_up_per_param_round": 0.0203,
            }
        }
        for group in groups
        if group.section == "main" and group.label in losses
        for trial in group.trials
    }
    reached = {goal.what: goal for goal in goals(groups, rows)}
    over_adamw = reached["busy miners: over AdamW, 80 rounds"]
    assert over_adamw.measured.mean == pytest.approx(100 / 19)
    assert not over_adamw.holds
    assert reached["busy miners: over no lag from the same start, 80 rounds"].holds
    assert reached["busy miners: over mean with the same remedies, 24 rounds"].holds
    assert not reached["bytes up per parameter and round, 0.11 M"].holds
    assert reached["bytes of the same payload of 102 M parameters"].holds
    assert "busy miners: over senders with the same remedies, 24 rounds" not in reached


def test_who_catches_up_trains_on_from_the_parameters_with_the_update_under_way():
    """At the last step nothing is left to train: only the place has moved, not the delta."""
    trial = replace(SMALL, eager=1.0, outer_lr=0.7)
    late, plain = (Mean(Workers(replace(trial, catch_up_step=c))) for c in (2, 0))
    theta = plain.workers.theta0()
    for number in range(2):
        seen = [strategy.round(number, theta) for strategy in (late, plain)]
        assert torch.equal(seen[0], seen[1])
        for a, b in zip(late._sent, plain._sent, strict=True):
            assert torch.allclose(a.dense, b.dense, atol=1e-6)
        theta = seen[0]
    early = Mean(Workers(replace(trial, catch_up_step=1)))
    for number in range(2):
        early.round(number, early.workers.theta0())
    assert not torch.allclose(early._sent[0].dense, plain._sent[0].dense, atol=1e-6)
    assert replace(SMALL, catch_up_step=1).key != SMALL.key


def test_a_packed_record_has_the_same_rows_and_takes_new_lines(tmp_path) -> None:
    path = tmp_path / "record.jsonl"
    rows = [{"key": f"{number}", "value": 1 / (number + 1)} for number in range(3)]
    for row in rows[:2]:
        append(path, row)
    pack(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.jsonl.xz"]
    append(path, rows[2])
    assert load(path) == {row["key"]: row for row in rows}
    pack(path)
    assert load(path) == {row["key"]: row for row in rows}


def test_muon_is_torchs_for_hidden_matrices_and_adamw_for_all_else():
    trial = replace(SMALL, inner="muon", model="small")
    workers, plain = Workers(trial), Workers(replace(trial, inner="adamw"))
    params, lr = workers.theta0(), 4e-3
    space = workers.space
    theirs = {
        name: torch.nn.Parameter(view.clone())
        for name, view in space.views(params).items()
        if view.ndim == 2 and "embed" not in name
    }
    assert len(theirs) == 14
    muon = torch.optim.Muon(
        list(theirs.values()), weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    muon.param_groups[0]["lr"] = lr
    for step in range(3):
        before, pages = params.clone(), workers.draw(0, step)
        beside = params.clone()
        plain.step(beside, 0, pages, lr)
        workers.step(params, 0, pages, lr)
        grads = space.views(workers._grad_N)
        for name, parameter in theirs.items():
            parameter.data.copy_(space.views(before)[name])
            parameter.grad = grads[name].clone()
        muon.step()
        for name, start in space.views(before).items():
            moved = (space.views(params)[name] - start).flatten()
            if name not in theirs:
                assert step > 0 or torch.equal(space.views(params)[name], space.views(beside)[name])
                continue
            expected = (theirs[name].data - start).flatten()
            assert float(torch.cosine_similarity(moved, expected, 0)) > 0.98
            assert float(moved.norm() / expected.norm()) == pytest.approx(1.0, abs=0.02)


def test_one_miner_one_step_and_no_compression_is_muon():
    trial = replace(SMALL, miners=1, inner_steps=1, rounds=4, lag=0, inner="muon")
    dense = run(DenseMean(Workers(trial)), Workers(trial).theta0(), 4)
    whole = run(RULES["muon_dp"](Workers(trial)), Workers(trial).theta0(), 4)
    assert not torch.allclose(whole[0], whole[-1], atol=1e-3)
    assert torch.allclose(dense[-1], whole[-1], atol=1e-5)


def test_data_parallel_muon_takes_the_mean_gradient_of_all_miners():
    trial = replace(SMALL, inner_steps=1, lag=0, inner="muon")
    workers = Workers(trial)
    (start, end, _) = run(RULES["muon_dp"](workers), workers.theta0(), 1)
    by_hand = start.clone()
    mean = workers.gradients(start, 0, 0).mean(dim=0)
    workers.muon().step(by_hand, mean, workers.inner_lr(0, 0))
    assert torch.allclose(end, by_hand, atol=1e-6)
    assert not torch.allclose(end, start, atol=1e-5)


def test_averages_are_those_of_the_rounds():
    from_start = Averages(torch.zeros(2))
    for value in (1.0, 2.0, 3.0):
        from_start.add(torch.full((2,), value))
    found = from_start.losses(lambda x_N: float(x_N[0]))
    assert found["mean 2"] == 2.5
    assert found["mean 4"] == 1.5
    assert found["ema 0.5"] == pytest.approx(3 / 2 + 2 / 4 + 1 / 8)
    assert found["ema 0.9"] == pytest.approx(0.3 + 0.18 + 0.081)


def test_averages_change_nothing_of_a_run_and_end_with_its_last_parameters():
    outcome = run_trial(replace(SMALL, strategy="mean"), final_pages=20)
    assert set(outcome.averages) == {f"ema {s:g}" for s in KEPT_SHARES} | {
        f"mean {n}" for n in LENGTHS
    }
    assert [number for number, _ in outcome.averages_on_the_way] == [1, 2, 3, 4]
    assert min(outcome.averages.values()) < outcome.averages["ema 0.9"]
