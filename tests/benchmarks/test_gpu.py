"""The benchmark of a GPU, on a CPU with a tiny model: all of it runs, and faults are seen."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import LIMIT_S, PARTS, main, parts_of
from benchmarks.gpu.table import Clock, Part, Row, run_parts, write_record
from benchmarks.gpu.world import SIZES, Bench, same_bits

TRIAL = ["--device", "cpu", "--sizes", "tiny"]


class Time:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def part(self, name: str, guess_s: float, taken_s: float) -> Part:
        def run() -> Iterator[Row]:
            self.now_s += taken_s
            yield Row(what=name)

        return Part(name=name, guess_s=guess_s, run=run)


def test_a_trial_on_a_cpu_holds_and_leaves_no_record(capsys, tmp_path: Path) -> None:
    parts = [part for part in PARTS if part != "ranks"]
    assert main([*TRIAL, "--parts", *parts, "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["what", "seconds", "rate", "share", "GB", "holds", "note"]
    for what in (
        "copy", "matrix product, bf16", "codec, awkward tensors", "codec, values that are refused",
        "encode with feedback, tiny", "add one payload, tiny", "loss, tiny", "scoring 8 payloads",
        "losses and the CPU's", "step, tiny, plain", "step, tiny, checkpointing",
    ):  # fmt: skip
        assert sum(line.startswith(what) for line in lines) == 1, what
    assert sum(" yes " in line for line in lines) == 9
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_trial_of_one_rank_under_torchrun(capsys, tmp_path: Path) -> None:
    assert main([*TRIAL, "--parts", "ranks", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "frame as one process's: True, digest after an outer step on the device: True" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_trial_is_named(capsys) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "a trial: --device cpu" in capsys.readouterr().err


def test_a_part_that_fails_is_a_row_and_the_next_goes_on() -> None:
    said, time = list[str](), Time()

    def broken() -> Iterator[Row]:
        yield Row(what="before")
        raise RuntimeError("no kernel image\nis available")

    parts = [Part(name="bad", guess_s=1.0, run=broken), time.part("good", 1.0, 1.0)]
    rows = run_parts(parts, Clock(9.0, lambda: time.now_s), lambda: None, said.append)
    assert [(row.what, row.holds) for row in rows] == [
        ("before", None),
        ("bad", False),
        ("good", None),
    ]
    assert rows[1].note == "RuntimeError: no kernel image is available"
    assert [line.split()[0] for line in said] == ["what", "before", "bad", "good"]


def test_what_would_pass_the_limit_is_left_out_by_the_pace_so_far() -> None:
    time = Time()
    clock = Clock(100.0, lambda: time.now_s)
    parts = [
        time.part("slow", 10.0, 30.0),
        time.part("long", 25.0, 1.0),
        time.part("short", 20.0, 1.0),
    ]
    rows = run_parts(parts, clock, lambda: None, lambda _: None)
    assert [row.note for row in rows] == ["", "left out: 75 s would pass the limit", ""]


def test_a_quick_start_makes_no_guess_shorter() -> None:
    clock = Clock(100.0, lambda: 0.0)
    clock.note(10.0, 1.0)
    assert clock.expected_s(25.0) == 25.0


def test_the_real_sizes_begin_with_what_only_a_gpu_can_show() -> None:
    """Most of it fits into the limit by the guesses, without a model being made."""
    parts = list(parts_of(Bench("cpu", ["150m", "1b"]), PARTS))
    names = [part.name for part in parts]
    assert names[:7] == [
        "yardsticks", "codec", "codec, 150m", "codec, 1b", "loss", "scoring", "ranks",
    ]  # fmt: skip
    assert len(names) == len(set(names)) == 15
    assert sum(part.guess_s for part in parts[:12]) < LIMIT_S


def test_the_record_has_the_rows(tmp_path: Path) -> None:
    row = Row(what="copy", rate=4000.0, unit="GB/s", share=0.5, of="peak", holds=True)
    write_record(tmp_path / "new" / "gpu.json", [row], {"device": "H200"})
    found = json.loads((tmp_path / "new" / "gpu.json").read_text())
    assert found["machine"] == {"device": "H200"}
    assert found["rows"][0]["rate"] == 4000.0
    assert "4,000 GB/s" in row.line()
    assert "50.0% of peak" in row.line()
    assert " NO" in replace(row, holds=False).line()


def test_bits_are_compared_with_the_signs_of_zeros() -> None:
    assert same_bits(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]))
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))


def test_the_sizes_are_the_plans_of_the_runs() -> None:
    counts = {name: Bench("cpu", [name]).first.num_parameters for name in ("150m", "1b")}
    assert counts == {"150m": 151_023_360, "1b": 1_235_814_400}
    assert {size.name for size in SIZES.values() if size.plan is None} == {"tiny"}
