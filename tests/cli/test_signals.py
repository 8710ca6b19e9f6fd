"""Being told to stop: once unwinds, twice ends at once, and neither prints a traceback."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, time
from template.cli.signals import leave_on_signals, unwind_on_signals
leave_on_signals() if sys.argv[1] == "leave" else unwind_on_signals()
try:
    print("ready", flush=True)
    time.sleep(300)
except KeyboardInterrupt:
    print("unwinding", flush=True)
    if sys.argv[1] == "stubborn":
        time.sleep(300)
    sys.exit(7)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("manner", "said", "status"),
    [("leave", [], 130), ("unwind", ["unwinding"], 7), ("stubborn", ["unwinding"], 130)],
)
def test_a_signal_and_a_second_one(
    manner: str, said: list[str], status: int, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", SCRIPT, manner]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for expected in ["ready", *said]:
            assert process.stdout.readline().strip() == expected
            if expected == "ready" or manner == "stubborn":
                process.send_signal(number)
        _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == status
    assert errors == ""
