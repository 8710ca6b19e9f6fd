"""Swarms in one process, through the whole protocol: honest nodes, and others beside them."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest

from evaluation.verdict import MISSING, NOT_DRAWN
from evaluation.verdict_log import decode_logs
from evaluation.verify import verify_logs
from localnet.adversaries.catalogue import BEHAVIOURS
from localnet.adversaries.damaging import BitFlip
from simulation.swarm import (
    FOUR,
    STAKES_TAO,
    accepted,
    build_world,
    digests,
    honest,
    metrics,
    run,
    to_the_end,
    uid_of,
)
from simulation.world import hotkey_of
from template.base.validator import Validator
from template.scoring.rules import pay_rules
from tests.support.flipping import FlippingValidator, flip_ledger


def _weights(world, name: str) -> list[dict[int, float]]:
    return world.ledger.weights[hotkey_of(name)]


def test_two_validators_and_four_miners_train_one_model(tmp_path) -> None:
    world = build_world({**STAKES_TAO, "m2": 0, "m3": 0})
    nodes = run(world, honest(*FOUR, "m2", "m3"), tmp_path)
    ((window, _, _),) = digests(nodes)
    assert window == world.spec.schedule.num_windows + 1
    curve = metrics(nodes["val-a"]).series("held_out_loss")
    assert curve[max(curve)] < curve[1] - 0.1, curve
    assert any(len(uids) == 4 for uids in accepted(nodes["val-a"]).values())
    assert _weights(world, "val-a") == _weights(world, "val-b")
    last = _weights(world, "val-a")[-1]
    assert all(last[uid_of(world, name)] > 0 for name in ("m0", "m1", "m2", "m3")), last
    assert sum(last.values()) == pytest.approx(1.0)


@pytest.mark.slow
def test_misbehaving_miners_are_not_paid_and_shift_nobody(tmp_path) -> None:
    bad = {name: BEHAVIOURS[name].build for name in ("garbage", "malformed", "idle")}
    world = build_world({**STAKES_TAO, **dict.fromkeys(bad, 0)})
    drives = {**honest(*FOUR), **{name: to_the_end(kind) for name, kind in bad.items()}}
    nodes = run(world, drives, tmp_path)
    followers = ("val-a", "val-b", "m0", "m1", "garbage", "malformed")
    assert len(digests(nodes, *followers)) == 1
    uids = {name: uid_of(world, name) for name in (*bad, "m0", "m1")}

    last = _weights(world, "val-a")[-1]
    assert all(last.get(uids[name], 0.0) == 0.0 for name in bad), last
    assert min(last[uids["m0"]], last[uids["m1"]]) > 0, last
    times = Counter(uid for members in accepted(nodes["m0"]).values() for uid in members)
    assert times[uids["malformed"]] == times[uids["idle"]] == 0
    # Accepted until it is known: the sooner, the more a machine lets validators score in time.
    assert 2 * times[uids["garbage"]] < times[uids["m0"]] > 2, times

    log = (nodes["val-a"].context.state_dir / "verdicts.jsonl").read_text().splitlines()
    verdicts = [v for v in map(json.loads, log) if v.get("uid") == uids["malformed"]]
    assert len(verdicts) == world.spec.schedule.num_windows
    assert {v["status"] for v in verdicts} >= {"length", "too_large", "magic"}
    assert all(v["gain"] is None for v in verdicts)
    refused = [v for v in verdicts if v["status"] not in MISSING]
    assert all(v["relative_gain"] == -1.0 for v in refused)
    heads = [row for row in map(json.loads, log) if row["kind"] == "window"]
    found = {tuple(pair) for row in heads for pair in row["undelivered"]}
    missed = {(v["window"], v["hotkey"]) for v in verdicts if v["status"] in MISSING}
    last_window = world.spec.schedule.num_windows - 1
    assert found == {(w, hotkey) for w, hotkey in missed if w < last_window} != set()


@pytest.mark.slow
def test_of_too_many_payloads_all_validators_score_the_same_sample(tmp_path) -> None:
    """Two of five payloads in a window: nobody is paid less for not being drawn, nor named."""
    miners = ("m0", "m1", "m2", "m3", "m4")
    world = build_world(
        {**STAKES_TAO, "m2": 0, "m3": 0, "m4": 0}, evaluation__max_payloads=2,
        schedule__num_windows=10,
    )  # fmt: skip
    nodes = run(world, honest("val-a", "val-b", *miners), tmp_path)
    assert len(digests(nodes)) == 1
    by_validator = []
    for name in ("val-a", "val-b"):
        text = (nodes[name].context.state_dir / "verdicts.jsonl").read_text()
        logs = decode_logs(text)
        assert verify_logs(logs, pay_rules(world.spec)).found == ()
        by_validator.append({log.window: log for log in logs})
    times: Counter[str] = Counter()
    for window, log in by_validator[0].items():
        drawn = {v.hotkey for v in log.verdicts if v.status != NOT_DRAWN}
        other = {v.hotkey for v in by_validator[1][window].verdicts if v.status != NOT_DRAWN}
        assert drawn == other
        assert len(drawn) == min(2, len(log.verdicts))
        assert log.measured.after_KQ.keys() <= {v.uid for v in log.verdicts if v.hotkey in drawn}
        left_out = [v for v in log.verdicts if v.status == NOT_DRAWN]
        assert all(v.relative_gain is None and v.blameless for v in left_out)
        assert len({v.hotkey for v in left_out} | drawn) == len(log.verdicts)
        times.update(drawn)
    assert len(times) == len(miners), "in ten windows everybody is drawn"
    for window, uids in accepted(nodes["m0"]).items():
        drawn_uids = {v.uid for v in by_validator[0][window].verdicts if v.status != NOT_DRAWN}
        assert uids <= drawn_uids


def test_a_validator_with_one_wrong_bit_is_named_in_that_window_and_heals(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=4)
    nodes = run(world, {**honest(*FOUR), "val-b": to_the_end(FlippingValidator)}, tmp_path)
    uid, flipped = str(uid_of(world, "val-b")), FlippingValidator.FLIP_WINDOW
    for name in ("val-a", "m0", "m1"):
        named = metrics(nodes[name]).series("dissenting_uids")
        # Validators, who vote once more after the end, compare themselves then, too.
        compared = range(5 if name == "val-a" else 4)
        assert named == {w: uid if w == flipped else "" for w in compared}, name
        assert set(metrics(nodes[name]).series("differs_from_majority").values()) == {0}
    own = metrics(nodes["val-b"]).series("differs_from_majority")
    assert own == {w: int(w == flipped) for w in range(5)}
    assert metrics(nodes["val-b"]).series("healed") == {flipped: 1}
    assert len(digests(nodes)) == 1


class WithoutPast(FlippingValidator):
    """Whose anchors are all from after the flip: only others can help it."""

    FLIP_WINDOW = 5

    def step(self) -> bool:
        if self.follower.next_window == self.FLIP_WINDOW:
            shutil.rmtree(self.context.state_dir / "past")
            flip_ledger(self.follower)
            steps = self.follower.anchors.open(self.follower.state)
            self.follower.ledger = replace(self.follower.ledger, steps=steps)
        return Validator.step(self)


def test_a_node_whose_own_past_is_wrong_joins_anew(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=7, checkpoint__every_windows=2)
    nodes = run(world, {**honest(*FOUR), "val-b": to_the_end(WithoutPast)}, tmp_path)
    flipped = WithoutPast.FLIP_WINDOW
    assert metrics(nodes["val-b"]).series("healed") == {flipped: 1}
    assert len(digests(nodes)) == 1
    anchors = [state.window for state in nodes["val-b"].follower.anchors.load_anchors()]
    assert 4 in anchors, "the published state that it joined at is what it can go back to now"


def test_a_miner_with_one_wrong_bit_sees_it_itself_and_heals(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=4)
    nodes = run(world, {**honest(*FOUR), "m1": to_the_end(BEHAVIOURS["bitflip"].build)}, tmp_path)
    own = metrics(nodes["m1"]).series("differs_from_majority")
    flipped_theta = BitFlip.FLIP_WINDOW
    assert own == {w: int(w + 1 == flipped_theta) for w in range(4)}
    assert metrics(nodes["m1"]).series("healed") == {flipped_theta - 1: 1}
    for name in ("val-a", "val-b", "m0"):
        assert set(metrics(nodes[name]).series("dissenting_uids").values()) == {""}
    assert len(digests(nodes)) == 1


def test_with_one_window_only_nobody_is_paid_yet(tmp_path) -> None:
    world = build_world(STAKES_TAO, schedule__num_windows=1)
    nodes = run(world, honest(*FOUR), tmp_path)
    assert len(digests(nodes)) == 1
    assert _weights(world, "val-a") == [{0: 1.0}]


def test_what_nobody_earned_goes_to_the_owners_hotkey_and_no_stranger_at_uid_0(tmp_path) -> None:
    world = build_world({**STAKES_TAO, "subnet owner": 0}, schedule__num_windows=6)
    world.ledger.owner_hotkey = hotkey_of("subnet owner")
    nodes = run(world, honest(*FOUR), tmp_path)
    assert len(digests(nodes)) == 1
    burn_uid = uid_of(world, "subnet owner")
    assert burn_uid != 0
    for name in ("val-a", "val-b"):
        first, *_, last = _weights(world, name)
        assert first == {burn_uid: 1.0}, "nobody is paid yet"
        assert all(0 not in shares for shares in _weights(world, name))
        assert last[uid_of(world, "m0")] > 0
        logs = decode_logs((nodes[name].context.state_dir / "verdicts.jsonl").read_text())
        assert {log.burn_uid for log in logs} == {burn_uid}
        assert verify_logs(logs, pay_rules(world.spec)).found == ()


def test_while_the_owners_hotkey_has_no_uid_the_last_weights_stand(tmp_path, caplog) -> None:
    world = build_world({**STAKES_TAO, "subnet owner": 0}, schedule__num_windows=4)
    world.ledger.owner_hotkey = gone = hotkey_of("subnet owner")
    world.ledger.dropped[gone] = world.spec.schedule.schedule().first_block(3)
    nodes = run(world, honest(*FOUR), tmp_path)
    assert len(digests(nodes)) == 1, "the run goes on"
    burn_uid = uid_of(world, "subnet owner")
    assert set(map(str, _weights(world, "val-a"))) == {str({burn_uid: 1.0})}
    (told, *_) = [r.getMessage() for r in caplog.records if "no weights set" in r.getMessage()]
    assert f"the hotkey of the subnet's owner, {gone}, is not registered" in told
    assert "btcli subnets register --netuid 1" in told
    logs = decode_logs((nodes["val-a"].context.state_dir / "verdicts.jsonl").read_text())
    assert logs[0].burn_uid == burn_uid
    assert logs[-1].burn_uid is None
    assert verify_logs(logs, pay_rules(world.spec)).found == ()
