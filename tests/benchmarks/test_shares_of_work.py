"""Attacks by a share of the work, by work elsewhere, and by validators who score nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.attacks import council, elsewhere, report, suite, sybil, working
from benchmarks.attacks.actor import Actor, View
from benchmarks.attacks.catalogue import ATTACKS, JUST_UNDER_HALF, VALIDATOR
from benchmarks.attacks.council import BURN_UID, Council, Scene
from benchmarks.attacks.idle import Undelivered
from benchmarks.attacks.leftover import LeftOver
from benchmarks.attacks.model import LeanWorkers
from benchmarks.attacks.panel import Setting
from benchmarks.attacks.swarm import Swarm
from benchmarks.learning.messages import Message
from template.protocol.quorum import QuorumRules

HONEST, WINDOWS = 2, 2
TINY = replace(
    suite.Case(attack="", miners=3, attackers=1, seed=1, defended=True).trial,
    rounds=WINDOWS,
    inner_steps=4,
    warm_steps=8,
)
WORK = {
    "a quarter of each page": 0.25,
    "half of each page": 0.5,
    "half of each page, anywhere": 0.5,
    "half a copy, a quarter of the work": 0.25,
    "part of a copy, a quarter of the work": 0.25,
    "part-time residual": 0.5,
    "part-time noise": 0.5,
    "one training split over two, all claimed": 0.5,
    "one training split over four, all claimed": 0.25,
    "shadow training": 0.0,
    "late payload of a rival's": 0.0,
    "private model": 0.0,
}
VALIDATORS = ("half of the stake and free riders", "log copier", "lineage copier")
RULES = QuorumRules(peers_per_step=20, reference_windows=500, min_reference_rao=0, alpha_windows=24)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Watched(Swarm):
    """`sent`, `claimed`: every window's payloads and the pages that they claim, by uid."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sent: list[dict[int, Message]] = []
        self.claimed: list[dict[int, np.ndarray]] = []

    def _through_the_door(self, number, messages, consumed):
        self.sent.append(dict(messages))
        self.claimed.append(dict(consumed))
        return super()._through_the_door(number, messages, consumed)


