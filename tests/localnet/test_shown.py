"""Table, picture and live progress of a synthetic run."""

import io

import pytest
from matplotlib.image import imread
from rich.console import Console

from localnet.picture import draw
from localnet.progress import LEGEND, LiveProgress, panel
from localnet.report import collect
from localnet.snapshot import ProgressReader, ProgressSnapshot
from localnet.table import COLUMNS, WORK_COLUMNS, final_table, summary, work_table
from simulation.swarm import build_world
from tests.support.localnet.synthetic import (
    EMISSIONS_RAO,
    NUM_WINDOWS,
    STAKES_TAO,
    UNIGRAM,
    make_run,
)


@pytest.fixture
def run(tmp_path):
    return make_run(build_world(STAKES_TAO, schedule__num_windows=NUM_WINDOWS), tmp_path)


def rendered(*renderables, width=100):
    out = io.StringIO()
    console = Console(file=out, width=width)
    for renderable in renderables:
        console.print(renderable)
    return out.getvalue()


def test_the_table_shows_every_neuron(run):
    report = collect(run.sources())
    lines = rendered(final_table(report)).splitlines()
    rows = {name: next(line.split() for line in lines if name in line) for name in STAKES_TAO}
    assert rows["m0"] == ["3", "m0", "honest", "0.625", "0.500", "75.0%", "2/3", "0", "d4d4d4d4"]
    assert rows["garbage-0"][-3:] == ["0/3", "0", "d4d4d4d4"]
    assert rows["val-a"][:4] == ["1", "val-a", "validator", "-"]


def test_the_summary_has_loss_before_and_after(run):
    text = rendered(summary(collect(run.sources())))
    assert "5.500 -> 2.500 nats per token" in text
    assert "Verdicts against garbage-0: 6 not_useful.\n" in text
    assert text.count("Verdicts against") == 1
    assert "Started again" not in text
    assert "3 windows decided, 1 of them empty" in text
    assert "8.0000 alpha; 12 s in all" in text


def test_the_summary_names_the_model_that_a_reader_fetched(run):
    assert "A reader fetched" not in rendered(summary(collect(run.sources())))
    run.fetch(3, 2.5)
    text = rendered(summary(collect(run.sources())))
    assert "A reader fetched theta_3 (1,234 parameters) by the votes; loss 2.500." in text


def test_the_summary_says_who_is_who(run):
    run.behaviours |= {"val-b": "liar", "idle-0": "sleeper"}
    run.pay(EMISSIONS_RAO | {"garbage-0": 10**9})
    report = collect(run.sources())
    text = rendered(summary(report))
    pay = "an honest miner's pay"
    assert f"garbage-0 (free) earned 0.250 of {pay}, may earn 0.00.\n" in text
    assert f"idle-0 (free) earned - of {pay} since window 6, may earn 0.10.\n" in text
    assert "val-b (validator) earned 1.000 of honest validators' pay for equal stake.\n" in text
    assert "liar validator" in rendered(final_table(report))
    assert "m0 (" not in text


def test_the_work_of_each_miner_is_beside_its_pay(run):
    run.judge("val-a", "m0", 0, "named", pages_consumed=3000)
    run.judge("val-a", "m1", 0, "named", pages_consumed=1000)
    run.log_utilisations("m1", (0.25,))
    run.speeds["m1"] = 0.1
    lines = rendered(work_table(collect(run.sources()))).splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert rows["miner"] == list(WORK_COLUMNS)[1:]
    assert rows["m0"] == ["1", "-", "3", "2", "3,000", "75.0%", "75.0%"]
    assert rows["m1"] == ["0.1", "25.0%", "3", "1", "1,000", "25.0%", "25.0%"]
    assert rows["garbage-0"][-3:] == ["0", "-", "0.0%"]
    assert "val-a" not in rows


def test_the_summary_says_the_pace_and_what_it_rests_on(run):
    assert "Blocks of" not in rendered(summary(collect(run.sources())))
    run.pace = {
        "block_time_s": 0.3, "window_s": 8.4, "asked_s": None, "least_block_s": 0.2,
        "costs": {"cores": 1.25}, "load": {"total_s": 5.5},
        "startup_s": 26.2, "startup_cores": 1.8, "changes": [],
    }  # fmt: skip
    text = " ".join(rendered(summary(collect(run.sources()))).split())
    assert "Blocks of 0.3 s, windows of 8.4 s (measured): a window takes 5.5 s of CPU" in text
    assert "ready 26 s after their start" in text
    assert "busier" not in text
    run.pace["changes"].append((450, 0.3))
    run.pace["asked_s"] = 0.3
    text = " ".join(rendered(summary(collect(run.sources()))).split())
    assert "as --block-time asks for" in text
    assert "blocks were made longer from block 450 on" in text


def test_the_summary_names_who_was_started_again(run):
    run.restarts |= {"m0": 2, "val-b": 1}
    text = rendered(summary(collect(run.sources())))
    assert "Restarts after a crash: val-b 1, m0 2.\n" in text


