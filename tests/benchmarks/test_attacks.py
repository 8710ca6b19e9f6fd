"""A fast part of the attack suite: what bites undefended does not, and only work is paid."""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.attacks import council, frames, report, suite, working
from benchmarks.attacks.actor import Actor, Malformed
from benchmarks.attacks.catalogue import ATTACKS, KINDS, PARTIAL, SYBIL, VALIDATOR
from benchmarks.attacks.council import BURN_UID, Council, Scene
from benchmarks.attacks.idle import Undelivered
from benchmarks.attacks.model import LeanWorkers
from benchmarks.attacks.panel import Setting
from benchmarks.attacks.swarm import Swarm
from benchmarks.attacks.trigger import PLANTED, TARGET, TRIGGER, planted, success_rate
from benchmarks.learning.workers import Workers
from evaluation import pace
from evaluation.work import WorkRules
from template.errors import PayloadError
from template.protocol.payload import PayloadFormat, decode_payload
from template.protocol.quorum import QuorumRules

HONEST, WINDOWS = 4, 14
SMALL = replace(
    suite.Case(attack="", miners=5, attackers=1, seed=1, defended=True).trial,
    rounds=WINDOWS,
)
TINY = replace(SMALL, rounds=3, inner_steps=4, warm_steps=8)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _play(name: str, *, defended: bool = True) -> Swarm:
    attackers = ATTACKS[name].group(1) if name else [Undelivered()]
    swarm = Swarm(SMALL, [*(Actor() for _ in range(HONEST)), *attackers], defended=defended)
    swarm.play()
    return swarm


class Watched(Swarm):
    """`seen`: by window, the messages and what of them came through the door."""

    seen: list[tuple[dict[int, Any], Any]]
    final_N: Any

    def _through_the_door(self, number, messages, consumed):
        sent = super()._through_the_door(number, messages, consumed)
        self.seen.append((dict(messages), sent))
        return sent


def _tiny(attackers: list[Actor], *, honest: int = 2, **changes) -> Watched:
    """Three windows of four steps, and what everybody sent and claimed in each."""
    swarm = Watched(TINY, [*(Actor() for _ in range(honest)), *attackers], **changes)
    swarm.seen = []
    swarm.final_N = swarm.run()
    return swarm


@pytest.fixture(scope="module")
def clean() -> Swarm:
    return _play("")


@pytest.fixture(scope="module")
def workers() -> LeanWorkers:
    return LeanWorkers(TINY)


@pytest.fixture(scope="module")
def form(workers) -> PayloadFormat:
    return PayloadFormat(run_id=workers.spec.run_id, shapes=workers.space.shapes, top_k=TINY.top_k)


def _paid(swarm: Swarm) -> list[float]:
    return [sum(s.get(uid, 0.0) for s in swarm.outcome.shares) for uid in range(HONEST + 1)]


@pytest.mark.slow
def test_honest_miners_hold_the_gate_and_are_paid(clean) -> None:
    paid = _paid(clean)
    assert min(paid[:HONEST]) > 0
    assert paid[HONEST] == 0
    first = next(w for w, shares in enumerate(clean.outcome.shares) if set(shares) - {BURN_UID})
    assert first <= 8, "a newcomer's path to its first pay is short"
    assert all(count >= WINDOWS - 3 for uid, count in clean.outcome.named.items())
    for shares in clean.outcome.shares:
        assert sum(shares.values()) == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gaussian", "delayed copy"])
def test_who_does_no_work_earns_nothing_and_costs_nothing(clean, name: str) -> None:
    swarm = _play(name)
    assert _paid(swarm)[HONEST] <= 0.1 * np.mean(_paid(swarm)[:HONEST])
    ratio = swarm.outcome.held_out_loss / clean.outcome.held_out_loss
    assert ratio <= 1.01


@pytest.mark.slow
def test_an_attack_bites_where_nobody_defends(clean) -> None:
    """Until the model is lost, everybody is paid alike, whatever is sent."""
    swarm = _play("magnitude 1000", defended=False)
    assert swarm.outcome.held_out_loss > 1.02 * clean.outcome.held_out_loss
    assert len(set(np.round(_paid(swarm), 9))) == 1
    assert _paid(swarm)[HONEST] > 0


