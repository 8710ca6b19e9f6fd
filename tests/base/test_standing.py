"""Whether a hotkey may take part, and what is said when that changes."""

import logging
import threading
from dataclasses import replace

import pytest

from simulation.swarm import build_world
from simulation.world import World, hotkey_of
from template.base.standing import Standing, VersionWatch, publish, publish_if_new
from template.errors import ChainError, ConfigError
from template.protocol.notice import VersionNotice
from template.protocol.record import (
    LOG_DIGEST_BYTES,
    ROOT_BYTES,
    SAMPLE_DIGEST_BYTES,
    Record,
    Vote,
    encode_record,
)
from tests.support.notices import NOTICE
from tests.support.waiting import HANG_S, wait_until

VAL = hotkey_of("val")


@pytest.fixture(scope="module")
def base_world() -> World:
    return build_world({"owner": 0, "val": 5})


@pytest.fixture
def world(base_world: World):
    before = base_world.ledger.neurons
    yield base_world
    base_world.ledger.neurons = before


def set_permit(world: World, has_permit: bool) -> None:
    world.ledger.neurons = tuple(
        replace(n, validator_permit=has_permit) if n.hotkey == VAL else n
        for n in world.ledger.neurons
    )


def test_a_permit_is_spoken_of_only_when_it_is_missing_or_changes(world, tmp_path, caplog) -> None:
    standing = Standing(world.context(VAL, tmp_path))
    with caplog.at_level(logging.INFO, "template.base.standing"):
        for has_permit in (True, True, False, False, True, True, False):
            set_permit(world, has_permit)
            standing.watch_permit()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]
    assert "its stake is 5.000 TAO" in caplog.messages[0]
    assert "`btcli stake add --amount-tao AMOUNT --netuid 1 -n local" in caplog.messages[0]
    assert "has a permit now" in caplog.messages[1]


def test_a_hotkey_that_is_gone_is_a_config_error_with_the_command(world, tmp_path) -> None:
    standing = Standing(world.context(VAL, tmp_path))
    assert standing.demand_registration().hotkey == VAL
    world.ledger.neurons = world.ledger.neurons[:1]
    with pytest.raises(ConfigError, match=f"{VAL} is not registered on --netuid 1") as caught:
        standing.demand_registration()
    assert "`btcli subnets register --netuid 1 -n local" in str(caught.value)
    with pytest.raises(ConfigError):
        standing.watch_permit()


def test_a_record_that_stands_is_not_published_again(world, tmp_path) -> None:
    context = world.context(VAL, tmp_path)
    record = Record(access=context.access)
    assert publish(context, record)
    world.time.block += 1
    publish_if_new(context, record)
    values = world.ledger.commitments[VAL][1]
    assert values == [encode_record(record)]
    publish_if_new(context, Record())
    assert values == [encode_record(record), encode_record(Record())]


def test_a_neuron_leaves_the_owners_offer_of_a_run_on_chain(base_world, tmp_path) -> None:
    """Whichever run `owner publish` offers while the neuron works."""
    world, context = base_world, base_world.context(VAL, tmp_path)
    before = world.ledger.commitments.pop(VAL, None)
    standing = Standing(context)
    standing.publish_if_new(Record(access=context.access))
    for run_id in (bytes(range(16)), bytes(range(16, 32))):
        publish(context, Record(access=context.access, offer=run_id))
        world.time.block += 1
        record = _vote(world, 1, b"a")
        assert standing.publish(record)
        world.time.block += 1
        standing.publish_if_new(Record(access=context.access))
        values = world.ledger.commitments[VAL][1][-2:]
        assert values == [
            encode_record(replace(record, offer=run_id)),
            encode_record(Record(access=context.access, offer=run_id)),
        ]
    world.ledger.commitments.pop(VAL)
    if before is not None:
        world.ledger.commitments[VAL] = before


@pytest.fixture
def twin(base_world: World, tmp_path):
    """Makes the standing of one process more with the same hotkey."""
    before = base_world.ledger.commitments.pop(VAL, None)
    yield lambda: Standing(base_world.context(VAL, tmp_path))
    base_world.ledger.commitments.pop(VAL)
    if before is not None:
        base_world.ledger.commitments[VAL] = before


def _vote(world: World, window: int, root: bytes) -> Record:
    vote = Vote(
        window=window,
        root=root * ROOT_BYTES,
        sample_digest=bytes(SAMPLE_DIGEST_BYTES),
        uids=frozenset(),
        missing=frozenset(),
        log_digest=bytes(LOG_DIGEST_BYTES),
    )
    return Record.of(world.spec.run_id, access=world.access(VAL), vote=vote)


def _next_window(world: World) -> None:
    world.time.block += world.spec.schedule.blocks_per_window


def test_a_second_process_with_the_same_hotkey_is_told_once(world, twin, caplog) -> None:
    here, there = twin(), twin()
    with caplog.at_level(logging.ERROR, "template.base.standing"):
        for window in range(6):
            here.publish(_vote(world, window, b"a"))
            _next_window(world)
            there.publish(_vote(world, window, b"b"))
            _next_window(world)
            here.demand_registration()
    (line,) = caplog.messages
    assert f"another process writes to the chain with hotkey {VAL}" in line
    assert "a vote on window 1" in line
    assert "end one of them" in line


