"""Joining a run whose buckets are broken: any will do for a part, and no part is fetched twice."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from simulation.world import FakeChain
from template.chain.waiter import Waiter
from template.errors import (
    ChainError,
    ConfigError,
    NodeTrouble,
    NotFound,
    Unavailable,
)
from template.peers.client import Peers
from template.protocol.keys import blob_key, checkpoint_manifest_key
from template.protocol.record import ROOT_BYTES, Record, encode_record
from template.protocol.root import tensors_digest
from template.store import Store
from template.store.s3 import S3Store
from template.sync.bootstrap import Bootstrap
from template.sync.dataset import downloaded_parts, open_pages
from template.sync.lineage import find_voted_root, read_lineage, wait_for_voted_root
from template.sync.own_checkpoint import OwnCheckpoints
from template.sync.payload_cache import PayloadCache
from template.training.outer import state_digest
from template.training.published import (
    PublishedManifest,
    build_checkpoint,
    restore_published,
)
from tests.support.joining import FIRST, NEWCOMER, OWNER, SECOND, WINDOW, Watched
from tests.support.raw_server import LIMITS, OK, RawServer, bucket_at, drips, silent

NO_CHECKPOINT = "no validator serves a checkpoint that the votes prove"


class Killed(BaseException):
    """A process that ends here and now."""


def _keys(manifest: PublishedManifest) -> list[str]:
    return [blob_key(part.digest) for part in manifest.parts]


def _reads(buckets, keys) -> list[int]:
    return [sum(bucket.gets[key] for bucket in buckets.values()) for key in keys]


def _joined(context, digest: str) -> None:
    state = Bootstrap(context, Peers(context)).join().state
    assert state.window == WINDOW
    assert tensors_digest(state.params).hex() == digest


def test_parts_of_one_checkpoint_come_from_several_buckets(
    ended, context, buckets, manifest
) -> None:
    keys = _keys(manifest)
    for index, key in enumerate(keys):
        buckets[(FIRST, SECOND)[index % 2]].delete(key)
    _joined(context, ended[1])
    assert _reads(buckets, keys) == [1] * len(keys)
    assert {h for h in (FIRST, SECOND) if any(buckets[h].gets[k] for k in keys)} == {FIRST, SECOND}


@pytest.mark.parametrize("damage", ["shorter", "longer", "other bytes"])
def test_a_bucket_that_lies_about_a_part_is_passed_over(
    damage: str, ended, context, buckets, manifest
) -> None:
    """A part of another length is not downloaded."""
    keys = _keys(manifest)
    for key in keys:
        data = buckets[FIRST].get(key, max_bytes=2**20)
        bad = {"shorter": data[:-1], "longer": data + b"\0", "other bytes": data[::-1]}[damage]
        buckets[FIRST].put(key, bad)
    buckets[FIRST].gets.clear()
    _joined(context, ended[1])
    assert [buckets[SECOND].gets[key] for key in keys] == [1] * len(keys)
    asked = sum(buckets[FIRST].gets[key] for key in keys)
    assert asked == (1 if damage == "other bytes" else 0), "asked again after its first lie"


@pytest.mark.parametrize("num_parts", [0, 1, 3])
def test_a_killed_download_goes_on_with_what_it_has(
    num_parts: int, ended, context, buckets, manifest
) -> None:
    keys = _keys(manifest)

    def kill(key: str) -> None:
        if sum(_reads(buckets, keys)) == num_parts and key in keys:
            raise Killed

    for bucket in buckets.values():
        bucket.before_get = kill
    with pytest.raises(Killed):
        Bootstrap(context, Peers(context)).join()
    kept = sorted(path.name for path in context.state_dir.glob("joining/*"))
    assert kept == sorted(f"{part.digest.hex()}.part" for part in manifest.parts[:num_parts])
    for bucket in buckets.values():
        bucket.before_get = lambda _key: None
    _joined(context, ended[1])
    assert _reads(buckets, keys) == [1] * len(keys)


def test_a_damaged_part_on_disk_is_fetched_again(ended, context, buckets, manifest) -> None:
    _joined(context, ended[1])
    first, *_, last = (f"{part.digest.hex()}.part" for part in manifest.parts)
    folder = context.state_dir / "joining"
    (folder / first).write_bytes(b"")
    (folder / last).write_bytes((folder / last).read_bytes()[::-1])
    _joined(context, ended[1])
    keys = _keys(manifest)
    assert _reads(buckets, keys) == [2] + [1] * (len(keys) - 2) + [2]


def test_nothing_of_the_download_stays_once_the_node_has_a_checkpoint(
    ended, context, buckets, manifest
) -> None:
    checkpoint = Bootstrap(context, Peers(context)).join()
    assert len(list(context.state_dir.glob("joining/*"))) == len(manifest.parts)
    OwnCheckpoints(context).save(checkpoint)
    assert list(context.state_dir.glob("joining/*")) == []
    buckets.clear()
    _joined(context, ended[1])


@pytest.mark.parametrize("for_good", [True, False])
def test_a_part_that_nobody_has_now_is_asked_for_again(
    for_good: bool, ended, context, buckets, manifest
) -> None:
    """A bucket that is away for a moment keeps nobody out; the checkpoint before will do."""
    world, digest = ended
    key, asked = _keys(manifest)[-1], []

    def away(wanted: str) -> None:
        if wanted == key:
            asked.append(key)
            if for_good or len(asked) <= 2:
                raise Unavailable("away")

    for bucket in buckets.values():
        bucket.before_get = away
        if not for_good:
            bucket.delete(checkpoint_manifest_key(world.spec.run_id, 2))
    world.time.enter()
    try:
        if for_good:
            assert Bootstrap(context, Peers(context)).join().state.window == 2
            assert len(asked) >= 2
        else:
            _joined(context, digest)
    finally:
        world.time.leave()


def test_a_manifest_of_parts_that_nobody_has_keeps_no_joiner_out(
    ended, context, buckets, manifest
) -> None:
    world, digest = ended
    key = checkpoint_manifest_key(world.spec.run_id, WINDOW)
    text = buckets[FIRST].get(key, max_bytes=2**20).decode()
    for part in manifest.parts:
        text = text.replace(part.digest.hex(), part.digest[::-1].hex())
    buckets[FIRST].put(key, text.encode())
    _joined(context, digest)


def test_one_manifest_of_all_validators_is_tried_once(ended, context, buckets, manifest) -> None:
    keys = _keys(manifest)
    for bucket in buckets.values():
        bucket.delete(keys[-1])
    asked: Counter[str] = Counter()
    for bucket in buckets.values():
        bucket.before_get = lambda key: asked.update([key])
    assert Bootstrap(context, Peers(context)).join().state.window == 2
    assert asked[keys[0]] == 1


def test_a_file_of_a_stranger_is_never_a_path(ended, context, buckets, manifest) -> None:
    world, _ = ended
    for hotkey in (FIRST, SECOND):
        key = checkpoint_manifest_key(world.spec.run_id, WINDOW)
        text = buckets[hotkey].get(key, max_bytes=2**20).decode()
        buckets[hotkey].put(key, text.replace("theta-00001", "../../../evil").encode())
    assert Bootstrap(context, Peers(context)).join().state.window == 2
    names = {path.name for path in context.state_dir.rglob("*")}
    assert all(name == "joining" or name.endswith(".part") for name in names)
    assert "joining" in names


def test_theta_0_and_the_dataset_come_from_validators_when_the_mirrors_are_empty(
    ended, context, buckets
) -> None:
    world, _ = ended
    for key in buckets[OWNER].list(""):
        buckets[OWNER].delete(key)
    told: dict[str, bytes] = {}
    pages = open_pages(context, Peers(context), told.__setitem__)
    assert pages.page(0).shape == (world.spec.data.page_tokens,)
    assert pages.held_out_pages(range(pages.num_held_out_pages)).size
    assert set(told) == {world.spec.data.manifest_digest}
    assert Bootstrap(context, Peers(context)).published_or_first_state(1).window == 1
    for hotkey in (FIRST, SECOND):
        for key in buckets[hotkey].list("blob/"):
            buckets[hotkey].delete(key)
    # What was downloaded is not asked for again.
    assert Bootstrap(context, Peers(context)).published_or_first_state(1).window == 1
    downloaded_parts(context.state_dir).keep_only([])
    with pytest.raises(ConfigError, match=r"theta0_digest is at none of data\.mirrors, nor at any"):
        Bootstrap(context, Peers(context)).published_or_first_state(1)


def test_a_mirror_that_answers_is_asked_before_validators(ended, context, buckets) -> None:
    open_pages(context, Peers(context)).held_out_pages([0])
    assert sum(buckets[OWNER].gets.values()) == 2
    assert not buckets[FIRST].gets
    assert not buckets[SECOND].gets


def _forge_checkpoint(bucket: Watched, spec, manifest: PublishedManifest) -> set[str]:
    """Other parameters under the true root and with their own digest; the forged parts' keys."""
    parts = [bucket.get(blob_key(p.digest), max_bytes=2**22) for p in manifest.parts]
    state = restore_published(manifest, parts, spec)
    lie = replace(state, params={n: 2 * t for n, t in state.params.items()})
    false = build_checkpoint(replace(lie, checkpoint_digest=state_digest(lie)), spec)
    bucket.put(checkpoint_manifest_key(spec.run_id, WINDOW), false.manifest)
    for digest, data in false.blobs.items():
        bucket.put(blob_key(digest), data)
    return {blob_key(digest) for digest in false.blobs} - set(_keys(manifest))