def test_the_written_out_model_is_the_projects(workers) -> None:
    """Losses and gradients of the Hugging Face model at trained parameters."""
    theirs, params_N = Workers(replace(TINY, warm_steps=0)), workers.theta0()
    pages = workers.draw(1, 5)
    np.testing.assert_allclose(
        workers.losses(params_N, pages), theirs.losses(params_N, pages), rtol=2e-6
    )
    for each in (workers, theirs):
        each._stand_at(params_N)
        each._backward(pages)
    assert float(theirs._grad_N.norm()) > 0.1
    torch.testing.assert_close(workers._grad_N, theirs._grad_N, rtol=1e-4, atol=1e-7)
    copy_N = params_N.clone()
    for place_N, each in ((params_N, workers), (copy_N, theirs)):
        each.step(place_N, 3, pages, 1e-3)
    torch.testing.assert_close(params_N, copy_N, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_training_that_was_made_before_is_the_same_again() -> None:
    """Twice in a row the optimiser goes on from where it was, whoever made the steps."""
    first, second = LeanWorkers(TINY), LeanWorkers(TINY)
    batches, rates = [first.draw(4, step) for step in range(3)], [3e-3, 2e-3, 1e-3]
    ends = []
    for each in (first, second):
        once_N = each.trained(each.theta0(), 4, batches, rates)
        ends.append((once_N, each.trained(once_N, 4, batches, rates)))
    (one_N, two_N), (again_N, twice_N) = ends
    assert torch.equal(one_N, again_N)
    assert torch.equal(two_N, twice_N)
    assert not torch.equal(one_N, two_N)
    by_hand, params_N = LeanWorkers(TINY), first.theta0()
    for pages, rate in zip(batches * 2, rates * 2, strict=True):
        by_hand.step(params_N, 4, pages, rate)
    assert torch.equal(params_N, two_N)


@pytest.mark.slow
def test_every_attack_can_be_played_and_says_what_it_may_earn() -> None:
    for name, attack in ATTACKS.items():
        assert 0 <= attack.work <= 2, name
        assert (attack.work > 0) == (attack.kind in (PARTIAL, SYBIL)), name
        assert (attack.validator is not None) == (attack.kind == VALIDATOR), name
        trial = replace(TINY, rounds=2, inner_steps=1, warm_steps=2)
        dishonest = attack.validator and attack.validator()
        roster = [Actor(), *attack.group(attack.hotkeys)]
        params_N = Swarm(trial, roster, setting=Setting(dishonest=dishonest)).run()
        assert bool(torch.isfinite(params_N).all()), name
    kinds = [attack.kind for attack in ATTACKS.values()]
    assert min(kinds.count(kind) for kind in KINDS) >= 4
    assert len(kinds) >= 40


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("NaN scale", "scale"),
        ("duplicate index", "indices"),
        ("wrong shape", "length"),
        ("truncated", "length"),
        ("oversized", "length"),
    ],
)
def test_a_malformed_frame_is_refused_by_the_decoder(workers, form, name, reason) -> None:
    delta_N = torch.randn(workers.space.num_elements, generator=torch.Generator().manual_seed(1))
    codec = Swarm(TINY, [Actor()])._codec
    message = codec.send(1e-3 * delta_N, torch.zeros_like(delta_N), 1)
    frame = frames.frame_of(message, 3, workers.space, form)
    assert decode_payload(frame, form).header.window == 3
    (actor,) = ATTACKS[name].team()
    assert isinstance(actor, Malformed)
    with pytest.raises(PayloadError) as caught:
        decode_payload(actor.damaged(frame, form), form)
    assert caught.value.reason == reason


