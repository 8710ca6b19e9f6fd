# ruff: noqa
"""Attack S: a slow miner (few inner steps, few claimed pages) has no private order of its pages, so
anybody repeats its training to the byte. The copy claims ALL pages of its own, without any work:
effect by chance x 240 beats a true effect x 24.

    python attacks/slow_victim.py FOLDER STEPS [windows] [chooses]
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from localnet.adversaries.repeating import Repeater
from template.base.work import HonestWork
from tests.scenarios.test_authorship import *

STEPS = int(sys.argv[2])


class Slow(HonestWork):
    """A machine that gets through a few inner steps."""

    def batches(self, base):
        for n, batch in enumerate(HonestWork.batches(self, base)):
            if n == STEPS:
                return
            yield batch


class SlowRepeater(Repeater):
    """Repeats the first steps of the victim (no secret known), claims all of its own pages."""

    batches = Slow.batches

    def make_frame(self, header, deltas):
        pages = self.parts.context.spec.training.pages_per_window
        return super().make_frame(replace(header, pages_consumed=pages), deltas)


def main():
    folder, windows = Path(sys.argv[1]), int(sys.argv[3]) if len(sys.argv) > 3 else 14
    world = localnet_world(num_windows=windows)
    drives = {
        "thief": to_the_end(miner_with(partial(SlowRepeater, victim=VICTIM))),
        "m0": to_the_end(miner_with(Slow)),
    }
    if len(sys.argv) > 4:
        del drives["thief"]
    nodes = run(world, honest("val-a", "val-b", "m1", "m2", "m3") | drives, folder)
    m0, copies = verdicts_of(world, nodes, "m0"), verdicts_of(world, nodes, "thief")
    for w in m0:
        for who, row in (("m0", m0[w]), ("thief", copies.get(w))):
            if row:
                print(
                    w,
                    who,
                    row["status"],
                    row["alike"],
                    row["pages_consumed"],
                    "effect",
                    round(row["work_effect"] or 0, 3),
                    "rel",
                    row["relative_gain"],
                )
    for who in ("thief", "m0", "m1", "m2", "m3"):
        uid = uid_of(world, who)
        print(who, [round(x.get(uid, 0.0), 3) for x in world.ledger.weights[hotkey_of("val-a")]])


main()
