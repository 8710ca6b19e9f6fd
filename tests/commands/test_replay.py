"""The model is a pure function of public objects: a replay that shares no code with the nodes
but the decoder gets the same bits from the buckets, stale payloads and all.
"""

import json
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load

from simulation.swarm import (
    FOUR,
    STAKES_TAO,
    Kind,
    accepted,
    build_world,
    digests,
    honest,
    metrics,
    miner_with,
    run,
    to_the_end,
    uid_of,
)
from simulation.world import hotkey_of
from template.base.work import HonestWork
from template.protocol.keys import blob_key, payload_key
from template.protocol.payload import PayloadFormat, decode_payload
from template.protocol.root import tensors_digest
from template.training.alpha import alpha_at
from template.training.model import tensor_shapes


def _saying(staleness: int) -> Kind:
    """A miner whose payloads say that their base is so many windows old."""

    class Stale(HonestWork):
        def make_frame(self, header, deltas):
            base = max(0, header.window - staleness)
            return super().make_frame(replace(header, base_window=base), deltas)

    return miner_with(Stale)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory):
    """Two honest miners, one a window behind, one beyond max_staleness (2) from window 3 on."""
    world = build_world({**STAKES_TAO, "stale": 0, "ancient": 0}, schedule__num_windows=5)
    drives = {
        **honest(*FOUR),
        "stale": to_the_end(_saying(1)),
        "ancient": to_the_end(_saying(world.spec.outer.max_staleness + 1)),
    }
    return world, run(world, drives, tmp_path_factory.mktemp("stale"))


def _payloads(world, node, window: int):
    """The accepted payloads of a window by uid, from the validator's bucket."""
    form = PayloadFormat(
        run_id=world.spec.run_id,
        shapes=tensor_shapes(world.spec),
        top_k=world.spec.compression.top_k,
    )
    digest_of = {
        v["uid"]: bytes.fromhex(v["digest"])
        for v in _verdicts(node)
        if v["window"] == window and v["status"] == "named"
    }
    bucket = world.buckets[node.context.hotkey]
    for uid in sorted(accepted(node)[window]):
        key = payload_key(world.spec.run_id, window, digest_of[uid])
        yield uid, decode_payload(bucket.get(key, max_bytes=form.num_bytes), form)


def _verdicts(node) -> list[dict]:
    return _rows(node, "verdict")