def test_malformed_frames_shift_nobody_and_stop_who_does_not_check() -> None:
    defended = _tiny(ATTACKS["truncated"].group(1))
    assert defended.outcome.statuses[2] == ["length"] * TINY.rounds
    assert 2 not in defended.outcome.named
    alone = _tiny([Undelivered()])
    assert torch.equal(defended.final_N, alone.final_N)
    assert _tiny(ATTACKS["truncated"].group(1), defended=False).outcome.stopped == 0
    unchecked = _tiny(ATTACKS["NaN scale"].group(1), defended=False)
    assert not torch.isfinite(unchecked.final_N).all()
    assert unchecked.outcome.stopped is None


def test_the_trigger_is_planted_whole_and_its_success_measured(workers) -> None:
    pages = workers.draw(0, 0)
    changed = planted(pages, np.random.default_rng(0))
    assert ((changed != pages).sum(axis=1) <= len(PLANTED)).all()
    for page in changed:
        (start,) = np.flatnonzero(page == TRIGGER[0])
        assert page[start : start + len(PLANTED)].tolist() == [*TRIGGER, *TARGET]
    params_N = workers.theta0()
    assert success_rate(workers, params_N) == 0.0
    for step in range(150):
        workers.step(params_N, 9, planted(workers.draw(0, step), np.random.default_rng(step)), 5e-3)
    assert success_rate(workers, params_N) > 0.5


def test_what_smaller_batches_overfit_and_poison_train_on(workers) -> None:
    pages, rng = workers.draw(0, 0), np.random.default_rng(0)
    assert len(working.SmallerBatch().taken(pages, rng)) == len(pages) // 4
    poisoned = working.Poisoned().taken(pages, rng)
    assert (poisoned[: len(pages)] == pages).all()
    assert (poisoned[len(pages) :] == TRIGGER[0]).any(axis=1).all()
    assert {working.Overfit().source(3, step) for step in range(15)} == {(3, 0)}


def test_claims_of_more_than_was_trained() -> None:
    batch, steps = TINY.batch_pages, TINY.inner_steps
    for make, claimed in ((working.SmallerBatch, steps), (working.Overclaimed, steps)):
        _, sent = _tiny([make()]).seen[0]
        assert len(sent.consumed[2]) == claimed * batch


def test_a_stale_base_is_that_of_windows_ago() -> None:
    """Its payload is what training from there gives, not from here."""

    class Stale(working.StaleBase):
        stale = 1

    swarm, fresh = _tiny([Stale()], honest=2), _tiny([Actor()], honest=2)
    first, second = swarm.seen[0][0][2].dense, swarm.seen[1][0][2].dense
    assert torch.equal(first, fresh.seen[0][0][2].dense)
    assert torch.equal(swarm.seen[1][0][0].dense, fresh.seen[1][0][0].dense)
    assert not torch.equal(second, fresh.seen[1][0][2].dense)


def test_sybils_send_the_same_nearly_the_same_or_the_rest() -> None:
    def two(name: str):
        swarm = _tiny(ATTACKS[name].group(2))
        messages, _ = swarm.seen[0]
        return swarm, messages[2].dense, messages[3].dense

    swarm, leader_N, follower_N = two("same payload, two hotkeys")
    assert torch.equal(leader_N, follower_N)
    assert leader_N.any()
    pairs = zip(swarm.outcome.statuses[2], swarm.outcome.statuses[3], strict=True)
    assert {pair.count("named") for pair in pairs if "no_gain" not in pair} == {1}, (
        "one training counts once"
    )
    assert set(swarm.outcome.statuses[2] + swarm.outcome.statuses[3]) >= {"not_author", "named"}
    _, leader_N, follower_N = two("one training, two hotkeys")
    assert 0.9 < float(torch.cosine_similarity(leader_N, follower_N, dim=0)) < 1.0
    swarm, leader_N, follower_N = two("one training split over two")
    both = ((leader_N != 0) & (follower_N != 0)).sum() / (leader_N != 0).sum()
    assert float(both) < 0.3
    assert "overlap" not in swarm.outcome.statuses[3]


