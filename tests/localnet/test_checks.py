"""The sentences about failed localnet runs."""

import pytest

from localnet.checks import failures
from localnet.report import collect
from simulation.swarm import RAO, build_world
from tests.support.localnet.synthetic import (
    EMISSIONS_RAO,
    LOSSES,
    NUM_WINDOWS,
    STAKES_TAO,
    make_run,
)


@pytest.fixture
def run(tmp_path):
    return make_run(build_world(STAKES_TAO, schedule__num_windows=NUM_WINDOWS), tmp_path)


def said(run, **choices):
    return failures(collect(run.sources()), **choices)


def test_a_good_run_fails_nothing(run):
    assert said(run) == []


@pytest.mark.parametrize(
    ("choices", "good"),
    [
        ({"min_loss_drop_nats": 0.49}, True),
        ({"min_loss_drop_nats": 0.5}, False),
        ({"min_loss_drop_nats": 2.9, "loss_references": ("first",)}, True),
        ({"min_loss_drop_nats": 3.0, "loss_references": ("first",)}, False),
    ],
)
def test_the_loss_must_fall_far_enough(run, choices, good):
    assert [sentence.startswith("loss:") for sentence in said(run, **choices)] == [True] * (
        not good
    )


def test_a_flat_loss_never_passes(run):
    for name in ("val-a", "val-b"):
        run.log_losses(name, (LOSSES[0],) * len(LOSSES))
    assert len(said(run, min_loss_drop_nats=0.0, loss_references=("first",))) == 1
    assert len(said(run, min_loss_drop_nats=0.0)) >= 1


def test_a_trained_theta_0_alone_is_not_a_good_run(run):
    """Far below the unigram entropy from the start, and nothing learned after it."""
    for name in ("val-a", "val-b"):
        run.log_losses(name, (LOSSES[-1],) * len(LOSSES))
    (sentence,) = said(run)
    assert "below first" in sentence


@pytest.mark.parametrize("losses", [(), (5.0, float("inf"))])
def test_a_missing_loss_fails(run, losses):
    for name in ("val-a", "val-b"):
        run.log_node(name)
        run.log_losses(name, losses)
    assert any("held_out_loss.last is missing" in sentence for sentence in said(run))


def test_one_rao_for_garbage_is_too_much(run):
    run.pay(EMISSIONS_RAO | {"garbage-0": 1})
    (sentence,) = said(run)
    assert "garbage-0 (garbage) earned 1 rao" in sentence


def test_garbage_with_real_pay_also_takes_the_honest_share(run):
    run.pay(EMISSIONS_RAO | {"garbage-0": RAO})
    sentences = said(run)
    assert len(sentences) == 2
    assert "honest work holds 88.89%" in sentences[0]


@pytest.mark.parametrize(
    ("behaviour", "percent", "good"),
    [
        ("copier", 10, True),
        ("copier", 11, False),
        ("overclaimer", 34, True),
        ("overclaimer", 35, False),
        ("fewer-steps", 68, True),
        ("fewer-steps", 69, False),
        ("bitflip", 100, True),
    ],
)
def test_each_kind_has_its_limit(run, behaviour, percent, good):
    """Of the mean of m0 and m1, which is 4; for part of the work a quarter more, for luck."""
    run.behaviours["garbage-0"] = behaviour
    run.pay(EMISSIONS_RAO | {"garbage-0": 4 * RAO * percent // 100})
    sentences = [sentence for sentence in said(run) if f"({behaviour})" in sentence]
    assert len(sentences) == (not good)
    assert all(f"earned 0.{percent}0 of" in sentence for sentence in sentences)


@pytest.mark.parametrize(("each_percent", "good"), [(62, True), (63, False)])
def test_hotkeys_of_one_machine_are_judged_together(run, each_percent, good):
    run.behaviours |= {"garbage-0": "split", "idle-0": "split"}
    each_rao = 4 * RAO * each_percent // 100
    run.pay(EMISSIONS_RAO | {"garbage-0": each_rao, "idle-0": each_rao})
    sentences = said(run)
    assert len(sentences) == (not good)
    assert all("2 hotkeys of one machine earned 1.260" in sentence for sentence in sentences)


def test_a_validator_may_lie_and_the_run_is_good(run):
    run.behaviours["val-b"] = "liar"
    run.exits["val-b"] = 1
    assert said(run) == []


def test_honest_miners_must_earn(run):
    run.pay({})
    assert said(run) == ["emission: no honest miner earned anything"]


def test_a_run_of_garbage_only_fails(run):
    report = collect(run.sources())
    report["neurons"] = [n for n in report["neurons"] if n["name"] not in ("m0", "m1")]
    assert failures(report) == ["emission: the run has no honest miner"]


def test_the_odd_digest_is_named(run):
    run.log_node("garbage-0", digest="bad0" * 16)
    (sentence,) = said(run)
    assert sentence.startswith("digests: garbage-0 ended on bad0bad0")
    assert "4 of 5 nodes" in sentence


def test_a_killed_node_must_be_excused_by_name(run):
    run.log_node("m1", last_state=2, digest="bad0" * 16)
    run.exits["m1"] = None
    assert said(run) == ["exit: m1 never ended; see its log"]
    assert said(run, killed=("m0",)) == said(run)
    assert said(run, killed=("m1",)) == []


def test_a_crash_is_named_and_a_misbehaving_node_may_crash(run):
    run.exits["val-b"] = 1
    run.exits["garbage-0"] = 1
    assert said(run) == ["exit: val-b exited 1; see its log"]


def test_an_honest_node_without_a_digest_fails(run):
    (run.state_dir("m0") / "metrics.jsonl").unlink()
    assert said(run) == ["digests: m0 exited 0 without a digest of its parameters"]


def test_a_run_without_digests_fails(run):
    for name in STAKES_TAO:
        (run.state_dir(name) / "metrics.jsonl").unlink(missing_ok=True)
    assert "digests: no node that exited 0 has a digest of its parameters" in said(run)


def test_disagreement_on_a_window_fails_unless_that_node_was_killed(run):
    path = run.state_dir("m1") / "metrics.jsonl"
    path.write_text(path.read_text().replace("03" * 32, "ff" * 32), encoding="ascii")
    (sentence,) = said(run)
    assert sentence.startswith("windows: m1 disagree")
    run.exits["m1"] = -9
    assert said(run, killed=("m1",)) == []


@pytest.mark.parametrize(
    ("loss", "good"),
    [(LOSSES[2], True), (LOSSES[2] + 9e-7, True), (LOSSES[2] + 2e-6, False), (None, False)],
)
def test_the_fetched_model_has_the_loss_that_the_validators_measured(run, loss, good):
    run.fetch(3, loss)
    sentences = said(run)
    assert len(sentences) == (not good)
    assert all("theta_3 as fetched has a held-out loss of" in sentence for sentence in sentences)


def test_a_fetched_model_that_no_validator_measured_is_no_failure(run):
    run.fetch(len(LOSSES) + 1, 9.0)
    assert said(run) == []


def test_a_model_that_no_reader_could_have_fails_the_run(run):
    run.model_fault = "no validator serves it"
    assert said(run) == ["model: the newest checkpoint cannot be had: no validator serves it"]
