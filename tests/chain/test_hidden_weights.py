"""A validator's weights on real chains with commit-reveal: revealed, paid, and never aged out."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import bittensor as bt
import pytest

from localnet.chain.drand import round_time_s
from localnet.onchain import NETUID
from template.chain import WeightTimes
from template.chain.types import Chain
from tests.support.faketime import clock_from, clock_library, set_clock
from tests.support.faults.subnet import OWNER, ROOT, Subnet
from tests.support.localnet.commit_cases import PULSES, ROUND
from tests.support.localnet.weighing import OTHERS, row_of, weigh
from tests.support.waiting import HANG_S, wait_until

TEMPO = 20
VALIDATOR_UID = 1
DELAY_BLOCKS = 3
pytestmark = pytest.mark.slow


@contextmanager
def a_subnet(folder: Path, *flags: str, env: dict[str, str] | None = None) -> Iterator[Subnet]:
    """A validator with a permit, and two others; `env`: the chain's own variables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(folder / "runtime"))
        subnet = Subnet(
            folder, ("validator", "m0", "m1"), "--tempo", str(TEMPO), *flags, has_buckets=False
        )
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        with subnet:
            for name in env or {}:
                patch.delenv(name)
            subnet.register("validator", "m0", "m1")
            subnet.stake("validator", 100)
            chain = subnet.chain
            wait_until(
                lambda: chain.metagraph(chain.head()).neurons[VALIDATOR_UID].validator_permit
            )
            yield subnet


def rows_by_block(chain: Chain, last: int) -> list[tuple[dict[int, float], int]]:
    """(row, block in which it appeared) of the validator, in order."""
    rows = ((dict(chain.weights(block).get(VALIDATOR_UID, {})), block) for block in range(1, last))
    found = ((row, next(group)[1]) for row, group in groupby(rows, key=lambda each: each[0]))
    return [(row, block) for row, block in found if row]


def first_block_of_next_epoch(subnet: Subnet, block: int) -> int:
    """The block in which the epoch after the one of `block` begins."""
    epoch = subnet_epoch(subnet, block)
    while subnet_epoch(subnet, block) == epoch:
        block += 1
    return block


def at(subnet: Subnet, block: int) -> Any:
    """The SDK's view of a block, whose reads its types do not name."""
    return subnet.sdk.at(block)


def subnet_epoch(subnet: Subnet, block: int) -> int:
    view = at(subnet, block)
    return int(view.query(("SubtensorModule", "SubnetEpochIndex"), [NETUID]))


def incentives(chain: Chain, block: int) -> list[float]:
    neurons = chain.metagraph(block).neurons
    return [neurons[uid].incentive for uid in OTHERS]


def test_rows_are_revealed_and_paid_an_epoch_late_in_their_order(tmp_path: Path) -> None:
    flags = ("--block-time", "0.2", "--weights-rate-limit", "8", "--commit-reveal", "modelled")
    with a_subnet(tmp_path, *flags) as subnet:
        chain = subnet.chain
        weigh_here(subnet, TEMPO)(4)
        last = chain.metagraph(chain.head()).neurons[VALIDATOR_UID].last_update
        wait_until(lambda: chain.head() > last + 2 * TEMPO + 1)
        found = rows_by_block(chain, chain.head())
        assert [row for row, _ in found] == [
            pytest.approx(row_of(window), abs=1e-4) for window in range(4)
        ]
        for row, block in found:
            epoch = subnet_epoch(subnet, block)
            assert subnet_epoch(subnet, block - DELAY_BLOCKS) == epoch
            assert subnet_epoch(subnet, block - DELAY_BLOCKS - 1) == epoch - 1
            before = chain.metagraph(block).neurons[VALIDATOR_UID].last_update
            assert subnet_epoch(subnet, before) == epoch - 1, "committed an epoch before"
            paid_at = first_block_of_next_epoch(subnet, block)
            assert incentives(chain, paid_at - 1) != pytest.approx([*row.values()], abs=1e-3)
            assert incentives(chain, paid_at) == pytest.approx([*row.values()], abs=1e-3)


def weigh_here(subnet: Subnet, blocks_per_window: int) -> Any:
    wallet, hotkey = subnet.wallets["validator"], subnet.hotkeys["validator"]
    return weigh(subnet.url, wallet, hotkey, blocks_per_window, subnet.folder / "node")