def test_a_forged_checkpoint_is_refused_where_the_votes_on_it_are_forgotten(
    ended, context, buckets, manifest
) -> None:
    """The root voted now proves it backwards, and no part of the forgery is downloaded."""
    world, digest = ended
    forged = _forge_checkpoint(buckets[FIRST], world.spec, manifest)
    buckets[FIRST].gets.clear()
    schedule = context.schedule
    before = world.ledger.kept_blocks
    world.time.block = schedule.vote_block(WINDOW + 1) + world.ledger.finality_lag
    world.ledger.kept_blocks = world.time.block - schedule.vote_block(WINDOW) - 1
    try:
        with pytest.raises(ChainError):
            context.chain.commitments(schedule.vote_block(WINDOW))
        peers = Peers(context)
        state = Bootstrap(context, peers).join().state
    finally:
        world.ledger.kept_blocks = before
    assert tensors_digest(state.params).hex() == digest
    assert sum(buckets[FIRST].gets[key] for key in forged) == 0
    assert peers.in_order([FIRST, SECOND]) == [SECOND, FIRST]


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row | {"voting_stake_rao": row["voting_stake_rao"] + 1},
        lambda row: row | {"pace": 1},
        lambda row: row | {"members": [[0, {}, "00" * 32, "00" * 32]]},
        lambda row: row | {"checkpoint": ""},
        lambda row: {},
    ],
    ids=["a rao more", "another pace", "a hotkey that is no text", "another step", "no step"],
)
def test_a_lineage_that_leads_elsewhere_makes_its_bucket_the_last_to_be_asked(
    change, ended, context, buckets, manifest
) -> None:
    world, digest = ended
    for key in buckets[FIRST].list(f"{world.spec.run_id.hex()}/lineage/"):
        rows = [json.loads(line) for line in buckets[FIRST].get(key, max_bytes=2**20).splitlines()]
        lines = [json.dumps(change(row)).encode() + b"\n" for row in rows]
        buckets[FIRST].put(key, b"".join(lines))
    peers = Peers(context)
    state = Bootstrap(context, peers).join().state
    assert (state.window, tensors_digest(state.params).hex()) == (WINDOW, digest)
    assert peers.in_order([FIRST, SECOND]) == [SECOND, FIRST]


