# ruff: noqa
"""Attack V: an honest validator that holds a payload the majority lacks goes on until the window is
void. An audit afterwards calls its votes and losses of those windows wrong.

    python attacks/void_audit.py FOLDER
"""

import sys
from pathlib import Path
from contextlib import suppress
import tests.scenarios.test_void as tv
from tests.scenarios.test_void import *
from tests.support.audited import reader
from template.audit.auditor import Auditor
from template.audit.logs import audit_windows, logs_in_bucket
from template.protocol.record import decode_record

folder, windows = Path(sys.argv[1]), 10
world = build_world(tv.STAKES_TAO | {"val-d": 300}, schedule__num_windows=windows)


def thief(context):
    node = tv._thief(None)(context)
    node.world_bucket = world.buckets[hotkey_of("m0")]
    step = node.step

    def both():
        step()
        key = next(
            iter(
                k
                for k in list(world.buckets[hotkey_of("val-d")].list(""))
                if f"/payload/{tv.LOST:08d}/" in k
            ),
            None,
        )
        for k in [
            k for k in world.buckets[hotkey_of("val-d")].list("") if f"/payload/{tv.LOST:08d}/" in k
        ]:
            world.buckets[hotkey_of("val-d")].delete(k)
        return False

    node.step = both
    return node


drives = {n: to_the_end(Careless) for n in ("val-a", "val-b", "val-c")} | {
    "val-d": to_the_end(Validator),
    "m0": to_the_end(Miner),
    "m1": to_the_end(Miner),
    "owner": to_the_end(thief),
}
nodes = run(world, drives, folder)
nodes.pop("owner")
print("digests", len(digests(nodes)))
print(
    "val-d rows",
    [
        (w, v.get("accepted_uids"), v.get("no_op"))
        for w, v in metrics(nodes["val-d"]).rows
        if "accepted_uids" in v
    ],
)
for v in ("val-a", "val-d"):
    r = reader(world, folder / "auditor" / v)
    a = Auditor(r, hotkey_of(v), 0)
    print(v, "from", a.next_window)
    for found in audit_windows(
        a, logs_in_bucket(r, a.peers, hotkey_of(v)), a.next_window, windows - 1
    ):
        for w in found.wrong:
            print("ACCUSED", v, w[:200])
