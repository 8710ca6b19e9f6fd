"""A command gives back what it changes, and a test that gives nothing back is told so."""

import ctypes
import logging
import os
import resource
import signal
import sys
import threading
from typing import cast

import numpy as np
import pytest
import torch

from template.cli.log import OWN_LOGGERS, setup_logging
from template.cli.process_state import restored_process_state
from template.cli.signals import unwind_on_signals
from template.commands.neuron import run_neuron
from template.errors import ConfigError
from template.settings import MinerConfig
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


def _readable_by_others() -> tuple[int, int]:
    """(soft limit on core files, whether others may read this process's memory)."""
    return resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_keys_in_memory_reach_no_core_file_and_no_other_process() -> None:
    """Before the wallet is read; a caller gets the process back."""
    before, within = _readable_by_others(), []

    class Wrong:
        """Settings whose first use fails."""

        def __getattr__(self, name: str) -> object:
            within.append(_readable_by_others())
            raise ConfigError("a flag is wrong")

    with restored_process_state():
        config = cast(MinerConfig, Wrong())
        assert run_neuron("miner", config, lambda _context, _config: pytest.fail("built")) == 2
    assert within == [(0, 0)]
    assert _readable_by_others() == before


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