@dataclass
class Trained:
    """What each AdamW state of a swarm was given, in the order of its windows."""

    batches: list[tuple[int, np.ndarray]] = field(default_factory=list)

    def watch(self, workers: LeanWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
        train = workers.trained

        def trained(start_N, miner, batches, rates):
            self.batches += [(miner, batch) for batch in batches]
            return train(start_N, miner, batches, rates)

        monkeypatch.setattr(workers, "trained", trained)

    def tokens(self, miners: range, pages: np.ndarray) -> int:
        """Tokens of the miners' rows that are a stretch of one of these pages."""
        listed = [page.tobytes() for page in pages]
        rows = [row for miner, batch in self.batches if miner in miners for row in batch]
        return sum(row.size for row in rows if any(row.tobytes() in page for page in listed))


def _swarm(name: str, **changes: Any) -> Watched:
    attack = ATTACKS[name]
    setting = Setting(dishonest=attack.validator and attack.validator(), stake=attack.stake or 0.25)
    roster = [*(Actor() for _ in range(HONEST)), *attack.group(attack.hotkeys)]
    return Watched(TINY, roster, setting=setting, **changes)


def _list_of(workers: LeanWorkers, uid: int) -> np.ndarray:
    """All pages that the protocol assigns to a miner over the run."""
    return np.concatenate([workers.draw(uid, s) for s in range(WINDOWS * TINY.inner_steps)])


@pytest.mark.parametrize(("name", "work"), WORK.items())
def test_the_share_of_its_list_that_an_attacker_trains_on(name, work, monkeypatch) -> None:
    """Counted in tokens of the own list, by whoever of the team trained; all of it is claimed."""
    swarm, seen = _swarm(name), Trained()
    seen.watch(swarm.workers, monkeypatch)
    swarm.run()
    team = range(HONEST, HONEST + ATTACKS[name].hotkeys)
    whole = _list_of(swarm.workers, 0)
    assert seen.tokens(range(1), whole) == whole.size, "an honest miner trains on all"
    for uid in team:
        pages = _list_of(swarm.workers, uid)
        assert seen.tokens(team, pages) == work * pages.size
        assert np.array_equal(np.concatenate([c[uid] for c in swarm.claimed]), pages)
    assert ATTACKS[name].work == work
    batches = [batch for _, batch in seen.batches]
    assert {len(batch) for batch in batches} == {TINY.batch_pages}


@pytest.mark.parametrize("name", [*WORK, *VALIDATORS])
def test_where_nobody_defends_it_is_paid_more_than_it_may_or_says_why_not(name: str) -> None:
    attack, swarm = ATTACKS[name], _swarm(name, defended=False)
    swarm.run()
    paid = [sum(shares.get(uid, 0.0) for shares in swarm.outcome.shares) for uid in range(9)]
    team = sum(paid[HONEST : HONEST + attack.hotkeys])
    assert paid[0] > 0
    assert (team > report.limit_of(attack) * paid[0]) == (not attack.note)
    assert (attack.kind == VALIDATOR) == (name in VALIDATORS)


def test_a_half_anywhere_is_a_stretch_of_every_page_and_another_each_time() -> None:
    pages = np.arange(8 * 64).reshape(8, 64)
    halves = working.RandomHalfOfPages().taken(pages, np.random.default_rng(0))
    assert halves.shape == (8, 32)
    assert (np.diff(halves, axis=1) == 1).all()
    assert (halves // 64 == np.arange(8)[:, None]).all()
    starts = set((halves[:, 0] % 64).tolist())
    assert len(starts) > 4
    front = working.FrontOfPages(0.25).taken(pages, np.random.default_rng(0))
    assert np.array_equal(front, pages[:, :16])


def test_a_residual_says_what_was_left_and_is_no_repeat() -> None:
    swarm = _swarm("part-time residual")
    swarm.run()
    first_N, second_N = (sent[HONEST].dense for sent in swarm.sent)
    assert second_N.any()
    common = ((first_N != 0) & (second_N != 0)).sum() / (second_N != 0).sum()
    assert float(common) < 0.1, "what was sent is no longer in error feedback"


class RestsFirst(working.PartTimeCopier):
    """Nothing in the first window, honest work in the second."""

    feeds_back = True

    def dishonest(self, number: int) -> bool:
        return number == 0

    def send(self, honest: Message, view: View) -> Message | None:
        return None if self.dishonest(view.number) else honest


def test_noise_in_one_window_leaves_the_work_of_the_next_alone() -> None:
    noisy = _swarm("part-time noise")
    resting = Watched(TINY, [*(Actor() for _ in range(HONEST)), RestsFirst()])
    for swarm in (noisy, resting):
        swarm.run()
    noise_N, work_N = (sent[HONEST].dense for sent in noisy.sent)
    assert noise_N.any()
    assert abs(float(torch.cosine_similarity(noise_N, noisy.sent[0][0].dense, dim=0))) < 0.1
    assert noisy.outcome.statuses[HONEST][0] == "no_gain", "refused, and so returned to feedback"
    assert torch.equal(work_N, resting.sent[1][HONEST].dense)


def test_a_shadow_sends_its_victims_payload_bit_for_bit() -> None:
    swarm = _swarm("shadow training")
    swarm.run()
    for sent in swarm.sent:
        assert torch.equal(sent[HONEST].dense, sent[0].dense)
    statuses = [swarm.outcome.statuses[uid] for uid in (0, HONEST)]
    assert all(pair.count("named") <= 1 for pair in zip(*statuses, strict=True)), statuses


def test_a_late_payload_is_honest_work_a_window_old() -> None:
    """Of a miner beside the roster, and never the thief's own."""
    swarm = _swarm("late payload of a rival's")
    theta0_N = swarm.workers.theta0()
    swarm.run()
    first_N, stolen_N = (sent[HONEST].dense for sent in swarm.sent)
    workers, rival = LeanWorkers(replace(TINY, miners=HONEST + 1)), HONEST + 1 + HONEST
    steps = range(TINY.inner_steps)
    batches = [workers.draw(rival, step) for step in steps]
    rates = [workers.inner_lr(0, step) for step in steps]
    delta_N = theta0_N - workers.trained(theta0_N, rival, batches, rates)
    residual_N = torch.zeros_like(delta_N)
    assert torch.equal(stolen_N, swarm._codec.send(delta_N, residual_N, 1).dense)
    assert not torch.equal(first_N, stolen_N)


def test_a_private_model_makes_thrice_the_steps_and_goes_on(monkeypatch) -> None:
    swarm, seen = _swarm("private model"), Trained()
    seen.watch(swarm.workers, monkeypatch)
    actor = swarm.roster[HONEST]
    assert isinstance(actor, elsewhere.PrivateModel)
    swarm.run()
    mine = [batch for miner, batch in seen.batches if miner > HONEST]
    assert len(mine) == 3 * TINY.inner_steps * WINDOWS
    assert len({batch.tobytes() for batch in mine}) == len(mine)
    assert actor.private_N is not None
    pages = swarm.workers.random_pages(np.random.default_rng(0), 64)
    theta0_N = swarm.workers.theta0()
    before, after = (swarm.workers.losses(p, pages).mean() for p in (theta0_N, actor.private_N))
    assert after < before


def test_part_of_a_copy_keeps_so_many_of_a_rivals_places() -> None:
    for name, low, high in (
        ("half a copy, a quarter of the work", 0.5, 0.7),
        ("part of a copy, a quarter of the work", 0.4, 0.6),
    ):
        swarm = _swarm(name)
        swarm.run()
        rival_N, mixed_N = swarm.sent[0][0].dense, swarm.sent[1][HONEST].dense
        common = ((rival_N != 0) & (mixed_N != 0)).sum() / (mixed_N != 0).sum()
        assert low < float(common) < high, name


def test_a_split_training_is_disjoint_and_claims_as_told() -> None:
    for hotkeys in (2, 4):
        own = [actor.claims or 0.0 for actor in sybil.split(hotkeys)]
        assert sum(own) == pytest.approx(1.0), "what was trained"
        assert {actor.claims for actor in sybil.split(hotkeys, claims=1.0)} == {1.0}
    swarm = _swarm("one training split over two, all claimed")
    swarm.run()
    one_N, other_N = (swarm.sent[0][uid].dense for uid in (HONEST, HONEST + 1))
    both = ((one_N != 0) & (other_N != 0)).sum() / (one_N != 0).sum()
    assert float(both) < 0.3


@pytest.mark.parametrize("hotkeys", [2, 4])
def test_one_machines_hotkeys_make_and_claim_all_of_its_steps_once(hotkeys: int) -> None:
    teams = sybil.shared_out(hotkeys), sybil.trained_once(hotkeys, noise=0.0)
    for team in teams:
        steps = [round((actor.claims or 0.0) * sybil.INNER_STEPS) for actor in team]
        assert sum(steps) == sybil.INNER_STEPS
        assert max(steps) - min(steps) <= 1
    assert [actor.share for actor in teams[0]] == [actor.claims for actor in teams[0]]
    leader = teams[1][0]
    drawn = {leader.source(0, step) for step in range(sybil.INNER_STEPS)}
    assert drawn == {(i, s) for i, n in enumerate(steps) for s in range(n)}, "each its own pages"


def test_the_limit_of_partial_work_goes_by_whole_steps() -> None:
    """Half of 15 steps are 8; half of the windows or of each page is half."""
    limits = {name: report.limit_of(attack) for name, attack in ATTACKS.items()}
    assert limits["half of the steps"] == pytest.approx(1.1 * 8 / 15)
    assert limits["a quarter, all claimed"] == pytest.approx(1.1 * 4 / 15)
    assert limits["part-time residual"] == limits["half of each page"] == pytest.approx(0.55)
    assert limits["over-fit"] == pytest.approx(1.1 / 15)
    assert limits["one training split over four"] == pytest.approx(1.1)


def test_who_worked_before_is_owed_the_pay_for_that() -> None:
    """Ten windows of 24, pay over the last sixteen: 10/11 of a whole miner, 10/12, ... 2/16."""
    counted = [(10, 11), (10, 12), (10, 13), (10, 14), (10, 15), (10, 16)]
    counted += [(ten, 16) for ten in range(9, 1, -1)]
    owed = sum(honest / all_ for honest, all_ in counted) / 14
    assert report.work_of(ATTACKS["honest, then a copier"]) == pytest.approx(owed)
    assert report.limit_of(ATTACKS["honest, then flipped"]) == pytest.approx(0.1 + owed)
    assert report.limit_of(ATTACKS["delayed copy"]) == 0.1
    assert report.limit_of(ATTACKS["lying validator"]) == 0.1
    assert report.limit_of(ATTACKS["momentum rider"]) == pytest.approx(1.1 * 2 / 15)


def test_what_is_left_over_is_all_that_was_not_sent() -> None:
    views: list[View] = []

    class Looks(Actor):
        def send(self, honest: Message, view: View) -> Message | None:
            views.append(view)
            return None

    Swarm(replace(TINY, rounds=1), [Actor(), Looks()]).run()
    (view,), left = views, LeftOver()
    with pytest.raises(ValueError, match="nothing was trained"):
        left.next(view)
    sent_N = left.add_and_send(view).dense
    assert left.left_N is not None
    torch.testing.assert_close(sent_N + left.left_N, view.delta_N)


def _scene(**changes: Any) -> Scene:
    honest = {0: 0.5, 1: 0.3, BURN_UID: 0.2}
    usual = Scene(
        named=frozenset({0, 1}), shares=honest, committed=frozenset(range(4)),
        delivered=frozenset({0, 1, 2}), missing=frozenset({3}), friends=frozenset({2}), seen={},
    )  # fmt: skip
    return replace(usual, **changes)


def test_just_under_half_of_the_stake_neither_names_nor_pays_and_just_over_does_both() -> None:
    scene, patron = _scene(), council.Patron()
    for stake, wins in ((JUST_UNDER_HALF, False), (1 - JUST_UNDER_HALF, True)):
        chain = Council(4, RULES, stake)
        named = [patron.names(scene), *[scene.named] * 3]
        decision = chain.decide(0, named, [scene.missing] * 4, [0] * 4, range(4))
        assert (2 in [member.uid for member in decision.members]) == wins
        pay = chain.pay([patron.weighs(scene), *[scene.shares] * 3])
        assert (pay.shares.get(2, 0.0) > 0.1) == wins
        if not wins:
            assert pay.shares == pytest.approx(scene.shares, abs=1e-4)


def test_a_stake_of_its_own_is_that_of_the_dishonest_validator() -> None:
    def stake(name: str) -> float:
        return suite.Case(attack=name, miners=8, attackers=2, seed=1, defended=True).stake

    assert stake("half of the stake and free riders") == JUST_UNDER_HALF
    assert stake("validator and free riders") == stake("") == 0.25
    assert ATTACKS["half of the stake and free riders"].stake == JUST_UNDER_HALF


def test_lazy_validators_say_what_others_said_before() -> None:
    first, second = _scene(), _scene(named=frozenset({1, 2}), shares={1: 0.5, 2: 0.5})
    log, lineage = council.LogCopier(), council.LineageCopier()
    assert log.weighs(first) == lineage.weighs(first) == {BURN_UID: 1.0}
    assert lineage.names(first) == frozenset()
    assert log.names(first) == first.named
    assert log.weighs(second) == first.shares
    assert lineage.weighs(second) == {0: 0.5, 1: 0.5}
    gone = replace(second, committed=frozenset({1, 2, 3}))
    assert lineage.names(gone) == {1}, "0 committed nothing"


@pytest.mark.slow
@pytest.mark.parametrize("name", VALIDATORS)
def test_it_moves_neither_the_step_nor_what_miners_are_paid(name: str) -> None:
    swarm = _swarm(name)
    swarm.run()
    away = Watched(TINY, [*(Actor() for _ in range(HONEST)), Undelivered()])
    away.run()
    assert swarm.outcome.stopped is None
    assert HONEST not in swarm.outcome.named
    assert swarm.outcome.shares[-1] == pytest.approx(away.outcome.shares[-1], abs=1e-3)
