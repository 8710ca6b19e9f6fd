"""A command gives back what it changes, and a test that gives nothing back is told so."""

import logging
import os
import signal
import threading

import numpy as np
import pytest
import torch

from template.cli.log import OWN_LOGGERS, setup_logging
from template.cli.process_state import restored_process_state
from template.cli.signals import unwind_on_signals
from tests.support.process_state import changes, process_state
from tests.support.waiting import HANG_S, wait_until


def test_a_command_gives_back_what_it_changes(tmp_path) -> None:
    before = process_state()

    @restored_process_state()
    def main(status: int) -> int:
        unwind_on_signals()
        setup_logging("trace", tmp_path, role="miner", hotkey="5Grw")
        logging.getLogger("template.new").setLevel(logging.ERROR)
        os.environ["HOME"] = str(tmp_path)
        os.environ["NEW"] = "1"
        assert len(changes(before, process_state())) > len(OWN_LOGGERS)
        if status:
            raise SystemExit(status)
        return status

    assert main(0) == 0
    assert changes(before, process_state()) == {}
    with pytest.raises(SystemExit):
        main(1)
    assert changes(before, process_state()) == {}


def test_a_caller_that_goes_on_after_a_stop_is_not_ended() -> None:
    """A command stopped in this process has no bound any more."""

    def bounds() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]

    with restored_process_state():
        unwind_on_signals(limit_s=HANG_S)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert len(bounds()) == 1
    wait_until(lambda: not bounds(), every_s=0.01)


def test_each_change_is_found(tmp_path, monkeypatch) -> None:
    before = process_state()
    with restored_process_state():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        logging.getLogger().addHandler(logging.NullHandler())
        logging.getLogger("template.chain.health").setLevel(logging.ERROR)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("NEW", "1")
        monkeypatch.syspath_prepend(tmp_path)
        with np.errstate(all="raise"), torch.no_grad():
            found = changes(before, process_state())
    monkeypatch.undo()
    names = {name.partition(":")[0] for name in found}
    assert names == {
        "signal handlers", "handlers of the root logger", "levels of loggers", "working directory",
        "environment", "sys.path", "numpy error handling", "torch gradients",
    }  # fmt: skip
    assert changes(before, process_state()) == {}