def test_one_process_is_not_told_of_itself(world, twin, caplog) -> None:
    """Nor of the commitment before its start, of an owner's command, nor of a late own write."""
    before = twin()
    with caplog.at_level(logging.ERROR, "template.base.standing"):
        before.publish(_vote(world, 0, b"a"))
        _next_window(world)
        node = twin()
        node.demand_registration()
        before.publish(Record(access=world.access(VAL)))
        for window in range(1, 6):
            for retry in (b"a", b"b"):
                node.publish(_vote(world, window, retry))
            node.demand_registration()
            _next_window(world)
            node.demand_registration()
    assert caplog.messages == []


def test_a_newer_version_is_told_once_and_at_each_change(caplog) -> None:
    """And the chain is asked once an hour; a chain that does not answer is no news."""
    now_s, keys, asked = [0.0], [1000], []

    def least_version_key() -> int:
        asked.append(now_s[0])
        if keys[0] < 0:
            raise ChainError("away")
        return keys[0]

    watch = VersionWatch(
        1000, least_version_key, lambda: None, every_s=3600.0, now_s=lambda: now_s[0]
    )
    answers = []
    with caplog.at_level(logging.WARNING, "template.base.standing"):
        for hour, key in enumerate([1000, 1001, 1001, 2_003_004, -1, 2_003_004, 1000]):
            now_s[0], keys[0] = 3600.0 * hour, key
            answers.append(watch.look().get("least_version_key"))
            assert watch.look() == {}, "not asked again within the hour"
            wait_until(is_answered, every_s=0.002)
    assert answers == [1000, 1001, 1001, 2_003_004, None, 2_003_004, 1000]
    assert asked == [3600.0 * hour for hour in range(7)]
    assert len(caplog.messages) == 2
    assert "demands version 0.1.1 or newer (weights_version 1001)" in caplog.messages[0]
    assert "demands version 2.3.4 or newer" in caplog.messages[1]


def is_answered() -> bool:
    """Whether no thread asks for a notice any more."""
    return not any(thread.name.startswith("notice") for thread in threading.enumerate())


def test_a_newer_version_in_the_owners_notice_is_told_once_and_at_each_change(caplog) -> None:
    """An older or equal version is a metric alone; a notice that does not come is no news."""
    same, newer = (replace(NOTICE, version=version) for version in ("0.1.0", "0.2.0"))
    as_tag = replace(newer, kind="tag")
    said: list[VersionNotice | None] = [None, same, newer, newer, None, newer, as_tag]
    coming, now_s, found = iter(said), [0.0], []
    watch = VersionWatch(1000, lambda: 0, lambda: next(coming), now_s=lambda: now_s[0])
    with caplog.at_level(logging.WARNING, "template.base.standing"):
        for hour in range(len(said)):
            now_s[0] = 3600.0 * hour
            first = watch.look()
            wait_until(is_answered, every_s=0.002)
            found.append((first | watch.look()).get("newest_version_key"))
            assert watch.look() == {}
    assert found == [None, 1000, 2000, 2000, None, 2000, 2000]
    assert len(caplog.messages) == 2
    told = f"names version 0.2.0, and this is 0.1.0: wheel with SHA-256 {NOTICE.digest.hex()}."
    assert told in caplog.messages[0]
    assert "Nothing is updated by itself: compare your download (sha256sum " in caplog.messages[0]
    assert "(git verify-tag v0.2.0 && git cat-file tag v0.2.0 | sha256sum)" in caplog.messages[1]


def test_a_slow_bucket_of_the_owner_holds_up_no_window() -> None:
    """And is asked once at a time, however long it takes."""
    may_end, now_s, asked = threading.Event(), [0.0], []

    def ask() -> VersionNotice:
        asked.append(now_s[0])
        may_end.wait(HANG_S)
        return NOTICE

    watch = VersionWatch(1000, lambda: 0, ask, now_s=lambda: now_s[0])
    try:
        for hour in range(3):
            now_s[0] = 3600.0 * hour
            assert watch.look() == {"least_version_key": 0}
    finally:
        may_end.set()
    wait_until(is_answered, every_s=0.002)
    assert watch.look() == {"newest_version_key": NOTICE.key}
    assert asked == [0.0]


def test_stake_and_pay_of_each_window_are_logged(world, tmp_path) -> None:
    rows: list[tuple[int, dict]] = []

    class Kept:
        def log(self, window, values):
            rows.append((window, dict(values)))

        def close(self):
            """Nothing is open."""

    context = replace(world.context(VAL, tmp_path), metrics=Kept())
    me = Standing(context).demand_registration()
    window = context.schedule.window_of(context.chain.finalized())
    pay = {
        "uid": me.uid, "stake_tao": 5.0, "emission_alpha": me.emission_rao / 1e9,
        "incentive": me.incentive, "dividends": me.dividends,
    }  # fmt: skip
    assert rows == ([(window, pay)] if window >= 0 else [])
