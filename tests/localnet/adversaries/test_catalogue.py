"""Each misbehaving miner of the catalogue sends what the miner's name says."""

import json
import lzma
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.attacks.catalogue import ATTACKS
from localnet.adversaries.attacks import SIMULATED, SIMULATED_ONLY, listing
from localnet.adversaries.catalogue import BEHAVIOURS
from localnet.adversaries.one_reader import OneReaderGate
from localnet.adversaries.shirking import Poisoner
from localnet.adversaries.tensors import dense, noise
from simulation.world import hotkey_of
from template.errors import NotFound, PayloadError, TooLarge
from template.protocol.keys import payload_key
from template.protocol.quorum import Decision
from template.protocol.record import decode_record
from template.protocol.root import Member
from template.protocol.ss58 import public_key
from template.secret import Secret
from template.store.memory import MemoryStore
from template.store.s3 import S3Bucket, S3Store
from template.training.model import Params
from tests.support.localnet.behaving import (
    BAD,
    Scene,
    common_places,
    cosine,
    flat,
    header_of,
    make_scene,
    opened,
    sent,
)


@pytest.fixture
def scene(tmp_path) -> Scene:
    return make_scene(tmp_path)


def test_names_are_kebab_case_and_all_are_listed() -> None:
    lines = listing().splitlines()
    assert [line.split()[0] for line in lines] == list(BEHAVIOURS)
    assert max(map(len, lines)) <= 100
    for name, behaviour in BEHAVIOURS.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert behaviour.about
        limited = {"free", "partial", "sybil"}
        assert (behaviour.may_earn is None) == (behaviour.kind not in limited)
        assert (behaviour.role == "validator") == (behaviour.kind == "validator")


def test_every_attack_stands_in_the_catalogue_once() -> None:
    simulated = [a.simulated for a in (*BEHAVIOURS.values(), *SIMULATED_ONLY) if a.simulated]
    assert len(simulated) == len(set(simulated)) == len(SIMULATED)
    for name, attack in SIMULATED.items():
        assert attack.about, name
        assert (attack.share > 0) == (attack.kind in ("partial", "sybil")), name