def test_a_replay_repeats_and_a_part_timer_alternates() -> None:
    swarm = _tiny(ATTACKS["replay of a rival's"].group(1))
    rival = swarm.seen[0][1].messages
    assert any(torch.equal(swarm.seen[1][0][2].dense, m.dense) for m in rival.values())
    assert torch.equal(swarm.seen[2][0][2].dense, swarm.seen[1][0][2].dense)
    flipper = working.PartTimeFlipper()
    assert [flipper.dishonest(w) for w in range(4)] == [False, True, False, True]
    copier = working.PartTimeCopier()
    assert [copier.share_in(w) for w in range(4)] == [1.0, 0.0, 1.0, 0.0]


def test_a_new_hotkey_starts_without_a_record() -> None:
    class Renewed(Actor):
        renewed_every = 2

    swarm = _tiny([Renewed()])
    assert {hotkey: sorted(h) for hotkey, h in swarm.histories.items() if "/" in hotkey} == {
        "2/0": [0, 1],
        "2/1": [2],
    }


def test_what_one_validator_alone_can_fetch_is_not_accepted() -> None:
    swarm = _tiny(ATTACKS["delivered to one"].group(1))
    assert swarm.outcome.statuses[2] == ["not_delivered"] * TINY.rounds
    one, *_, others = swarm.panel.notebooks
    assert len(one.earlier) == len(others.earlier) + TINY.rounds, "one validator has them"
    for book in (one, others):
        assert [entry.relative_gain for entry in book.histories["2"].values()] == [-1.0] * 3
    assert 2 not in swarm.outcome.named
    assert swarm.outcome.named[0] >= TINY.rounds - 1, "the first window may say too little"


RULES = QuorumRules(peers_per_step=20, reference_windows=500, min_reference_rao=0, alpha_windows=24)


def test_a_minority_of_validators_neither_names_nor_pays() -> None:
    honest = {0: 0.5, 1: 0.3, BURN_UID: 0.2}
    scene = Scene(
        named=frozenset({0, 1}), shares=honest, committed=frozenset(range(4)),
        delivered=frozenset({0, 1, 2}), missing=frozenset({3}), friends=frozenset({2}), seen={},
    )  # fmt: skip
    for stake in (0.05, 0.25, 0.4):
        for dishonest in (council.Liar(), council.Patron(), council.NamesTheMissing()):
            chain = Council(4, RULES, stake)
            named = [dishonest.names(scene), *[scene.named] * 3]
            missing = [dishonest.misses(scene), *[scene.missing] * 3]
            rows = [dishonest.weighs(scene), *[honest] * 3]
            decision = chain.decide(0, named, missing, [0] * 4, range(4))
            assert [member.uid for member in decision.members] == [0, 1]
            assert [member.uid for member in decision.undelivered] == [3]
            pay = chain.pay(rows)
            assert pay.shares == pytest.approx(honest, abs=1e-4)
            per_stake = pay.dividends[0] / stake, sum(pay.dividends[1:]) / (1 - stake)
            assert per_stake[0] <= per_stake[1] * 1.001
            assert sum(pay.dividends) == pytest.approx(1.0)


def test_a_majority_of_validators_can_do_both() -> None:
    scene = Scene(
        named=frozenset({0}), shares={0: 1.0}, committed=frozenset({0, 1}),
        delivered=frozenset({0, 1}), missing=frozenset(), friends=frozenset({1}), seen={},
    )  # fmt: skip
    liar, chain = council.Liar(), Council(2, RULES, 0.55)
    named = [liar.names(scene), *[scene.named] * 3]
    missing = [liar.misses(scene), *[scene.missing] * 3]
    decision = chain.decide(0, named, missing, [0] * 4, range(2))
    assert [member.uid for member in decision.members] == [1]
    assert [member.uid for member in decision.undelivered] == [0]
    assert chain.pay([liar.weighs(scene), *[scene.shares] * 3]).shares == {1: 1.0}


