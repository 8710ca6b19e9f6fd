# ruff: noqa
"""Attack L: an auditor that takes a window by the lineage (its endpoint has dropped the votes) thinks
that nothing was undelivered there, and accuses the honest validator whose log says otherwise.

    python attacks/lineage_undelivered.py FOLDER
"""

import sys
from pathlib import Path
from simulation.swarm import *
from simulation.world import hotkey_of
from localnet.adversaries.withholding import Undelivered
from template.audit.auditor import Auditor
from template.audit.logs import audit_windows, logs_in_files, logs_in_bucket
from tests.support.archive import Archive
from tests.support.audited import reader

folder, windows, audited = Path(sys.argv[1]), 8, 5
world = build_world(
    {**STAKES_TAO, "mute": 0},
    schedule__num_windows=windows,
    checkpoint__every_windows=2,
    weights__min_windows=2,
)
archives = {hotkey: Archive() for hotkey in world.buckets if hotkey != hotkey_of("owner")}
world.buckets |= archives
run(
    world,
    honest("val-a", "val-b", "m0", "m1") | {"mute": to_the_end(miner_with(Undelivered))},
    folder,
)
for bucket in archives.values():
    bucket.is_closed = False
schedule = world.spec.schedule.schedule()
world.time.block += 400
for name, kept in (
    ("all votes readable", 10**9),
    ("votes of the window before dropped", world.time.block - schedule.vote_block(audited - 1) - 1),
):
    world.ledger.kept_blocks = kept
    context = reader(world, folder / name)
    a = Auditor(context, hotkey_of("val-a"), audited - 1)
    print(name, "starts at", a.next_window)
    for found in audit_windows(
        a, logs_in_bucket(context, a.peers, hotkey_of("val-a")), audited, audited
    ):
        print(found.window, "WRONG", found.wrong, "unknown", found.unknown)
