"""The report of a synthetic run: every number from chain, buckets and logs."""

import json
from dataclasses import replace

import pytest

from localnet.pay import Pay
from localnet.report import collect, emission_shares
from localnet.tallies import bucket_bytes, mean_weights
from simulation.swarm import RAO, build_world
from simulation.world import FakeChain, hotkey_of
from template.chain import Metagraph
from template.store.memory import MemoryStore
from tests.support.localnet.synthetic import (
    EMISSIONS_RAO,
    LOSSES,
    NUM_WINDOWS,
    STAKES_TAO,
    UNIGRAM,
    digest_at,
    make_run,
)


@pytest.fixture
def run(tmp_path):
    return make_run(build_world(STAKES_TAO, schedule__num_windows=NUM_WINDOWS), tmp_path)


def by_name(report):
    return {neuron["name"]: neuron for neuron in report["neurons"]}


def test_the_report_has_exactly_these_keys_and_is_json(run):
    report = collect(run.sources())
    assert set(report) == {
        "run_id", "held_out_loss", "windows", "switches", "neurons", "restarts", "model",
        "model_fault", "pace", "wall_s",
    }  # fmt: skip
    assert set(report["held_out_loss"]) == {"first", "last", "per_window", "unigram", "differing"}
    assert set(report["windows"][0]) == {"window", "accepted_uids", "state_root", "disagreeing"}
    assert set(report["neurons"][0]) == {
        "name", "uid", "hotkey", "role", "behaviour", "weight", "incentive", "emission",
        "emission_rao", "payloads_committed", "payloads_accepted", "bytes_uploaded", "speed",
        "utilisation", "pages_claimed", "work_share", "refusals",
        "final_window", "final_params_digest", "exit", "misbehaviour",
    }  # fmt: skip
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["run_id"] == run.spec.run_id.hex()
    assert report["wall_s"] == 12.5


def test_the_fetched_model_is_in_the_report(run):
    assert collect(run.sources())["model"] is None
    run.fetch(3, 2.5)
    assert collect(run.sources())["model"] == {
        "window": 3, "lineage_root": "03" * 32, "parameters": 1234, "loss": 2.5,
    }  # fmt: skip


def test_loss_comes_from_the_validators(run):
    assert collect(run.sources())["held_out_loss"] == {
        "first": LOSSES[0],
        "last": LOSSES[-1],
        "per_window": list(LOSSES),
        "unigram": UNIGRAM,
        "differing": {},
    }


def test_validators_that_differ_in_loss_are_recorded(run):
    run.log_losses("val-b", (LOSSES[0], LOSSES[1] + 2e-6, LOSSES[2] + 5e-7))
    losses = collect(run.sources())["held_out_loss"]
    assert losses["differing"] == {"2": {"val-a": LOSSES[1], "val-b": LOSSES[1] + 2e-6}}
    assert losses["per_window"] == list(LOSSES)


def test_a_loss_that_diverged_is_not_hidden(run):
    for name in ("val-a", "val-b"):
        run.log_losses(name, (*LOSSES[:-1], float("nan")))
    losses = collect(run.sources())["held_out_loss"]
    assert losses["last"] is None
    assert losses["first"] == LOSSES[0]


def test_windows_name_those_that_disagree(run):
    path = run.state_dir("m1") / "metrics.jsonl"
    path.write_text(path.read_text().replace("03" * 32, "ff" * 32), encoding="ascii")
    windows = collect(run.sources())["windows"]
    assert [w["accepted_uids"] for w in windows] == [[3], [3, 4], []]
    assert [w["state_root"] for w in windows] == [f"{s:02x}" * 32 for s in (2, 3, 4)]
    assert [w["disagreeing"] for w in windows] == [[], ["m1"], []]


def test_windows_with_a_new_spec_are_named_once(run):
    assert collect(run.sources())["switches"] == []
    for name in ("m0", "val-a"):
        path = run.state_dir(name) / "metrics.jsonl"
        rows = [{"window": 2, "spec": "cd" * 16}, {"window": 1, "spec": "ab" * 16}]
        path.write_text(path.read_text() + "".join(f"{json.dumps(row)}\n" for row in rows))
    assert collect(run.sources())["switches"] == [
        {"window": 1, "spec_id": "ab" * 16}, {"window": 2, "spec_id": "cd" * 16},
    ]  # fmt: skip