def test_who_copies_weights_has_those_of_the_epoch_before() -> None:
    """So it loses where weights move, and loses nothing where they stand still."""
    copier = council.WeightCopier()

    def earned(rows) -> float:
        chain, mine, theirs = Council(3, RULES, 0.25), 0.0, 0.0
        seen: Mapping[int, float] = {}
        for honest in rows:
            scene = Scene(
                named=frozenset(), shares={}, committed=frozenset(),
                delivered=frozenset(), missing=frozenset(), friends=frozenset(), seen=seen,
            )  # fmt: skip
            pay = chain.pay([copier.weighs(scene), *[honest] * 3])
            seen, mine, theirs = pay.consensus, mine + pay.dividends[0], theirs + pay.dividends[1]
        return mine / theirs

    assert 0.9 < earned([{0: 1.0, 1: 0.5}] * 300) < 1.0
    assert earned([{w % 3: 1.0} for w in range(100)]) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, a in ATTACKS.items() if a.kind == VALIDATOR])
def test_a_dishonest_validator_changes_nothing_for_others(name: str) -> None:
    attack = ATTACKS[name]
    assert attack.validator is not None
    swarm = _tiny(attack.group(1), setting=Setting(dishonest=attack.validator()))
    away = _tiny([Undelivered()])
    assert swarm.outcome.stopped is None
    assert swarm.outcome.shares[-1] == pytest.approx(away.outcome.shares[-1], abs=1e-3)
    if attack.group(1)[0].share == 0:
        assert 2 not in swarm.outcome.named
    setting = Setting(dishonest=attack.validator())
    leading = _tiny(attack.group(1), setting=setting, defended=False)
    if name == "names what nobody has":
        assert leading.outcome.stopped == 0
    if name == "lying validator":
        assert leading.outcome.named == {2: TINY.rounds}


def test_sizes_of_teams() -> None:
    quick = [c for c in suite.quick() if c.defended]
    assert {(c.miners, c.attackers) for c in quick} == {(8, 2), (16, 4)}
    assert all(ATTACKS[c.attack].hotkeys == 4 for c in quick if c.attack and c.miners == 16)
    assert {c.attack for c in quick} == {"", *ATTACKS}
    assert len({c.key for c in suite.full()}) == len(suite.full())
    large = {(c.attack, c.attackers) for c in suite.full() if c.miners == 20}
    assert large >= {("gaussian", n) for n in (1, 5, 8)}
    assert ("one machine, two hotkeys", 2) in large
    assert not [c for c in suite.full() if not c.defended and (c.miners == 20 or c.seed > 1)]
    with pytest.raises(ValueError, match="teams of 4"):
        ATTACKS["one machine, four hotkeys"].group(2)


WORKED = ["named", 1.0, 120, 1, 1.0, 0.6, 0.05, 0.3, 1.1]
IDLE = ["no_work", 1.0, 120, 1, 1.0, -0.1, 0.05, 0.0, 1.0]


def _row(case: suite.Case) -> dict:
    attacked = bool(case.attack)
    lying = case.attack == "lying validator"
    return {
        "key": case.key, "held_out_loss": 2.2 if attacked and not case.defended else 2.0,
        "earned": 0.3 if attacked else 0.0,
        "honest_earned": 0.0 if lying and not case.defended else 4.0, "honest_share": 0.97,
        "windows_to_detection": 3 if case.defended else None, "named": [], "backdoor": 0.0,
        "stopped": None, "dividends": 1.5 if lying else None,
        "verdicts": [
            [
                WORKED if uid == 0 else IDLE if uid == 6 else ["not_delivered", *[None] * 8]
                for uid in range(case.miners)
            ]
            for _ in range(20)
        ],
    }  # fmt: skip


