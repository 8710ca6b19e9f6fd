"""An auditor beside a run: it finds nothing wrong in honest logs, and names what is forged."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.judge import Measured
from evaluation.log import Past, WindowLog, conclude, decode_log, encode_log
from evaluation.history import only, remember, work_states
from evaluation.judge import judge
from evaluation.log import _blank
from template.base.audit import Auditor, Findings, different_digest
from template.base.auditing import audit_windows, logs_in_bucket, logs_in_files, read_files
from template.base.context import ReadContext
from template.base.miner import Miner
from template.base.scoring import pay_rules
from template.base.waiter import Waiter
from template.errors import NotFound
from template.metrics import FanOutMetrics
from template.protocol.keys import payload_key, verdict_key
from template.training.model import tensor_shapes
from tests.base.nodes import STAKES_TAO, honest, run, to_the_end, uid_of
from tests.fakes import World, hotkey_of
from tests.swarm import build_world

WINDOWS = 6
FORGED = 4
"""The window that forgers change: all kinds of refusal are in it."""


class Ancient(Miner):
    """Says that its base is too old."""

    def make_frame(self, header, deltas):
        base = max(0, header.window - 3)
        return super().make_frame(replace(header, base_window=base), deltas)


class Replay(Miner):
    """Sends its first payload's body again and again."""

    def make_frame(self, header, deltas):
        frame = super().make_frame(header, deltas)
        first = self.__dict__.setdefault("_first", frame)
        return frame[:68] + first[68:]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """A run that has ended; `folder` is where its nodes were."""
    stakes = {**STAKES_TAO, "m2": 0, "ancient": 0, "replay": 0}
    world = build_world(
        stakes,
        evaluation__claimed_pages=8,
        schedule__num_windows=WINDOWS,
        checkpoint__every_windows=2,
        weights__min_windows=2,
    )
    world.folder = tmp_path_factory.mktemp("run")
    drives = {
        **honest("val-a", "val-b", "m0", "m1", "m2"),
        "ancient": to_the_end(Ancient),
        "replay": to_the_end(Replay),
    }
    run(world, drives, world.folder)
    return world


def reader(world: World, folder: Path) -> ReadContext:
    """Somebody without a hotkey."""
    node = world.context(hotkey_of("val-a"), folder)
    return ReadContext(
        spec=node.spec,
        form=node.form,
        chain=node.chain,
        waiter=node.waiter,
        open_bucket=node.open_bucket,
        metrics=FanOutMetrics([]),
        state_dir=folder,
        device="cpu",
        run_file=node.run_file,
    )


def audit(world: World, folder: Path, logs: Mapping[int, bytes], first: int = 0, last: int = WINDOWS - 1):
    auditor = Auditor(reader(world, folder), hotkey_of("val-a"), first + 1)
    return list(audit_windows(auditor, logs_in_files(logs), first, last))


def published(world: World, name: str) -> dict[int, bytes]:
    key = verdict_key
    bucket = world.buckets[hotkey_of(name)]
    return {w: bucket.get(key(world.spec.run_id, w), max_bytes=2**24) for w in range(WINDOWS)}


def test_honest_logs_audit_clean(world, tmp_path) -> None:
    context = reader(world, tmp_path)
    for name in ("val-a", "val-b"):
        auditor = Auditor(context, hotkey_of(name), 1)
        source = logs_in_bucket(context, auditor.peers, hotkey_of(name))
        found = list(audit_windows(auditor, source, 0, WINDOWS - 1))
        statuses = [[(v.uid, v.status) for v in decode_log(source(w).decode()).verdicts] for w in range(WINDOWS)]
        print(statuses)
        assert [each.wrong for each in found] == [[]] * WINDOWS
        print([f.unknown for f in found], [f.num_losses for f in found], [f.worst for f in found])