@pytest.mark.skipif(clock_library() is None, reason="needs the package libfaketime")
def test_a_sealed_row_opens_with_its_recorded_pulse_and_others_never(tmp_path: Path) -> None:
    """The clocks of chain and validator stand in August 2023, when the pulses were made.

    An epoch lasts as long as two rounds of the beacon, so a commit or two are sealed to the two
    recorded pulses. Every other commit waits for a pulse that this chain never gets.
    """
    pulses = tmp_path / "pulses.json"
    pulses.write_text(json.dumps({str(number): value for number, value in PULSES.items()}))
    file = tmp_path / "clock"
    clock = clock_from(file)
    set_lead(file, 3600)
    flags = ("--block-time", "0.3", "--weights-rate-limit", "8", "--commit-reveal", "on")
    with a_subnet(tmp_path, *flags, "--drand-pulses", str(pulses), env=clock) as subnet:
        chain = subnet.chain
        times = chain.weight_times(chain.finalized())
        assert times == WeightTimes(rate_limit_blocks=8, cutoff_blocks=277, reveal_epochs=1)
        first = chain.head()
        set_lead(file, 45)
        command = [sys.executable, "-m", "tests.support.localnet.weighing", "--url", subnet.url]
        command += ["--wallets", str(tmp_path / "wallets"), "--name", "validator"]
        command += ["--blocks-per-window", str(TEMPO), "--windows", "9"]
        command += ["--folder", str(tmp_path / "node")]
        environment = {**os.environ, **clock, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, env=environment, cwd=ROOT, check=True, timeout=HANG_S)
        wait_until(lambda: chain.head() > first + 11 * TEMPO)
        sealed = sealed_to(subnet, first, chain.head())
        assert len(sealed) == 9
        # Two commits of an epoch open in the same block, and the later one stands.
        recorded = [window for window, (_, number) in enumerate(sealed) if number in PULSES]
        by_epoch = {subnet_epoch(subnet, sealed[window][0]): window for window in recorded}
        assert by_epoch, "the clock was set so that the two pulses come within these windows"
        found = rows_by_block(chain, chain.head())
        expected = [pytest.approx(row_of(window), abs=1e-4) for window in by_epoch.values()]
        assert [row for row, _ in found] == expected
        for row, block in found:
            paid_at = first_block_of_next_epoch(subnet, block)
            assert incentives(chain, paid_at) == pytest.approx([*row.values()], abs=1e-3)


def set_lead(file: Path, seconds: int) -> None:
    """Let it be so many seconds before the first recorded pulse."""
    set_clock(file, round_time_s(ROUND) - seconds - int(time.time()))


def sealed_to(subnet: Subnet, first: int, last: int) -> list[tuple[int, int]]:
    """(block of the commit, its round) of all commits that were stored in these blocks."""
    found = set()
    for block in range(first, last + 1):
        commits = at(subnet, block).weights.timelocked_weight_commits(netuid=NETUID)
        found |= {(c["commit_block"], c["reveal_round"]) for of in commits.values() for c in of}
    return sorted(found)


@pytest.mark.parametrize("looks", [True, False])
def test_in_windows_longer_than_the_cut_off_the_same_row_is_set_again(
    looks: bool, tmp_path: Path
) -> None:
    """The owner has taken the shortest cut-off, a tempo; windows are three tempos long."""
    flags = ("--block-time", "0.25", "--weights-rate-limit", "4", "--commit-reveal", "modelled")
    with a_subnet(tmp_path, *flags) as subnet:
        chain = subnet.chain
        call = bt.calls.SubtensorModule.set_activity_cutoff_factor(netuid=NETUID, factor_milli=1000)
        subnet.sign(call, OWNER)
        assert chain.weight_times(chain.head()).cutoff_blocks == TEMPO
        weigh_here(subnet, 3 * TEMPO)(2, looks=looks)
        end = chain.head()
        (_, first), *_ = rows_by_block(chain, end)
        idle = [block for block in range(first + TEMPO, end) if not is_active(subnet, block)]
        if looks:
            assert idle == []
            rows = [row for row, _ in rows_by_block(chain, end)]
            assert rows[0] == pytest.approx(row_of(0), abs=1e-4)
            assert len(rows) <= 2, "the same row, until the next window's"
        else:
            assert idle, "without the looks the row ages out"


def is_active(subnet: Subnet, block: int) -> bool:
    graph = at(subnet, block).subnets.metagraph(NETUID)
    return bool(graph.neurons[VALIDATOR_UID].active)