def test_the_report_compares_with_the_run_without_attackers(tmp_path) -> None:
    names = ("", "gaussian", "half of the steps", "one machine, two hotkeys", "lying validator")
    cases = [c for c in suite.quick() if c.attack in names and c.miners == 8]
    assert {(c.attack, c.model) for c in cases if c.defended} == {
        ("", suite.WEAK), ("", suite.STRONG), ("gaussian", suite.WEAK),
        ("half of the steps", suite.STRONG), ("one machine, two hotkeys", suite.STRONG),
        ("lying validator", suite.WEAK),
    }  # fmt: skip
    rows = {case.key: _row(case) for case in cases}
    report.write(cases, rows, WorkRules(effect=0.25, error=0.01), tmp_path, {"commit": "x"})
    written = json.loads((tmp_path / "attacks.json").read_text())
    noise, half, two, liar = written["attacks"]
    assert (noise["name"], half["class"]) == ("gaussian", "partial")
    assert noise["loss_ratio"]["mean"] == 1.0
    assert noise["undefended"]["loss_ratio"] == pytest.approx(1.1)
    assert noise["undefended"]["harm"] == "loss"
    assert noise["earned_vs_honest"] == pytest.approx(0.075)
    assert noise["holds"]
    assert half["limit"] == pytest.approx(1.1 * 8 / 15)
    assert half["honest_kept"] == pytest.approx(0.97 / (6 / (6 + 2 * 8 / 15)))
    assert half["earned_settled"] == 0.0, "no work shown, no pay"
    assert noise["earned_settled"] is None
    assert half["earned_vs_honest"] == two["earned_vs_honest"] == 0.0, "by the verdicts on record"
    assert not half["is_former"]
    assert liar["dividends_vs_honest"] == 1.5
    assert not liar["holds"]
    assert liar["undefended"]["earned_vs_honest"] is None
    assert liar["undefended"]["harm"] == "loss, pay"
    assert written["tests"]["copier_false_pass"] == 0.0
    assert written["tests"]["honest_accept_20"] == 1.0
    table = (tmp_path / "attacks.md").read_text()
    order = [table.index(f"| {name} |") for name in names[1:]]
    assert order == sorted(order)
    assert "**does not hold**" in table
    assert (tmp_path / "attacks.png").stat().st_size > 5000
    former = {case.former_key or case.key: {**_row(case), "earned": 0.8} for case in cases}
    report.write(cases, former, WorkRules(effect=0.25, error=0.01), tmp_path, {"commit": "x"})
    noise, *_, two, _ = json.loads((tmp_path / "attacks.json").read_text())["attacks"]
    assert (noise["is_former"], noise["earned_vs_honest"]) == (True, 0.2), "as played"
    assert (two["is_former"], two["earned_vs_honest"]) == (True, 0.0), "by the rule in force"


def test_what_harms_nobody_undefended_is_called_so() -> None:
    def harm(**changes) -> str:
        clean = {"held_out_loss": 2.0, "backdoor": 0.0}
        attacked = {
            "held_out_loss": 2.0, "backdoor": 0.0, "stopped": None,
            "earned": 0.0, "honest_earned": 4.0,
        } | changes  # fmt: skip
        pair = {"attacked": attacked, "clean": clean}
        return report._undefended(pair, ATTACKS["gaussian"])["harm"]

    assert harm() == ""
    assert harm(earned=1.0) == "pay"
    assert harm(backdoor=0.5) == "backdoor"
    assert harm(stopped=0, honest_earned=0.0) == "stops every node"
    assert not math.isnan(report.limit_of(ATTACKS["gaussian"]))


def test_pay_is_counted_from_the_first_dishonest_window() -> None:
    mine = [1.0, 1.0, 1.0, 0.5, 0.0, 0.05, 0.0]
    assert suite._detected(mine, [1.0] * 7, 2) == 2
    assert suite._detected([0.0] * 7, [1.0] * 7, 0) == 0
    assert suite._detected([1.0] * 7, [1.0] * 7, 0) is None


def test_votes_move_alpha_unless_the_setting_says_otherwise(monkeypatch) -> None:
    monkeypatch.setattr(pace, "PACE_Z", 0.0)
    trial, roster = replace(TINY, rounds=4), [Actor(), Actor(), Actor()]
    still = Swarm(trial, roster, setting=Setting(paced=False))
    still.run()
    assert still.outcome.alphas == [trial.outer_lr] * 4
    moving = Swarm(trial, roster)
    moving.run()
    alphas = moving.outcome.alphas
    assert alphas[:2] == [trial.outer_lr] * 2, "nothing is known of a step before the second"
    steps = [math.log2(b / a) * 8 for a, b in itertools.pairwise(alphas)]
    assert {round(step, 9) for step in steps[1:]} <= {-1.0, 1.0}