def test_weights_are_means_by_stake_and_null_for_who_is_not_weighed(run):
    neurons = by_name(collect(run.sources()))
    assert neurons["m0"]["weight"] == pytest.approx(0.75 * 0.75 + 0.25 * 0.25)
    assert neurons["owner"]["weight"] == pytest.approx(0.25 * 0.5)
    assert neurons["garbage-0"]["weight"] == 0.0
    assert neurons["val-a"]["weight"] is None


def test_weights_count_only_validators_that_set_some(run):
    graph = run.sources().chain.metagraph(0)
    assert mean_weights({1: {}, 2: {3: 30.0, 4: 10.0}}, graph) == {3: 0.75, 4: 0.25}
    assert mean_weights({1: {3: 0.0}}, graph) == {}
    assert mean_weights({5: {3: 1.0}}, graph) == {}


def test_pay_is_what_the_stake_gained(run):
    report = collect(run.sources())
    neurons = by_name(report)
    assert neurons["m0"]["emission_rao"] == 6 * RAO
    assert neurons["m0"]["emission"] == 6.0
    assert neurons["m0"]["incentive"] == 0.5
    assert neurons["val-a"]["emission_rao"] == 9 * RAO
    assert emission_shares(report) == {"m0": 0.75, "m1": 0.25, "garbage-0": 0.0, "idle-0": 0.0}


def test_no_emission_is_no_share(run):
    run.pay({})
    assert set(emission_shares(collect(run.sources())).values()) == {0.0}


def test_payloads_are_counted_on_chain(run):
    neurons = by_name(collect(run.sources()))
    counts = {n: (v["payloads_committed"], v["payloads_accepted"]) for n, v in neurons.items()}
    assert counts["m0"] == (3, 2)
    assert counts["m1"] == (3, 1)
    assert counts["garbage-0"] == (3, 0)
    assert counts["idle-0"] == counts["val-a"] == (0, 0)


def test_a_commitment_that_came_a_block_too_late_does_not_count(run):
    blocks, _ = run.world.ledger.commitments[hotkey_of("m1")]
    blocks[-1] += 1
    assert by_name(collect(run.sources()))["m1"]["payloads_committed"] == NUM_WINDOWS - 1


def test_windows_that_are_not_final_do_not_count(run):
    run.world.time.block = run.spec.schedule.schedule().stake_block(1) + 1
    assert by_name(collect(run.sources()))["m0"]["payloads_committed"] == 1


def test_bytes_are_those_in_the_bucket(run):
    run.world.buckets[hotkey_of("m0")].put("a/b", b"12345")
    run.world.buckets[hotkey_of("m0")].put("c", b"678")
    neurons = by_name(collect(run.sources()))
    assert neurons["m0"]["bytes_uploaded"] == 8
    assert neurons["m1"]["bytes_uploaded"] == 0
    assert bucket_bytes(None) == bucket_bytes(MemoryStore()) == 0


def test_refusals_count_each_window_once_per_validator(run):
    run.judge("val-a", "garbage-0", 2, "overlap")
    with (run.state_dir("val-b") / "verdicts.jsonl").open("a") as file:
        file.write('{"window": 9, "hotk')
    neurons = by_name(collect(run.sources()))
    assert neurons["garbage-0"]["refusals"] == {"overlap": 1, "not_useful": 5}
    assert neurons["m0"]["refusals"] == {}


def test_what_liars_say_of_others_is_no_refusal(run):
    run.behaviours["val-b"] = "liar"
    neurons = by_name(collect(run.sources()))
    assert neurons["garbage-0"]["refusals"] == {"not_useful": 3}


def test_work_is_the_share_of_the_pages_of_all_honest_miners(run):
    """By the payloads that validators opened, each counted once; noise claims pages too."""
    for validator, name, window, pages in (
        ("val-a", "m0", 0, 240),
        ("val-b", "m0", 0, 240),
        ("val-b", "m0", 1, 120),
        ("val-a", "m1", 0, 40),
        ("val-a", "garbage-0", 0, 240),
    ):
        run.judge(validator, name, window, "named", pages_consumed=pages)
    run.judge("val-a", "m1", 1, "not_delivered")
    run.speeds["m1"] = 0.1
    neurons = by_name(collect(run.sources()))
    work = {n: (v["pages_claimed"], v["work_share"], v["speed"]) for n, v in neurons.items()}
    assert (work["m0"], work["m1"]) == ((360, 0.9, 1.0), (40, 0.1, 0.1))
    assert work["garbage-0"] == (240, None, 1.0)
    assert work["val-a"] == (0, None, 1.0)