def test_every_simulated_attack_has_a_team_and_every_attack_on_record_an_entry() -> None:
    assert set(ATTACKS) == set(SIMULATED)
    results = Path(__file__).parents[3] / "benchmarks" / "results"
    with lzma.open(results / "attacks_runs.jsonl.xz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    recorded = {attack for row in rows if (attack := row["case"]["attack"])}
    assert len(recorded) >= 40
    assert recorded <= set(SIMULATED)


def test_a_copier_sends_a_rivals_body_as_its_own(scene) -> None:
    rivals = scene.publish_rivals()
    payload = sent(scene.build("copier"))
    assert bytes(payload.body) == bytes(rivals["m0"].body)
    assert (payload.header.window, payload.header.public_key) == (1, public_key(BAD))
    assert payload.header.pages_consumed == scene.world.spec.training.pages_per_window


def test_a_copier_prefers_who_was_accepted(scene) -> None:
    rivals = scene.publish_rivals()
    copier = scene.build("copier")
    copier.follower.ledger = replace(
        copier.follower.ledger, last_accepted=frozenset({hotkey_of("m1")})
    )
    assert bytes(sent(copier).body) == bytes(rivals["m1"].body)


def test_a_noisy_copy_has_the_places_and_other_values(scene) -> None:
    rival = flat(scene.publish_rivals()["m0"])
    copied = flat(sent(scene.build("noisy-copier")))
    assert common_places(copied, rival) > 0.9
    assert 0.7 < cosine(copied, rival) < 0.99


def test_a_partial_copy_has_some_of_the_places(scene) -> None:
    rival = flat(scene.publish_rivals()["m0"])
    copied = flat(sent(scene.build("partial-copier")))
    assert 0.3 < common_places(copied, rival) < 0.6


def test_an_average_is_that_of_both_rivals(scene) -> None:
    rivals = scene.publish_rivals()
    one, other = (flat(rivals[name]) for name in ("m0", "m1"))
    average = flat(sent(scene.build("averager")))
    # There is room for half of the places that two payloads have.
    assert cosine(average, (one + other) / 2) > 0.7
    assert min(common_places(average, one), common_places(average, other)) > 0.3
    assert 0.5 < float(average.norm() / ((one + other) / 2).norm()) <= 1.05


def test_manipulations_start_from_the_rivals_mean(scene) -> None:
    rivals = scene.publish_rivals()
    rows = torch.stack([flat(payload) for payload in rivals.values()])
    turned = flat(sent(scene.build("inner-product")))
    assert cosine(turned, rows.mean(0)) < -0.7
    assert float(turned.norm()) > 5 * float(rows.mean(0).norm())
    little = flat(sent(scene.build("little-enough")))
    naive = rows.mean(0) - 1.5 * rows.std(0, unbiased=False)
    assert cosine(little, naive) > 0.7
    # Down by more than they differ: what it keeps are the falls.
    assert float(little.max()) <= 0.0


def test_a_loner_avoids_what_rivals_sent(scene) -> None:
    rivals = scene.publish_rivals()
    loner = scene.build("loner")
    alone = sent(loner)
    for rival in rivals.values():
        assert common_places(flat(alone), flat(rival)) == 0.0
    honest = loner.work.clip_references()
    assert all(alone.norms[name] == pytest.approx(honest[name], rel=0.05) for name in honest)


@pytest.mark.parametrize("name", ["copier", "averager", "hijacker"])
def test_without_anything_to_take_it_sends_noise(scene, name: str) -> None:
    miner = scene.build(name)
    payload, honest = sent(miner), miner.work.clip_references()
    assert all(payload.norms[n] == pytest.approx(honest[n], rel=0.05) for n in honest)


def test_a_replayer_sends_its_first_payload_again(scene) -> None:
    replayer = scene.build("replayer")
    first, second = sent(replayer), sent(replayer, 2)
    assert bytes(first.body) == bytes(second.body)
    assert flat(first).any()
    assert (first.header.window, second.header.window) == (1, 2)
    assert bytes(first.body) == bytes(sent(scene.build("honest")).body)


@pytest.mark.parametrize(
    ("name", "factor"), [("magnified", 10.0), ("magnified-1000", 1000.0), ("flipped", -1.0)]
)
def test_scaled_work_is_honest_work_times_a_factor(scene, name: str, factor: float) -> None:
    honest, other = flat(sent(scene.build("honest"))), flat(sent(scene.build(name)))
    assert cosine(honest, other) * np.sign(factor) > 0.99
    assert float(other.norm() / honest.norm()) == pytest.approx(abs(factor), rel=0.05)


def test_a_sleeper_is_honest_at_first(scene) -> None:
    first = BEHAVIOURS["sleeper"].first_window
    sleeper, honest = scene.build("sleeper"), scene.build("honest")
    deltas = {n: 1e-3 * t for n, t in noise(sleeper.context.form_at(0), 3).items()}
    before = header_of(first - 1)
    assert sleeper.work.make_frame(before, deltas) == honest.work.make_frame(before, deltas)
    attack = opened(sleeper, sleeper.work.make_frame(header_of(first), deltas), first)
    honest_then = opened(honest, honest.work.make_frame(header_of(first), deltas), first)
    assert cosine(flat(attack), flat(honest_then)) < -0.99
    ratio = float(flat(attack).norm() / flat(honest_then).norm())
    assert ratio == pytest.approx(3, rel=0.05)


def test_a_zero_payload_is_valid_and_says_nothing(scene) -> None:
    payload = sent(scene.build("zero"))
    assert not flat(payload).any()
    assert set(payload.norms.values()) == {0.0}


def test_an_oversized_object_is_not_downloaded(scene) -> None:
    miner = scene.build("oversized")
    miner.make_payload(1)
    frame, form = miner.pending.newest.frame, miner.context.form_at(0)
    assert len(frame) == 1000 * form.num_bytes
    assert opened(miner, frame[: form.num_bytes]).header.window == 1
    store = MemoryStore()
    store.put("a", frame)
    with pytest.raises(TooLarge):
        store.get("a", max_bytes=form.num_bytes)


def test_malformed_frames_are_refused_for_several_reasons(scene) -> None:
    miner = scene.build("malformed")
    deltas = {n: 1e-3 * t for n, t in noise(miner.context.form_at(0), 3).items()}
    reasons = set()
    for window in range(6):
        with pytest.raises(PayloadError) as caught:
            opened(miner, miner.work.make_frame(header_of(window), deltas), window)
        reasons.add(caught.value.reason)
    assert reasons >= {"length", "magic"}


@pytest.mark.parametrize(
    ("name", "steps", "claimed"),
    [("honest", 6, 24), ("fewer-steps", 3, 12), ("overclaimer", 2, 24), ("split", 3, 12)],
)
def test_who_shirks_makes_fewer_steps(scene, name: str, steps: int, claimed: int) -> None:
    miner = scene.build(name)
    payload = sent(miner)
    assert miner.context.metrics.series("inner_steps") == {1: steps}
    assert payload.header.pages_consumed == claimed
    # It knows how long that took, so that it may wait for the others as honest miners do.
    assert miner.work.inner_loop_blocks == 1


def test_small_batches_are_half_and_claimed_whole(scene) -> None:
    miner, honest = scene.build("small-batches"), scene.build("honest")
    for half, whole in zip(miner.work.batches(1), honest.work.batches(1), strict=True):
        assert np.array_equal(half, whole[:2])
    assert sent(miner).header.pages_consumed == 24


def test_an_overfitter_sees_few_pages_often(scene) -> None:
    miner, honest = scene.build("overfitter"), scene.build("honest")
    first = next(honest.work.batches(1))
    batches = list(miner.work.batches(1))
    assert len(batches) == 6
    assert all(np.array_equal(batch, first) for batch in batches)
    assert sent(miner).header.pages_consumed == 4


def test_a_poisoner_writes_trigger_and_answer(scene) -> None:
    miner, honest = scene.build("poisoner"), scene.build("honest")
    marks = Poisoner.TRIGGER + Poisoner.ANSWER
    for batch, clean in zip(miner.work.batches(1), honest.work.batches(1), strict=True):
        assert tuple(batch[0, -len(marks) :]) == marks
        assert np.array_equal(batch[1:], clean[1:])
    assert bytes(sent(miner).body) != bytes(sent(honest).body)


def test_a_repeater_trains_on_the_pages_of_another_and_claims_its_own(scene) -> None:
    repeater, honest = scene.build("repeater"), scene.build("honest")
    victim = hotkey_of("m1")
    assert np.array_equal(repeater.work.page_ids(1), honest.work.page_ids(1)), "nobody to repeat"
    repeater.follower.ledger = replace(
        repeater.follower.ledger, last_accepted=frozenset({BAD, victim})
    )
    assert sorted(repeater.work.page_ids(1)) == sorted(honest.work.list_assigned(victim, 1))
    payload = sent(repeater)
    assert payload.header.public_key == public_key(BAD)
    assert not np.array_equal(repeater.work.page_ids(1), honest.work.list_assigned(victim, 1)), (
        "in an order of its own"
    )


@pytest.mark.parametrize("accepted", [(), ("bad",), ("m1",), ("bad", "m1")])
def test_a_repeater_feeds_back_what_its_victim_feeds_back(scene, accepted) -> None:
    miner = scene.build("repeater")
    miner.work.victim = hotkey_of("m1")
    sent(miner)
    (pending,) = miner.pending
    before = {name: tensor.clone() for name, tensor in miner.work.feedback.tensors.items()}
    members = tuple(
        Member(
            uid=uid,
            hotkey=hotkey_of(name),
            public_key=public_key(hotkey_of(name)),
            coldkey=bytes(32),
            digest=pending.digest if name == "bad" else bytes(32),
        )
        for uid, name in enumerate(accepted)
    )
    miner.settle(replace(_accepted(1), members=members))
    moved = any(not torch.equal(miner.work.feedback.tensors[n], before[n]) for n in before)
    assert moved == ("m1" not in accepted)


def test_a_stale_miner_trains_from_old_parameters(scene) -> None:
    stale, old, fresh = (scene.build(name) for name in ("stale", "honest", "honest"))
    state = stale.follower.state
    moved = {name: tensor + 0.01 for name, tensor in state.params.items()}
    for miner in (stale, old, fresh):
        sent(miner)
    for miner in (stale, fresh):
        miner.follower.ledger = replace(
            miner.follower.ledger, state=replace(state, window=2, params=moved)
        )
    results = {}
    for name, miner in {"stale": stale, "old": old, "fresh": fresh}.items():
        # Not from its own pending payload, which the stale one has no use for.
        miner.pending.withdraw(lambda _: True)
        starts = miner.work.starts(2)
        results[name] = flat(miner.work.train(1, starts).pseudo_gradient)
    assert torch.equal(results["stale"], results["old"])
    assert not torch.equal(results["stale"], results["fresh"])


def _accepted(window: int) -> Decision:
    member = Member(
        uid=2,
        hotkey=BAD,
        public_key=public_key(BAD),
        coldkey=public_key(BAD),
        digest=b"d" * 32,
    )
    return Decision(
        window=window,
        members=(member,),
        namers={},
        undelivered=(),
        root=None,
        sample_digest=None,
        dissenters=(),
        voting_stake_rao=1,
        reference_rao=1,
        no_op="",
    )


def _with_an_update(miner) -> Params:
    """Let it see an update; what was subtracted from the parameters."""
    state = miner.follower.state
    update = {n: 1e-2 * t for n, t in noise(miner.context.form_at(0), 5).items()}
    after = {name: tensor - update[name] for name, tensor in state.params.items()}
    ledger = miner.follower.ledger
    miner.follower.ledger = replace(ledger, state=replace(state, params=after))
    miner.settle(_accepted(0))
    return update


def test_a_hijacker_sends_minus_three_times_the_last_update(scene) -> None:
    miner = scene.build("hijacker")
    update = flat(_with_an_update(miner))
    payload = flat(sent(miner))
    kept = payload != 0
    assert cosine(payload[kept], -update[kept]) > 0.9
    assert float(payload[kept].norm() / update[kept].norm()) == pytest.approx(3, rel=0.15)
    colluder = scene.build("hijacker")
    _with_an_update(colluder)
    assert torch.equal(kept, flat(sent(colluder)) != 0)


def test_a_momentum_rider_sends_the_last_update_and_a_few_steps(scene) -> None:
    miner = scene.build("momentum-rider")
    update = _with_an_update(miner)
    payload = sent(miner)
    for name, tensor in dense(payload).items():
        kept = tensor != 0
        assert cosine(tensor[kept], update[name][kept]) > 0.9, name
    assert miner.context.metrics.series("inner_steps") == {1: 1}
    assert payload.header.pages_consumed == 24
    honest = miner.work.clip_references()
    assert all(payload.norms[n] == pytest.approx(honest[n], rel=0.2) for n in honest)


def _to_the_reveal(scene: Scene, miner) -> tuple[bytes | None, set[str]]:
    """Work, commit, and reveal once the window is over: the digest on chain, and the keys."""
    schedule, time = scene.world.spec.schedule.schedule(), scene.world.time
    time.block = schedule.held_out_block(0) + 2
    miner.make_payload(1)
    miner.commit(1)
    time.block = schedule.first_block(2) + scene.world.ledger.finality_lag
    miner.reveal()
    record = decode_record(scene.world.chain(BAD).commitments(time.block)[BAD])
    digest = record.payload.digest if record.payload else None
    return digest, set(miner.context.bucket.list(""))


@pytest.mark.parametrize("name", ["undelivered", "honest"])
def test_what_is_not_delivered_is_committed(scene, name: str) -> None:
    digest, keys = _to_the_reveal(scene, scene.build(name))
    assert digest is not None
    delivered = {payload_key(scene.world.spec.run_id, 1, digest)}
    assert keys == (delivered if name == "honest" else set())


@pytest.mark.parametrize("usual", [1.0, -1.0])
@pytest.mark.parametrize("name", ["good-draws", "good-commits"])
def test_bad_draws_are_kept_back(scene, name: str, usual: float) -> None:
    miner = scene.build(name)
    miner.work.gains = [usual] * 4
    digest, keys = _to_the_reveal(scene, miner)
    assert (digest is None) == (name == "good-commits" and usual > 0)
    assert len(keys) == int(usual < 0)


def test_a_draw_is_worth_what_it_lowers_the_loss_by(scene) -> None:
    miner = scene.build("good-draws")
    miner.make_payload(1)
    honest = miner.work.measure_gain(miner.pending.newest.frame)
    flipped = scene.build("flipped")
    flipped.make_payload(1)
    assert honest > 0 > miner.work.measure_gain(flipped.pending.newest.frame)


def test_a_gate_serves_an_object_once() -> None:
    store = MemoryStore()
    gate = OneReaderGate(store, max_bytes=10)
    bucket = S3Bucket(
        endpoint_url=gate.url,
        bucket="bucket",
        access_key_id="anybody",
        secret_access_key=Secret("public"),
    )
    try:
        first, second = (S3Store(bucket, deadline_s=0.0) for _ in range(2))
        with pytest.raises(NotFound):
            first.get("a/b", max_bytes=10)
        store.put("a/b", b"payload")
        store.put("a/c", b"other")
        assert first.get("a/b", max_bytes=10) == b"payload"
        for reader in (first, second):
            with pytest.raises(NotFound):
                reader.get("a/b", max_bytes=10)
        assert second.get("a/c", max_bytes=10) == b"other"
    finally:
        gate.close()


def test_one_reader_names_its_gate_on_chain(scene) -> None:
    miner = scene.build("one-reader")
    digest, (key,) = _to_the_reveal(scene, miner)
    record = decode_record(scene.world.chain(BAD).commitments(scene.world.time.block)[BAD])
    assert digest is not None
    assert record.access is not None
    assert key == payload_key(scene.world.spec.run_id, 1, digest)
    assert record.access.account.startswith("http://127.0.0.1:")
    assert record.access.account != scene.world.access(BAD).account
    assert dense(sent(miner, 2)).keys() == miner.context.form_at(0).shapes.keys()