@pytest.fixture
def server() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def start(*answers) -> RawServer:
        servers.append(RawServer(*answers))
        return servers[-1]

    yield start
    for started in servers:
        started.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [drips(OK + b"Content-Length: 100000\r\n\r\n", b"x"), drips(OK, b"X-Slow: 1\r\n"), silent],
    ids=["slow body", "slow headers", "silent"],
)
def test_a_bucket_that_drips_holds_a_joiner_for_a_moment_and_not_for_every_part(
    answer, ended, context, buckets, manifest, server
) -> None:
    """Over the real adapter: the validator with most stake and the mirror drip on every request."""
    _, digest = ended
    raw = server(answer)
    slow: dict[str, Store] = {
        h: S3Store(bucket_at(raw.url), deadline_s=0.0, limits=LIMITS) for h in (FIRST, OWNER)
    }
    dripping = replace(context, open_bucket=lambda peer, _access: slow.get(peer, buckets[peer]))
    peers = Peers(dripping)
    started_s = time.monotonic()
    state = Bootstrap(dripping, peers).join().state
    assert tensors_digest(state.params).hex() == digest
    open_pages(dripping, peers).pages([0, 1])
    spent_s = time.monotonic() - started_s
    # Its manifest, the first part from it and from the mirror: each about a second.
    assert len(raw.requests) <= 4, [r.split()[1][-20:].decode() for r in raw.requests]
    assert spent_s >= LIMITS.silence_s


