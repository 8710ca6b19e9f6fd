# ruff: noqa
"""Attack A: an auditor that cannot read an earlier payload says `unknown` twice, then accuses.

The victim's payload was not drawn; validators read it a window later; two hotkeys send it again in
several windows and are refused for it. Afterwards the victim's bucket has lost it (retention, or an
accomplice who shows it to validators alone), and the honest validator is audited.

    python attacks/asked_twice.py FOLDER
"""

import sys
from pathlib import Path
from localnet.adversaries.copying import Thief
from localnet.adversaries.dishonest import fetch_rivals_payloads
from localnet.adversaries.tensors import reframed
from tests.scenarios.test_authorship import *
from tests.support.audited import reader
from template.audit.auditor import Auditor
from template.audit.logs import audit_windows, logs_in_bucket


class Again(Thief):
    """The victim's payload of window 3 k, again and again for three windows."""

    kept = None

    def forge(self, header):
        if header.window % 3 == 1:
            key = public_key(VICTIM)
            self.kept = next(
                (
                    p
                    for p in fetch_rivals_payloads(self.parts, header.window - 1)
                    if p.header.public_key == key
                ),
                self.kept,
            )
        return reframed(header, self.kept, self.parts.context.form) if self.kept else None

    def remake(self, header, stolen):
        raise NotImplementedError


folder, windows = Path(sys.argv[1]), 16
world = build_world({**NAMES, "m2": 0}, evaluation__max_payloads=3, schedule__num_windows=windows)
drives = {
    "thief": to_the_end(miner_with(Again)),
    "m2": to_the_end(miner_with(Again)),
    "m0": to_the_end(Open),
}
nodes = run(world, honest("val-a", "val-b", "m1") | drives, folder)
print("digests", len(digests(nodes)))
m0 = verdicts_of(world, nodes, "m0")
for name in ("m0", "thief", "m2"):
    print(
        name,
        [
            (w, r["status"], r["detail"][-14:] if r["status"] == "overlap" else "")
            for w, r in verdicts_of(world, nodes, name).items()
        ],
    )
bucket = world.buckets[VICTIM]
for w, row in m0.items():
    if row["status"] == NOT_DRAWN:
        for name in (VICTIM, hotkey_of("val-a"), hotkey_of("val-b")):
            try:
                world.buckets[name].delete(
                    payload_key(world.spec.run_id, w, bytes.fromhex(row["digest"]))
                )
            except Exception as e:
                pass
r = reader(world, folder / "auditor")
a = Auditor(r, hotkey_of("val-a"), 0)
for found in audit_windows(
    a, logs_in_bucket(r, a.peers, hotkey_of("val-a")), a.next_window, windows - 1
):
    for line in found.wrong:
        print("ACCUSED", line)
    for line in found.unknown:
        if "lacks" in line:
            print("unknown", found.window, line)
