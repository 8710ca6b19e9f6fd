"""A run that has ended, and the context of a joiner whose peers' buckets can be broken."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from simulation.swarm import FOUR, STAKES_TAO, build_world, honest, metrics, run
from simulation.world import World
from template.protocol.keys import checkpoint_manifest_key
from template.training.published import PublishedManifest, parse_published
from tests.support.joining import FIRST, NEWCOMER, PART_BYTES, SECOND, WINDOW, Watched


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> tuple[World, str]:
    """A run that has ended, and the digest of theta_4."""
    world = build_world(
        STAKES_TAO,
        schedule__num_windows=5,
        checkpoint__every_windows=2,
        checkpoint__part_bytes=PART_BYTES,
    )
    nodes = run(world, honest(*FOUR), tmp_path_factory.mktemp("run"))
    return world, metrics(nodes["m0"]).series("params_digest")[WINDOW - 2]


@pytest.fixture
def buckets(ended) -> Iterator[dict[str, Watched]]:
    """Copies, to be broken; the clock is given back."""
    world, _ = ended
    copies = {}
    for hotkey, bucket in world.buckets.items():
        copies[hotkey] = Watched()
        for key in bucket.list(""):
            copies[hotkey].put(key, bucket.get(key, max_bytes=2**24))
    block = world.time.block
    yield copies
    world.time.block = block


@pytest.fixture
def context(ended, buckets, tmp_path: Path):
    world, _ = ended
    mine = world.context(NEWCOMER, tmp_path)
    return replace(mine, open_bucket=lambda peer, _access: buckets[peer])


@pytest.fixture
def manifest(ended, buckets) -> PublishedManifest:
    world, _ = ended
    key = checkpoint_manifest_key(world.spec.run_id, WINDOW)
    assert buckets[FIRST].get(key, max_bytes=2**20) == buckets[SECOND].get(key, max_bytes=2**20)
    found = parse_published(buckets[FIRST].get(key, max_bytes=2**20), world.spec)
    buckets[FIRST].gets.clear()
    assert len(found.parts) >= 4
    return found
