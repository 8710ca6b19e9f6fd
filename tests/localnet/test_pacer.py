"""The launcher tells the pace of a localnet, and writes the pace file of the chain."""

from pathlib import Path

import pytest

from evaluation.verdict import NAMED, NOT_DRAWN, NOT_SCORED, UNAVAILABLE
from localnet.chain.pace import Pace, PaceFile
from localnet.config import LocalnetConfig
from localnet.events import Row
from localnet.machine import Machine
from localnet.pacer import Pacer
from localnet.pacing import STRETCH, costs_of
from localnet.roster import make_roster
from template.errors import ConfigError
from tests.support.localnet.costs import ROW, SPEC

MACHINE = Machine(cores=2.0, memory_bytes=10**11, disk_bytes=10**11)
START = SPEC.schedule.start_block


class Told:
    """A pacer after the measurement of a machine, and what it told."""

    def __init__(
        self,
        out: Path,
        block_time_s: float | None = None,
        *,
        share: float = 1.0,
        miners: int = 4,
        machine: Machine = MACHINE,
    ) -> None:
        self.lines: list[str] = []
        self.out = out
        bad = {} if miners else {"garbage": 1}
        config = LocalnetConfig(
            roster=tuple(make_roster(miners, 2, bad)), num_windows=24, out=out, plan=out, text=out,
            block_time_s=block_time_s, seed=0, debug=False, restarts=0, hold=False, wandb="off",
        )  # fmt: skip
        self.pacer = Pacer(config, SPEC, self.lines.append)
        self.pacer.take(costs_of([{**ROW, "share": share}] * 2, machine.cores), machine)

    @property
    def pace(self) -> Pace:
        """As the chain reads it."""
        return PaceFile(self.out / "chain.pace", Pace(block_time_s=60.0)).current()

    def judge(self, window: int, *statuses: str) -> None:
        """A validator has logged its verdicts on the payloads of hk0, hk1 and so on."""
        rows: list[Row] = [{"kind": "window", "window": window}]
        rows += [
            {"kind": "verdict", "window": window, "hotkey": f"hk{n}", "status": status}
            for n, status in enumerate(statuses)
        ]
        self.pacer.note_verdicts(rows, {"hk0", "hk1", "hk2"})

    def decide(self, window: int, uids: str) -> None:
        """A validator has logged the decision on a window, and measured the loss."""
        rows: list[Row] = [{"window": window, "held_out_loss": 1.0}]
        rows += [{"window": window, "state_root": "", "accepted_uids": uids}]
        self.pacer.note_decisions(rows, START + 30 * window, window + 1)


def test_the_chain_gets_the_pace_of_each_part_of_the_run(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.pacer.pass_to(57)
    assert told.pace.after(56) == 0.0
    first = told.pacer.await_neurons(100)
    assert told.pace.hurry_to == 0
    assert first > 100 + told.pacer.starting_limit_s / told.pace.block_time_s
    reached = told.pacer.begin(first)
    assert told.pace == Pace(block_time_s=told.pacer.block_s, hurry_to=reached)
    assert 100 < reached < first - SPEC.schedule.vote_margin_blocks, "before its pages are drawn"
    assert "2.0 of 2 cores are free" in told.lines[0]
    assert f"blocks of {told.pacer.block_s:g} s" in told.lines[1]


def test_an_empty_window_makes_blocks_longer_and_is_told(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.pacer.begin(START)
    before_s = told.pacer.block_s
    told.decide(1, "3,4")
    assert told.pace.block_time_s == before_s
    told.decide(2, "")
    assert told.pace.block_time_s == told.pacer.block_s == pytest.approx(before_s * STRETCH)
    assert "window 2 accepted no payload" in told.lines[-1]
    report = told.pacer.report()
    assert report["changes"] == [(START + 60, told.pacer.block_s)]
    assert report["window_s"] == told.pacer.block_s * SPEC.schedule.blocks_per_window


def test_two_windows_with_most_honest_payloads_late_make_blocks_longer(tmp_path: Path) -> None:
    """hk3 is a miner that misbehaves: whether its payload comes says nothing of the machine."""
    told = Told(tmp_path)
    told.pacer.begin(START)
    before_s = told.pacer.block_s
    for window, statuses in enumerate(
        [
            (NAMED, NOT_SCORED, UNAVAILABLE, NAMED),  # late, and the first of its kind
            (NAMED, "no_gain", NOT_SCORED, NOT_SCORED),
            ("not_delivered", NOT_SCORED, NAMED, NAMED),
            (NAMED, NOT_DRAWN, NOT_DRAWN, NOT_SCORED),  # the only one drawn was in time
            (NAMED, NOT_SCORED, NOT_SCORED, NAMED),
        ],
        start=1,
    ):
        told.judge(window, *statuses)
        told.decide(window, "3")
        assert told.pace.block_time_s == before_s, window
    told.judge(6, NOT_SCORED, NOT_SCORED, NAMED, NAMED)
    told.decide(6, "3")
    assert told.pace.block_time_s == pytest.approx(before_s * STRETCH)
    assert "window 6 read and scored 1 of 3 honest payloads in time" in told.lines[-1]
    assert told.pacer.report()["changes"] == [(START + 180, told.pacer.block_s)]


def test_verdicts_of_a_window_count_once_and_the_last_of_a_hotkey_counts(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.pacer.begin(START)
    before = told.pace
    for window in (1, 2):
        told.judge(window, NOT_SCORED, NOT_SCORED, NOT_SCORED)
        told.judge(window, NAMED, NAMED, NAMED)  # the validator has started again
        told.decide(window, "3")
    told.judge(4, NOT_SCORED, NOT_SCORED, NOT_SCORED)
    told.decide(3, "3")  # without a verdict: nothing is known
    told.decide(4, "3")
    assert told.pace == before


@pytest.mark.parametrize(("block_time_s", "miners"), [(0.5, 4), (None, 0)])
def test_blocks_stay_as_asked_for_and_without_honest_miners(
    tmp_path: Path, block_time_s: float | None, miners: int
) -> None:
    told = Told(tmp_path, block_time_s, miners=miners)
    told.pacer.begin(START)
    before = told.pace
    told.decide(3, "")
    assert told.pace == before


def test_a_block_time_that_the_machine_cannot_keep_is_obeyed_with_a_warning(tmp_path: Path) -> None:
    fitting, short = Told(tmp_path, 0.5), Told(tmp_path, 0.05)
    assert "as --block-time asks for" in fitting.lines[1]
    assert "cannot keep it" in short.lines[1]
    assert "auto" in short.lines[1]
    assert (fitting.pacer.block_s, short.pacer.block_s) == (0.5, 0.05)


def test_what_a_machine_lacks_is_said_before_anything_starts(tmp_path: Path) -> None:
    for machine, lack in (
        (Machine(cores=2.0, memory_bytes=10**9, disk_bytes=10**11), "memory:"),
        (Machine(cores=2.0, memory_bytes=10**11, disk_bytes=10**6), "disk:"),
        (Machine(cores=0.001, memory_bytes=10**11, disk_bytes=10**11), "cores:"),
    ):
        with pytest.raises(ConfigError, match=lack):
            Told(tmp_path, machine=machine)
    assert list(tmp_path.iterdir()) == []