@pytest.mark.parametrize("width", [60, 80, 100, 140])
@pytest.mark.parametrize("table", [final_table, work_table])
def test_the_tables_fit_a_narrow_terminal(run, table, width):
    lines = rendered(table(collect(run.sources())), width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert any("m0" in line for line in lines)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_heading_and_no_name_is_broken(run, width):
    report = collect(run.sources())
    neuron = report["neurons"][3]
    neuron["name"], neuron["behaviour"] = "malformed-10", "malformed"
    neuron["emission_rao"] = 10**12
    lines = rendered(final_table(report), width=width).splitlines()
    assert list(COLUMNS) == lines[1].split()
    assert "malformed-10" in lines[6]
    assert not [line for line in lines if "\u2026" in line]
    assert len(lines) == 3 + len(STAKES_TAO)


def test_the_picture_shows_the_curve(run, tmp_path):
    report = collect(run.sources())
    draw(report, tmp_path / "new" / "run.png")
    image = imread(tmp_path / "new" / "run.png")
    assert image.shape[:2] == (900, 1200)
    report["held_out_loss"]["per_window"][1] = 1.0
    draw(report, tmp_path / "other.png")
    assert (image[:450] != imread(tmp_path / "other.png")[:450]).any()


def test_the_picture_marks_the_switches(run, tmp_path):
    report = collect(run.sources())
    draw(report, tmp_path / "one.png")
    report["switches"] = [{"window": 1, "spec_id": "ab" * 16}]
    draw(report, tmp_path / "two.png")
    one, two = (imread(tmp_path / f"{name}.png") for name in ("one", "two"))
    assert (one[:450] != two[:450]).any()
    assert (one[500:] == two[500:]).all()


def test_a_run_that_measured_nothing_has_a_picture(run, tmp_path):
    for name in STAKES_TAO:
        for path in run.state_dir(name).glob("*"):
            path.unlink()
    run.pay({})
    report = collect(run.sources(weights={}))
    draw(report, tmp_path / "run.png")
    assert imread(tmp_path / "run.png").shape[:2] == (900, 1200)
    assert "- -> - nats" in rendered(summary(report))


def test_a_crowd_has_a_picture(run, tmp_path):
    report = collect(run.sources())
    report["neurons"] *= 6
    draw(report, tmp_path / "run.png")


def test_a_snapshot_is_read_from_the_logs(run):
    reader = ProgressReader(run.spec)
    first = run.spec.schedule.schedule().first_block(1)
    snapshot = reader.read(run.nodes(), block=first, finalized_block=first - 2)
    assert snapshot.phase == f"window 1 of {NUM_WINDOWS}"
    assert (snapshot.loss_window, snapshot.loss_nats, snapshot.first_loss_nats) == (4, 2.5, 5.5)
    assert snapshot.unigram_nats == UNIGRAM
    assert (snapshot.decided_window, snapshot.accepted_uids) == (2, ())
    nodes = {node.name: node for node in snapshot.nodes}
    assert (nodes["m0"].state_window, nodes["m0"].window) == (4, 2)
    assert nodes["m0"].status == "ended, status 0"
    assert nodes["owner"].status == "nothing logged"
    assert nodes["owner"].window is None


def test_a_snapshot_follows_what_is_appended(run):
    run.exits["val-b"] = None
    reader = ProgressReader(run.spec)
    nodes = run.nodes()
    assert reader.read(nodes, block=0, finalized_block=0).loss_window == 4
    run.log_losses("val-b", (5.5, 4.0, 3.0, 2.5, 2.25))
    snapshot = reader.read(nodes, block=10_000, finalized_block=9_998)
    assert (snapshot.loss_window, snapshot.loss_nats) == (5, 2.25)
    assert {n.name: n.status for n in snapshot.nodes}["val-b"] == "measured the loss"
    assert snapshot.phase.startswith(f"all {NUM_WINDOWS} windows are over")


def test_before_the_first_window_the_phase_does_not_change_with_every_block(run):
    reader = ProgressReader(run.spec)
    phases = {reader.read((), block=b, finalized_block=0).phase for b in range(16)}
    assert phases == {"waiting for block 16, the first of window 0"}


def test_without_a_terminal_there_is_one_line_a_phase(run):
    out = io.StringIO()
    console = Console(file=out, width=40)
    schedule = run.spec.schedule.schedule()
    reader = ProgressReader(run.spec)
    with LiveProgress(console) as progress:
        progress.say("starting [the chain]")
        for block in range(schedule.first_block(0), schedule.first_block(2)):
            progress.update(reader.read(run.nodes(), block=block, finalized_block=block - 2))
    lines = out.getvalue().splitlines()
    assert len(lines) == 7
    assert "starting [the chain]" in lines[0]
    assert lines[1:5] == LEGEND.splitlines()
    assert "window 0 of 3 | block 16, finalised 14 | held-out loss 2.5000 at theta_4 (" in lines[5]
    assert lines[6].endswith("window 2 accepted no payload")


def test_on_a_terminal_at_most_four_panels_a_second_are_drawn():
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    now_s = [0.0]
    with LiveProgress(console, now_s=lambda: now_s[0]) as progress:
        for i in range(1000):
            now_s[0] = i / 1000
            progress.update(ProgressSnapshot(phase="window 0 of 3", block=i))
    shown = out.getvalue()
    assert [i for i in range(1000) if f"block {i}," in shown] == [0, 250, 500, 750, 999]


def test_the_panel_shows_all_that_is_known(run):
    snapshot = ProgressReader(run.spec).read(run.nodes(), block=33, finalized_block=31)
    text = rendered(panel(snapshot, 7.0))
    for part in ("7 s", "window 1 of 3", "block 33", "2.5000", "accepted no payload", "garbage-0"):
        assert part in text
    for term in ("unigram entropy", "theta_", "finalised"):
        assert term in text


@pytest.mark.parametrize("terminal", [False, True])
def test_what_happens_to_a_process_is_a_line_that_stays(terminal):
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=terminal)
    with LiveProgress(console, now_s=lambda: 0.0) as progress:
        progress.update(ProgressSnapshot(phase="window 0 of 3", block=5, finalized_block=3))
        progress.tell("miner-0 [died]")
        progress.update(ProgressSnapshot(phase="window 0 of 3", block=6, finalized_block=4))
    assert out.getvalue().count("   0.0 s  miner-0 [died]") == 1