def _rows(node, kind: str) -> list[dict]:
    text = (node.context.state_dir / "verdicts.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if row["kind"] == kind]


def _norm(values) -> float:
    return math.sqrt(math.fsum(float(v) ** 2 for v in values.reshape(-1)))


def _cut_the_longest(factors, norms, ratio) -> None:
    """Every hotkey here has a coldkey of its own, and every payload all tensors."""
    for name in {name for mine in factors.values() for name in mine}:
        lengths = {uid: mine[name] * norms[uid][name] for uid, mine in factors.items()}
        limit = ratio * statistics.median_high([x for x in lengths.values() if x > 0] or [0.0])
        for uid, length in lengths.items():
            if length > limit:
                factors[uid][name] *= limit / length


def _replay(world, node):
    """params_digest by window, from theta_0 on."""
    outer = world.spec.outer
    theta0 = bytes.fromhex(world.spec.checkpoint.theta0_digest)
    bucket = world.buckets[hotkey_of("owner")]
    index = bucket.get(blob_key(theta0), max_bytes=2**24)
    params: dict[str, torch.Tensor] = {}
    for start in range(0, len(index), 32):
        part = load(bucket.get(blob_key(index[start : start + 32]), max_bytes=2**24))
        params |= {name: _of_three_bytes(tensor) for name, tensor in part.items()}
    floor = outer.initial_norm_floor
    limits = {
        n: max(outer.initial_norm_share * _norm(t), floor * math.sqrt(t.numel()))
        for n, t in params.items()
    }
    seen: dict[str, list[float]] = {name: [] for name in params}
    found = {}
    exponents = {row["window"]: row["exponent"] for row in _rows(node, "window")}
    for window in range(world.spec.schedule.num_windows):
        payloads = dict(_payloads(world, node, window))
        norms = {u: {n: _norm(t.values) for n, t in p.tensors.items()} for u, p in payloads.items()}
        lengths = {n: [member[n] for member in norms.values()] for n in params}
        references = {n: statistics.median_low(seen[n] or lengths[n]) for n in params}
        if not any(seen.values()):
            references = {n: min(limits[n], reference) for n, reference in references.items()}
        factors: dict[int, dict[str, float]] = {}
        alpha = alpha_at(exponents[window], outer.outer_lr)
        for uid, payload in payloads.items():
            age = payload.header.window - payload.header.base_window
            share = outer.staleness_decay**age / max(len(payloads), outer.min_divisor)
            clips = {n: outer.clip_factor * references[n] / (norms[uid][n] or 1) for n in params}
            factors[uid] = {n: alpha * share * min(1.0, clips[n]) for n in params}
        _cut_the_longest(factors, norms, outer.max_length_ratio)
        _cut_the_largest(factors, norms, outer.max_energy_share)
        for uid, payload in payloads.items():
            for name, sparse in payload.tensors.items():
                flat = params[name].view(-1)
                step = sparse.values * torch.tensor(-factors[uid][name], dtype=torch.float32)
                flat[sparse.indices] = flat[sparse.indices] + step
                seen[name].append(norms[uid][name])
        if (window + 2) % world.spec.checkpoint.every_windows == 0:
            params = {name: _in_24_bits(tensor) for name, tensor in params.items()}
        found[window] = tensors_digest(params).hex()
    return found


def _of_three_bytes(packed: torch.Tensor) -> torch.Tensor:
    """A shape [..., 3] of the upper bytes of each float32."""
    low, middle, high = np.moveaxis(packed.numpy().astype(np.uint32), -1, 0)
    bits = (low << 8) | (middle << 16) | (high << 24)
    return torch.from_numpy(bits.astype(np.uint32).view(np.float32).copy())


def _in_24_bits(values: torch.Tensor) -> torch.Tensor:
    """To nearest, ties to even, as a float64 between the two neighbours says."""
    bits = values.numpy().view(np.uint32)
    below = (bits & np.uint32(0xFFFFFF00)).view(np.float32)
    above = ((bits & np.uint32(0xFFFFFF00)) + np.uint32(0x100)).view(np.float32)
    to_below = np.abs(values.numpy().astype(np.float64) - below)
    to_above = np.abs(above.astype(np.float64) - values.numpy())
    is_even = (below.view(np.uint32) >> 8) % 2 == 0
    takes_below = (to_below < to_above) | ((to_below == to_above) & is_even)
    return torch.from_numpy(np.where(takes_below, below, above).copy())


def _cut_the_largest(factors, norms, share: float) -> None:
    """Every hotkey here has a coldkey of its own, and at most one of three has too much."""
    energies = {
        uid: math.fsum((factor * norms[uid][name]) ** 2 for name, factor in own.items())
        for uid, own in factors.items()
    }
    share = max(share, 2 / len(energies))
    largest = max(energies, key=lambda uid: energies[uid])
    if energies[largest] <= share * math.fsum(energies.values()):
        return
    rest = math.fsum(value for uid, value in energies.items() if uid != largest)
    scale = math.sqrt(share * rest / (1 - share) / energies[largest])
    factors[largest] = {name: factor * scale for name, factor in factors[largest].items()}


def test_whoever_has_the_buckets_gets_every_digest_of_the_run(swarm) -> None:
    world, nodes = swarm
    assert len(digests(nodes)) == 1
    replayed = _replay(world, nodes["val-a"])
    assert replayed == metrics(nodes["m0"]).series("params_digest")
    assert len(set(replayed.values())) == world.spec.schedule.num_windows


def test_a_window_late_is_accepted(swarm) -> None:
    world, nodes = swarm
    uid = uid_of(world, "stale")
    ages = [
        payload.header.window - payload.header.base_window
        for window in range(1, world.spec.schedule.num_windows)
        for member, payload in _payloads(world, nodes["val-b"], window)
        if member == uid
    ]
    assert ages.count(1) == len(ages) >= 3


def test_later_than_that_is_refused_by_name(swarm) -> None:
    world, nodes = swarm
    uid = uid_of(world, "ancient")
    status = {v["window"]: v["status"] for v in _verdicts(nodes["val-a"]) if v["uid"] == uid}
    assert [w for w, s in status.items() if s == "stale"] == [3, 4]
    assert all(uid not in accepted(nodes["val-a"])[w] for w in (3, 4))
