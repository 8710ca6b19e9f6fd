"""Window 0 waits for the neurons that can still become ready, and for no others."""

from pathlib import Path

import pytest

from localnet.readiness import await_ready
from template.commands.neuron import READY
from template.errors import ConfigError


def test_it_waits_for_the_last_and_says_how_many_are_ready(tmp_path: Path) -> None:
    logs = {name: tmp_path / f"{name}.log" for name in ("a", "b", "c")}
    logs["b"].write_text("starting\n")
    turns: list[int] = []
    said: list[str] = []

    def tend() -> None:
        turns.append(len(turns))
        if len(turns) in (2, 3):
            logs["ab"[len(turns) - 2]].write_text(f"12:00 INFO x: {READY}\n")

    await_ready(logs, lambda name: 2 if name == "c" else None, tend, said.append, 60.0)
    assert said == [f"starting the neurons: {n} of 3 are ready" for n in (1, 2, 3)]


def test_a_neuron_that_never_is_ready_is_named(tmp_path: Path) -> None:
    logs = {"slow": tmp_path / "none.log"}
    with pytest.raises(ConfigError, match=r"cores: slow not ready 0 s after the start: end other"):
        await_ready(logs, lambda _name: None, lambda: None, lambda _words: None, 0.0)
