"""A world in its window 1, in which two rivals have published payloads of window 0."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from localnet.adversaries.catalogue import BEHAVIOURS
from localnet.adversaries.tensors import dense, noise
from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.base.miner import Miner
from template.protocol.admission import open_payload
from template.protocol.keys import payload_key
from template.protocol.payload import (
    Payload,
    PayloadHeader,
    decode_payload,
    encode_payload,
    payload_digest,
)
from template.protocol.record import PayloadCommitment, Record, encode_record
from template.protocol.root import Member
from template.protocol.ss58 import public_key
from template.training.model import Params

NAMES = ("owner", "val-a", "m0", "m1", "bad")
BAD = hotkey_of("bad")


@dataclass
class Scene:
    """`bad` is the hotkey under test; every `build` of it has a state folder of its own."""

    world: World
    root: Path
    built: int = 0

    def build(self, name: str) -> Any:
        """A misbehaving neuron, or an honest miner in its place."""
        self.built += 1
        context = self.world.context(BAD, self.root / f"{name}-{self.built}")
        return Miner(context) if name == "honest" else BEHAVIOURS[name].build(context)

    def publish_rivals(self) -> dict[str, Payload]:
        """Payloads of window 0 by m0 and m1, committed and uploaded; name -> payload."""
        world, schedule = self.world, self.world.spec.schedule.schedule()
        form, found = world.context(BAD, self.root / "form").form_at(0), {}
        world.time.block = schedule.commit_block(0) - 1
        for seed, name in enumerate(("m0", "m1")):
            hotkey = hotkey_of(name)
            header = PayloadHeader(
                window=0, base_window=0, pages_consumed=24, public_key=public_key(hotkey)
            )
            small = {n: 1e-3 * tensor for n, tensor in noise(form, seed).items()}
            frame, _ = encode_payload(header, small, form)
            digest = payload_digest(frame)
            commitment = PayloadCommitment(window=0, digest=digest)
            record = Record.of(world.spec.run_id, access=world.access(hotkey), payload=commitment)
            world.chain(hotkey).publish(encode_record(record))
            world.buckets[hotkey].put(payload_key(world.spec.run_id, 0, digest), frame)
            found[name] = decode_payload(frame, form)
        self.enter_window_1()
        return found

    def enter_window_1(self) -> None:
        """As soon as payloads of window 0 can be read."""
        schedule = self.world.spec.schedule.schedule()
        self.world.time.block = schedule.held_out_block(0) + self.world.ledger.finality_lag


@cache
def _template() -> World:
    return build_world(dict.fromkeys(NAMES, 0) | {"val-a": 1000})


def make_scene(root: Path) -> Scene:
    made = _template()
    world, owner = World(made.spec, made.ledger.neurons), hotkey_of("owner")
    world.buckets[owner] = made.buckets[owner]
    world.chain(owner).publish(encode_record(Record(access=world.access(owner))))
    scene = Scene(world, root)
    scene.enter_window_1()
    return scene


def sent(miner: Any, window: int = 1) -> Payload:
    """Work through a window; what it made, opened as every other node opens it."""
    miner.make_payload(window)
    pending = miner.pending.newest
    assert pending.window == window
    return opened(miner, pending.frame, window)


def opened(miner: Any, frame: bytes, window: int = 1) -> Payload:
    member = Member(
        uid=0,
        hotkey=BAD,
        public_key=public_key(BAD),
        coldkey=bytes(32),
        digest=payload_digest(frame),
    )
    return open_payload(frame, member, window, miner.context.form_at(0), 2)


def header_of(window: int) -> PayloadHeader:
    return PayloadHeader(
        window=window, base_window=window, pages_consumed=24, public_key=public_key(BAD)
    )


def flat(payload: Payload | Params) -> torch.Tensor:
    """All values in one vector."""
    tensors = dense(payload) if isinstance(payload, Payload) else payload
    return torch.cat([tensors[name].reshape(-1) for name in sorted(tensors)])


def common_places(one: torch.Tensor, other: torch.Tensor) -> float:
    """Share of the places of the first that the second has too."""
    return float(((one != 0) & (other != 0)).sum() / (one != 0).sum())


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))