def test_without_a_claimed_page_nobody_has_a_share_of_the_work(run):
    assert {n["work_share"] for n in collect(run.sources())["neurons"]} == {None}


def test_a_miner_is_as_busy_as_in_its_median_window(run):
    run.log_utilisations("m1", (0.1, 0.9, 0.3))
    neurons = by_name(collect(run.sources()))
    assert (neurons["m1"]["utilisation"], neurons["m0"]["utilisation"]) == (0.3, None)


def test_misbehaviour_is_told_with_its_pay_against_honest_work(run):
    run.behaviours |= {"garbage-0": "copier", "val-b": "liar"}
    run.pay(EMISSIONS_RAO | {"garbage-0": RAO})
    neurons = by_name(collect(run.sources()))
    assert neurons["m0"]["misbehaviour"] is neurons["owner"]["misbehaviour"] is None
    assert neurons["garbage-0"]["misbehaviour"] == {
        "kind": "free",
        "first_window": 0,
        "emission_rao": RAO,
        "earned_vs_honest": 0.25,
        "may_earn": 0.1,
    }
    # A third of what val-a was paid, for a third of its stake.
    assert neurons["val-b"]["misbehaviour"]["earned_vs_honest"] == pytest.approx(1.0)


class Paying(FakeChain):
    """Pays every hotkey its uid in rao with each block."""

    def metagraph(self, block: int) -> Metagraph:
        graph = super().metagraph(block)
        paid = (replace(n, alpha_stake_rao=n.uid * block) for n in graph.neurons)
        return replace(graph, neurons=tuple(paid))


def test_pay_counts_from_the_first_epoch_that_knows(run):
    chain, schedule = Paying(run.world.ledger, hotkey_of("owner")), run.spec.schedule
    known = schedule.schedule().vote_block(1) + 2 * schedule.tempo_blocks
    run.world.time.block = known + 50 + run.world.ledger.finality_lag
    pay = Pay(chain, schedule, {hotkey_of("m0"): 300})
    m0, m1, garbage = (hotkey_of(name) for name in ("m0", "m1", "garbage-0"))
    assert pay.gained_rao(m0) == 3 * (known + 50) - 300
    assert pay.gained_rao(m0, first_window=1) == 3 * 50
    assert pay.against(garbage, [m0, m1], 1, by_stake=False) == pytest.approx(5 / 3.5)
    assert pay.gained_rao(m0, first_window=9) == 0
    assert pay.against(garbage, [m0, m1], 9, by_stake=False) is None
    assert pay.against(garbage, [], 1, by_stake=False) is None
    assert pay.gained_rao(hotkey_of("nobody")) == 0


def test_digests_are_compared_where_all_survivors_were(run):
    run.log_node("m1", last_state=3)
    neurons = by_name(collect(run.sources()))
    for name in ("val-a", "val-b", "m0", "m1", "garbage-0"):
        assert neurons[name]["final_window"] == 3
        assert neurons[name]["final_params_digest"] == digest_at(3)
    assert neurons["idle-0"]["final_params_digest"] is None


@pytest.mark.parametrize("status", [None, 1, -9])
def test_a_node_that_was_killed_holds_nobody_up(run, status):
    run.log_node("m1", last_state=2)
    run.exits["m1"] = status
    neurons = by_name(collect(run.sources()))
    assert (neurons["m1"]["final_window"], neurons["m1"]["exit"]) == (2, status)
    assert neurons["m0"]["final_window"] == NUM_WINDOWS + 1


def test_a_hotkey_that_is_not_registered_has_no_uid(run):
    run.world.ledger.neurons = run.world.ledger.neurons[:-1]
    neuron = by_name(collect(run.sources()))["idle-0"]
    assert (neuron["uid"], neuron["incentive"], neuron["emission_rao"]) == (None, None, 0)


def test_a_run_without_any_log_has_a_report(run):
    for name in STAKES_TAO:
        for path in run.state_dir(name).glob("*"):
            path.unlink()
    report = collect(run.sources())
    assert report["windows"] == []
    assert report["held_out_loss"]["first"] is report["held_out_loss"]["last"] is None
