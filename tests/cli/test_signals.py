"""Being told to stop: once unwinds within a bound, twice ends at once, without a traceback."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from template.cli.signals import STOP_LIMIT_S
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


HELD = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor, wait
from template.cli.process_state import restored_process_state
from template.cli.signals import end_process, unwind_on_signals
from template.store.s3 import S3Store
from tests.support.raw_server import PATIENT, RawServer, bucket_at, drips

def ask():
    server = RawServer(drips(b"HTTP/1.1 200 OK\\r\\nX: ", b"x"))
    store = S3Store(bucket_at(server.url), limits=PATIENT)
    print("asking", flush=True)
    store.get("object", max_bytes=1)

@restored_process_state()
def main():
    unwind_on_signals(limit_s=float(sys.argv[2]))
    pool = ThreadPoolExecutor(1)
    try:
        asked = pool.submit(ask)
        # A signal in the moment in which a wait begins is seen by the next wait alone.
        while not asked.done():
            wait([asked], timeout=0.1)
    except KeyboardInterrupt:
        print("unwinding", flush=True)
        if sys.argv[1] == "waits":
            pool.shutdown(wait=True)
        return 130

end_process(main())
"""


@pytest.mark.parametrize(("manner", "limit_s"), [("leaves", "900"), ("waits", "0.2")])
def test_a_bucket_that_drips_holds_no_stop(manner: str, limit_s: str) -> None:
    """One signal; the exchange would last longer than the test waits. At the interpreter's end
    the thread would be waited for, and in an unwinding that waits the bound ends the process.
    """
    with subprocess.Popen(
        [sys.executable, "-c", HELD, manner, limit_s],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=HANG_S)
    assert (process.returncode, said, errors) == (130, "unwinding\n", "")


def test_a_neurons_bound_is_below_what_containers_wait() -> None:
    assert STOP_LIMIT_S < 10