def test_who_has_nothing_is_no_trouble(ended, context, buckets, manifest) -> None:
    for key in _keys(manifest):
        buckets[FIRST].delete(key)
    peers = Peers(context)
    Bootstrap(context, peers).join()
    assert not peers.is_troubled(FIRST)
    with pytest.raises(NotFound):
        peers.fetch_blob([FIRST], bytes(32), 10)
    assert not peers.is_troubled(FIRST)
    buckets[FIRST].put(blob_key(bytes(32)), b"x")
    with pytest.raises(Unavailable):
        peers.fetch_blob([FIRST], bytes(32), 10)
    assert peers.is_troubled(FIRST)
    key = _keys(manifest)[0]
    part = manifest.parts[0]
    buckets[FIRST].put(key, buckets[SECOND].get(key, max_bytes=2**20))
    assert peers.fetch_blob([FIRST], part.digest, part.num_bytes, exact=True)
    assert not peers.is_troubled(FIRST)


@pytest.mark.parametrize(("window", "is_early"), [(0, True), (7, True), (8, False), (9, False)])
def test_theta_0_will_do_only_while_its_payloads_are_kept(
    window: int, is_early: bool, ended, context, buckets
) -> None:
    """At theta_8 the payloads of window 0 go: theta_4 is beyond doubt, and theta_2 holds them."""
    world, _ = ended
    for hotkey in (FIRST, SECOND):
        for key in buckets[hotkey].list(f"{world.spec.run_id.hex()}/checkpoint/"):
            buckets[hotkey].delete(key)
    block = context.schedule.first_block(window)
    world.time.block = max(world.time.block, block)

    class Early(FakeChain):
        def finalized(self) -> int:
            return block

    early = replace(context, chain=(chain := Early(world.ledger, NEWCOMER)), waiter=Waiter(chain))
    if is_early:
        assert Bootstrap(early, Peers(early)).join().state.window == 1
    else:
        with pytest.raises(Unavailable, match=NO_CHECKPOINT):
            Bootstrap(early, Peers(early)).join()


def _refuse(_key: str) -> None:
    raise NodeTrouble("this node could not ask (EMFILE)")


def test_what_a_node_in_trouble_cannot_ask_for_is_not_called_absent(context, buckets) -> None:
    """Manifest, theta_0, checkpoints, lineage and payloads: every reader reports the node itself,
    instead of a mirror, a fork or a deleted object; nothing is concluded from it.
    """
    peers = Peers(context, node_patience_s=0.0)
    peers.refresh()
    vote = wait_for_voted_root(context)
    step = read_lineage(context, peers, vote.window + 1, vote.root)[-1]
    assert step.members
    for bucket in buckets.values():
        bucket.before_get = _refuse
    cache = PayloadCache(context, peers)
    readers = (
        lambda: Bootstrap(context, peers).join(),
        lambda: Bootstrap(context, peers).published_or_first_state(1),
        lambda: open_pages(context, peers),
        lambda: read_lineage(context, peers, vote.window + 1, vote.root),
        lambda: cache.obtain_past_payloads(step),
    )
    for read in readers:
        with pytest.raises(NodeTrouble, match="this node could not ask") as caught:
            read()
        assert "mirror" not in str(caught.value)
    holders = {member.uid: (FIRST,) for member in step.members}
    assert cache.fetch_missing(step.window, step.members, holders) == list(step.members)


def test_a_joiner_takes_a_checkpoint_while_the_majority_waits_for_payloads(
    ended, context, buckets, manifest
) -> None:
    """Stuck validators vote an older root than their window's."""
    world, digest = ended
    world.time.block = context.schedule.vote_block(WINDOW + 1) + world.ledger.finality_lag
    vote = find_voted_root(context)
    assert vote is not None
    peers = Peers(context)
    peers.refresh()
    steps = read_lineage(context, peers, vote.window + 1, vote.root)
    stuck = replace(vote, root=steps[-1].root[:ROOT_BYTES], window=vote.window + 2)
    before = dict(world.ledger.commitments)
    try:
        for hotkey in (FIRST, SECOND):
            record = encode_record(
                Record.of(world.spec.run_id, access=world.access(hotkey), vote=stuck)
            )
            world.ledger.commitments[hotkey] = ([0], [record])
        world.time.block = context.schedule.vote_block(stuck.window) + world.ledger.finality_lag
        assert find_voted_root(context) == stuck
        _joined(context, digest)
    finally:
        world.ledger.commitments.update(before)


def test_a_bucket_without_answers_is_asked_for_one_segment_of_a_long_lineage(
    ended, context, buckets
) -> None:
    """The bucket of most stake would hold a reader for a minute a segment."""
    asked = []

    def away(key: str) -> None:
        asked.append(key)
        raise Unavailable("away")

    vote = find_voted_root(context)
    assert vote is not None
    buckets[FIRST].before_get = away
    (peers := Peers(context)).refresh()
    steps = read_lineage(context, peers, vote.window + 1, vote.root)
    assert [step.window for step in steps] == list(range(vote.window))
    assert len(asked) == 1
