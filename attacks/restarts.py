# ruff: noqa
"""Attack R: every node is killed at random calls (chain, bucket), again and again, while half of
the payloads are withheld. Then: one digest; no honest miner refused for its own work; nothing
withheld readable too early; nothing withheld lost; logs verify; an audit accuses nobody.

    python attacks/restarts.py FOLDER SEED [windows] [max_payloads]
"""

import json, random, sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from simulation.swarm import *
from simulation.world import hotkey_of, World
from evaluation.verdict_log import decode_logs, decode_log
from evaluation.verify import verify_logs
from template.scoring.rules import pay_rules
from template.audit.auditor import Auditor
from template.audit.logs import audit_windows, logs_in_bucket
from template.protocol.keys import payload_key
from tests.support.audited import reader

FOLDER, SEED = Path(sys.argv[1]), int(sys.argv[2])
WINDOWS = int(sys.argv[3]) if len(sys.argv) > 3 else 14
MOST = int(sys.argv[4]) if len(sys.argv) > 4 else 2
NAMES = {"owner": 0, "val-a": 1000, "val-b": 900, "val-c": 800, "m0": 0, "m1": 0, "m2": 0, "m3": 0}
PUTS: dict[str, int] = {}


class Killed(BaseException):
    pass


class Killer:
    """Wraps an object: each call of it may be the process's last."""

    def __init__(self, inner, rng, rate):
        self._i, self._r, self._p = inner, rng, rate

    def __getattr__(self, name):
        what = getattr(self._i, name)
        if not callable(what):
            return what

        def call(*a, **k):
            before = self._r.random() < self._p / 2
            if before:
                raise Killed
            done = what(*a, **k)
            if self._r.random() < self._p / 2:
                raise Killed
            return done

        return call


def killed_now_and_then(name, rate):
    kind = Validator if name.startswith("val") else Miner

    def drive(world, context):
        rng = random.Random(f"{SEED} {name}")
        n = 0
        while True:
            ctx = world.context(context.hotkey, context.state_dir)
            p = rate if n < 25 else 0.0
            ctx = replace(
                ctx, chain=Killer(ctx.chain, rng, p / 30), bucket=Killer(ctx.bucket, rng, p)
            )
            try:
                node = kind(ctx)
                supervise(node.step, max_failures=1)
                return node
            except Killed:
                n += 1
                KILLS[name] += 1

    return drive


KILLS = Counter()
SCALE = float(sys.argv[5]) if len(sys.argv) > 5 else 1.0
rates = {
    n: SCALE * r
    for n, r in {
        "val-a": 0.06,
        "val-b": 0.06,
        "val-c": 0.0,
        "m0": 0.3,
        "m1": 0.3,
        "m2": 0.3,
        "m3": 0.0,
    }.items()
}
world = build_world(NAMES, evaluation__max_payloads=MOST, schedule__num_windows=WINDOWS)
for hotkey, store in world.buckets.items():  # when each key first came
    put = store.put

    def noted(key, data, put=put):
        PUTS.setdefault(key, world.time.block)
        put(key, data)

    store.put = noted
nodes = run(world, {n: killed_now_and_then(n, r) for n, r in rates.items()}, FOLDER)
print("kills", dict(KILLS))
print("digests", len(digests(nodes)))
schedule = world.spec.schedule.schedule()
status = Counter()
early = lost = 0
for v in ("val-a", "val-b", "val-c"):
    text = (FOLDER / v / "verdicts.jsonl").read_text()
    logs = decode_logs(text)
    last = {l.window: l for l in logs}
    print(v, "verify", verify_logs(list(last.values()), pay_rules(world.spec)).found)
    for l in last.values():
        for d in l.verdicts:
            status[v, d.status] += 1
            if d.status in ("overlap", "not_author"):
                print("HARM", v, l.window, d.hotkey[:6], d.status, d.detail)
            if d.status == "not_drawn":
                key = payload_key(world.spec.run_id, l.window, bytes.fromhex(d.digest))
                at = PUTS.get(key)
                if at is None:
                    if l.window < WINDOWS - 1:
                        lost += 1
                        print("LOST", v, l.window, [n for n in NAMES if hotkey_of(n) == d.hotkey])
                elif (
                    at
                    < schedule.commit_block(l.window + 1)
                    + world.spec.schedule.finality_lag_blocks
                    - 0
                ):
                    early += 1
                    print("EARLY", l.window, d.hotkey[:6], at, schedule.commit_block(l.window + 1))
print(sorted(status.items()))
print("early", early, "lost", lost)
for v in ("val-a", "val-b", "val-c"):
    r = reader(world, FOLDER / "auditor" / v)
    a = Auditor(r, hotkey_of(v), 0)
    for found in audit_windows(
        a, logs_in_bucket(r, a.peers, hotkey_of(v)), a.next_window, WINDOWS - 1
    ):
        for w in found.wrong:
            print("ACCUSED", v, found.window, w)
        for u in found.unknown:
            if "word" not in u:
                print("unknown", v, found.window, u)
