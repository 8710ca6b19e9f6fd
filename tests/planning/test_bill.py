"""Buckets' bytes, requests and dollars."""

import re
from dataclasses import replace

import pytest

from template.bucket.budget import Storage, miner_storage, validator_storage
from template.data.manifest import MAX_MANIFEST_BYTES, manifest_bytes
from template.errors import ConfigError
from template.planning.bill import (
    Bill,
    miner_bill,
    owner_bill,
    put_calls,
    run_manifest,
    run_tokens,
    run_windows,
    validator_bill,
)
from template.protocol.spec.timing import MAX_WINDOWS


def test_a_terabyte_for_a_month_and_millions_of_requests_cost_the_listed_price() -> None:
    bill = Bill(storage=Storage(payload_bytes=10**12), writes=1e6, reads=1e6)
    assert bill.usd_per_day == pytest.approx(1000 * 0.015 / 30 + 4.5 + 0.36)


def test_an_object_longer_than_a_part_takes_a_call_a_part_and_three() -> None:
    assert put_calls(1) == put_calls(16 << 20) == 1
    assert put_calls((16 << 20) + 1) == 2 + 3
    assert put_calls(1_438_608_332) == 86 + 3


def test_bytes_are_the_budgets_of_the_buckets(case_of) -> None:
    case = case_of("8b")
    manifest = run_manifest(case, run_tokens(case))
    assert miner_bill(case).storage == miner_storage(case.spec)
    assert validator_bill(case, manifest).storage == validator_storage(case.spec, manifest)


def test_requests_follow_windows_and_readers(case_of) -> None:
    case = case_of("150m")
    assert case.windows_per_day == 72
    assert miner_bill(case).reads == 72 * (19 + 8)
    assert miner_bill(case).writes == 72 * (1 + 2)


def test_a_run_without_an_end_is_planned_for_a_year(case_of) -> None:
    case = case_of("150m")
    spec = replace(case.spec, schedule=replace(case.spec.schedule, num_windows=MAX_WINDOWS))
    assert run_windows(case) == case.spec.schedule.num_windows
    assert run_windows(replace(case, spec=spec)) == 365 * 72


def test_a_dataset_holds_its_tokens_in_the_usual_shards(case_of) -> None:
    case = case_of("72b")
    tokens = run_tokens(case)
    assert tokens == 6190 * 20 * 30 * 192 * 2048
    manifest = run_manifest(case, tokens)
    assert 0 <= manifest.num_pages * 2048 - tokens < 32 * 2048
    assert max(shard.num_segments for shard in manifest.shards) == 2**28 // (32 * 2048)
    bill = owner_bill(case, manifest)
    lists = sum(shard.list_bytes for shard in (*manifest.shards, manifest.held_out))
    held_out = manifest.shard_bytes(manifest.held_out)
    assert bill.storage.total_bytes == (
        manifest.num_pages * 2048 * 4 + held_out + lists + case.theta0_bytes
    )


def test_the_smallest_dataset_is_a_segment(case_of) -> None:
    manifest = run_manifest(case_of("150m"), 1)
    assert [shard.num_segments for shard in manifest.shards] == [1]
    assert manifest.held_out.num_segments == 1


def test_a_dataset_that_no_manifest_lists_is_refused_and_the_longest_is_not(case_of) -> None:
    """Where nobody refuses, the planner lists shards for minutes."""
    case = case_of("150m")
    with pytest.raises(ConfigError, match=r"--dataset-tokens: .* name at most [0-9,]+ ") as caught:
        run_manifest(case, 10**16)
    most = int(re.findall(r"at most ([0-9,]+) ", str(caught.value))[0].replace(",", ""))
    assert most > 10**13
    assert len(manifest_bytes(run_manifest(case, most))) <= MAX_MANIFEST_BYTES
    with pytest.raises(ConfigError):
        run_manifest(case, most + 1)
