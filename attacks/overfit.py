# ruff: noqa
"""Attack O: the thief does real work of its own (several passes over its own pages) at the places
of the victim's payload. It shows more work than the victim, so the victim is `not_author`.

    python attacks/overfit.py FOLDER [knows|mean] [epochs] [windows]
"""

import hashlib, sys
from functools import partial
from pathlib import Path
import torch
from localnet.adversaries.repeating import Repeater
from template.data.assignment import shuffled_blocks
from template.training.inner import InnerTrainer
from template.protocol.payload import decode_payload
from tests.scenarios.test_authorship import *

EPOCHS = int(sys.argv[3]) if len(sys.argv) > 3 else 2
KNOWS = len(sys.argv) > 2 and sys.argv[2] == "knows"
SHARE = float(sys.argv[5]) if len(sys.argv) > 5 else 0.6
"""Of the places, the part taken from the victim."""


class Overfitter(Repeater):
    """Victim's places, own values: own pages, several passes."""

    def __init__(self, parts, checkpoint, *, victim=None):
        super().__init__(parts, checkpoint, victim=victim)
        self.own, self.guesses = InnerTrainer(parts.context.spec, "cpu"), {}

    def payloads_under_way(self, window):
        return [
            self.guesses[p.window]
            for p in self.parts.pending.before(window)
            if p.window in self.guesses
        ]

    def note_decision(self, decision):
        self._is_taken_back = self.victim not in {m.hotkey for m in decision.members}
        if self._is_taken_back and decision.window in self.guesses:
            self.feedback.add_payload(self.guesses[decision.window])

    def take_back(self, payload):
        pass

    def guess_secret(self):
        return hashlib.sha256(self.victim.encode()).digest() if KNOWS else self.order_secret

    def train(self, window, base, preview):
        start = {n: t.clone() for n, t in self.parts.follower.state.params.items()}
        result = super().train(window, base, preview)
        step = self.parts.context.spec.training.batch_pages
        own = self.list_assigned(self.parts.context.hotkey, base)

        def batches():
            for _ in range(EPOCHS):
                for first in range(0, own.size, step):
                    yield self.parts.pages.pages(own[first : first + step])

        self.extra = self.own.train(start, window, batches(), lambda: False).pseudo_gradient
        if not KNOWS:  # the mean of three more orders
            moments = self.trainer.moments()
            deltas = [result.pseudo_gradient]
            for n in range(3):
                t = InnerTrainer(self.parts.context.spec, "cpu")
                t.load_moments(moments)
                ids = shuffled_blocks(
                    self.list_assigned(self.victim, base),
                    hashlib.sha256(bytes([n])).digest(),
                    self.block_pages(),
                )
                deltas.append(
                    t.train(
                        start,
                        window,
                        (
                            self.parts.pages.pages(ids[i : i + step])
                            for i in range(0, ids.size, step)
                        ),
                        lambda: False,
                    ).pseudo_gradient
                )
            for name in result.pseudo_gradient:
                result.pseudo_gradient[name] = torch.stack([d[name] for d in deltas]).mean(0)
        return result

    def make_frame(self, header, deltas):
        """The guess of the victim's payload gives places; the own training gives values."""
        form = self.parts.context.form
        guess = decode_payload(
            super().make_frame(header, deltas), form
        )  # moves the feedback as the victim's
        self.guesses[header.window] = guess
        from compression import encode, decode, make_plan
        from template.protocol.payload import encode_payload

        def kept(tensors, share):
            plan = make_plan(form.shapes, int(form.top_k * share))
            return decode(encode(tensors, plan), plan).tensors

        at_victims = {}
        for name, sparse in guess.tensors.items():
            mask = torch.zeros(sparse.shape)
            sparse.add_to(mask, coefficient=1.0)
            own = self.extra[name]
            floor = 1e-6 * float(own.abs().max())
            own = torch.where(own.abs() < floor, torch.full_like(own, floor), own)
            at_victims[name] = torch.where(mask != 0, own, torch.zeros_like(own))
        out = {n: torch.zeros(s) for n, s in form.shapes.items()}
        for part in (kept(at_victims, SHARE), kept(self.extra, 1 - SHARE)):
            for name, sparse in part.items():
                place = torch.zeros(sparse.shape)
                sparse.add_to(place, coefficient=1.0)
                out[name] = torch.where(place != 0, self.extra[name], out[name])
                floor = 1e-6 * float(self.extra[name].abs().max())
                out[name] = torch.where(
                    (place != 0) & (out[name].abs() < floor),
                    torch.full_like(place, floor),
                    out[name],
                )
        return encode_payload(header, out, form)[0]


def main():
    folder, windows = Path(sys.argv[1]), int(sys.argv[4]) if len(sys.argv) > 4 else 8
    world = localnet_world(num_windows=windows)
    thief = to_the_end(miner_with(partial(Overfitter, victim=VICTIM)))
    nodes = run(world, honest("val-a", "val-b", "m0", "m1", "m2", "m3") | {"thief": thief}, folder)
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
                    row["work_effect"],
                    "gain",
                    row["gain"],
                    "rel",
                    row["relative_gain"],
                )
    for who in ("thief", "m0", "m1", "m2", "m3"):
        uid = uid_of(world, who)
        print(who, [round(x.get(uid, 0.0), 3) for x in world.ledger.weights[hotkey_of("val-a")]])


main()
