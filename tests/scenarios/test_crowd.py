"""A crowd of strangers' hotkeys on a small text: the validators go on, and auditors agree."""

from collections.abc import Sequence

import pytest

from simulation.swarm import FOUR, STAKES_TAO, accepted, build_world, digests, honest, run
from simulation.world import World, hotkey_of
from template.audit.auditor import Auditor
from template.audit.findings import Findings
from template.audit.logs import audit_windows, logs_in_bucket
from template.context import NodeContext
from template.protocol.record import PayloadCommitment, Record, encode_record
from tests.support.audited import reader

WINDOWS = 3
CROWD = tuple(f"idle{number}" for number in range(200))


def _commit(world: World, names: Sequence[str]) -> None:
    """Records with payloads that no bucket has, in every window."""
    for name in names:
        blocks, values = world.ledger.commitments.setdefault(hotkey_of(name), ([], []))
        for window in range(WINDOWS):
            payload = PayloadCommitment(window=window, digest=bytes(32))
            blocks.append(world.spec.schedule.schedule().commit_block(window))
            values.append(encode_record(Record.of(world.spec.run_id, payload=payload)))


def _audit(world: World, context: NodeContext) -> list[Findings]:
    """Audit val-a while the run goes on."""
    reading = reader(world, context.state_dir)
    auditor = Auditor(reading, hotkey_of("val-a"), WINDOWS)
    source = logs_in_bucket(reading, auditor.peers, hotkey_of("val-a"))
    return list(audit_windows(auditor, source, 0, WINDOWS - 1))


@pytest.mark.parametrize("num_committing", [pytest.param(0, marks=pytest.mark.slow), 200])
def test_a_crowd_of_hotkeys_stops_no_validator(tmp_path, num_committing: int) -> None:
    """The crowd's pages of two windows are more than the text has."""
    world = build_world(
        {**STAKES_TAO, **dict.fromkeys(CROWD, 0)},
        schedule__num_windows=WINDOWS,
        evaluation__assignment_windows=8,
        evaluation__held_out_pages=400,
        evaluation__max_payloads=256,
    )
    _commit(world, CROWD[:num_committing])
    nodes = run(world, {**honest(*FOUR), "owner": _audit}, tmp_path)
    assert len(digests(nodes, *FOUR)) == 1
    by_window = accepted(nodes["val-a"])
    assert sum(map(len, by_window.values())) >= WINDOWS
    findings = nodes["owner"]
    assert [found.window for found in findings] == list(range(WINDOWS))
    assert [found.wrong for found in findings] == [[]] * WINDOWS
    assert all(found.num_losses for found in findings)
