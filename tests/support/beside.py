"""Worlds of virtual time whose miners work in lanes: a block comes when all lanes wait, too."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from simulation.world import VirtualTime, World
from template.base import lanes
from template.context import NodeContext


class BesideWorld(World):
    """Its miners train, save, commit and upload beside following."""

    def context(self, hotkey: str, state_dir: Path) -> NodeContext:
        return replace(super().context(hotkey, state_dir), works_beside=True)


class Counted(Thread):
    """A thread that a clock of blocks waits for."""

    clock: VirtualTime

    def start(self) -> None:
        self.clock.enter()
        super().start()

    def run(self) -> None:
        try:
            with suppress(SystemExit):  # of a process killed by its test
                super().run()
        finally:
            self.clock.leave()


def count_lanes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the world's clock waits for the lanes of nodes."""

    class OfWorld(Counted):
        clock = world.time

    def make(**given: Any) -> Thread:
        return OfWorld(**given)

    monkeypatch.setattr(lanes, "Thread", make)
    monkeypatch.setattr(lanes, "END_S", 0.5)  # a clock of blocks stands still meanwhile
