"""Payloads a few at a time: the order, who delays whom, and whose fault a missing payload is."""

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from template.errors import AskedTooLate, NodeTrouble, NotFound, SubnetError, Unavailable
from template.peers.arrival import LEAST_BYTES_PER_S, Arrival, Watch, least_rate
from template.peers.fetching import FEW, MAX_LANES, Fetching, num_lanes
from template.protocol.root import Member
from tests.support.waiting import HANG_S, wait_until

LARGE = 10**9


def member_of(uid: int) -> Member:
    return Member(uid=uid, hotkey=f"h{uid}", public_key=bytes(32), coldkey=bytes(32), digest=b"d")


class Bucket:
    """Answers when told to; knows who asked, in order."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.released = threading.Event()
        self._may = [threading.Event() for _ in range(100)]

    def let(self, *uids: int) -> None:
        for uid in uids:
            self._may[uid].set()

    def fetch(self, uid: int, came: int = 0):
        def fetch(arrival: Arrival) -> bytes:
            arrival.num_bytes += came
            self.asked.append(uid)
            while not self._may[uid].wait(0.01) and not self.released.is_set():
                arrival.take(b"")
            return bytes([uid])

        return fetch


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    bucket = Bucket()
    yield bucket
    bucket.released.set()


def fetching_of(bucket: Bucket, count: int, **settings) -> Fetching:
    fetching = Fetching({}, num_bytes=LARGE, **settings)
    for uid in range(count):
        fetching.add(member_of(uid), bucket.fetch(uid))
    return fetching


def _has_asked(bucket: Bucket, count: int) -> bool:
    return len(bucket.asked) == count


def outcomes(fetching: Fetching) -> dict[int, bytes | SubnetError]:
    return {member.uid: found for member, found in fetching.outcomes()}


def test_large_payloads_are_few_and_small_ones_many() -> None:
    assert [num_lanes(n) for n in (1_430_000_000, 158_000_000, 20_000_000)] == [FEW] * 3
    assert FEW < num_lanes(3_000_000) < MAX_LANES
    assert num_lanes(2_000) == num_lanes(1) == MAX_LANES


def test_large_payloads_come_in_order_a_few_at_a_time(bucket: Bucket) -> None:
    fetching = fetching_of(bucket, 10, look_s=HANG_S)
    assert fetching.num_waiting == 10
    wait_until(lambda: len(bucket.asked) == FEW)
    assert sorted(bucket.asked) == list(range(FEW))
    assert not fetching.wait(0.05)
    assert len(bucket.asked) == FEW
    bucket.let(2)
    wait_until(lambda: fetching.num_waiting == 9)
    wait_until(lambda: len(bucket.asked) == FEW + 1)
    assert bucket.asked[-1] == FEW, "the next in order"
    assert [member.uid for member, _ in fetching.newly_answered()] == [2]
    assert fetching.newly_answered() == []
    bucket.let(*range(10))
    assert fetching.wait(HANG_S)
    assert outcomes(fetching) == {uid: bytes([uid]) for uid in range(10)}
    assert sorted(m.uid for m, _ in fetching.newly_answered()) == [0, 1, *range(3, 10)]


def test_silent_buckets_at_the_front_keep_no_place(bucket: Bucket) -> None:
    """Twice as many silent ones as places, before one that answers."""
    fetching = fetching_of(bucket, 2 * FEW + 1, look_s=0.05)
    bucket.let(2 * FEW)
    wait_until(lambda: fetching.num_waiting == 2 * FEW)
    assert outcomes(fetching)[2 * FEW] == bytes([2 * FEW])


def test_a_line_with_room_is_given_one_more(bucket: Bucket) -> None:
    """While the rate of all grows from look to look, or is far from the best; else not."""
    now_s = [100.0]
    fetching = fetching_of(bucket, 10, look_s=2.0, now_s=lambda: now_s[0])
    fetching.advance()
    wait_until(partial(_has_asked, bucket, FEW))
    for mb, more in ((10, 1), (20, 2), (20, 2), (21, 2), (19, 2), (9, 3)):
        for request in fetching._requests[: len(bucket.asked)]:
            request.arrival.num_bytes += mb * 10**6 // len(bucket.asked)
        now_s[0] += 2.0
        fetching.advance()
        wait_until(partial(_has_asked, bucket, FEW + more))


def test_slow_buckets_keep_no_place_once_others_have_shown_the_rate(bucket: Bucket) -> None:
    """As many as there are places, each above the floor and far below what came before."""
    now_s = [100.0]
    fetching = fetching_of(bucket, 3 * FEW, look_s=2.0, now_s=lambda: now_s[0])
    fetching.advance()
    wait_until(partial(_has_asked, bucket, FEW))
    for request in fetching._requests[:FEW]:
        request.arrival.num_bytes = LARGE
    now_s[0] += 10.0
    bucket.let(*range(FEW))
    wait_until(lambda: fetching.num_waiting == 2 * FEW)
    num_asked = len(bucket.asked)
    for _look in range(2):
        for request in fetching._requests[FEW:]:
            request.arrival.num_bytes += int(4 * LEAST_BYTES_PER_S)
        now_s[0] += 2.0
        fetching.advance()
    wait_until(lambda: len(bucket.asked) >= min(num_asked + FEW, 3 * FEW))


@pytest.mark.parametrize(
    ("came", "asked_late", "expected"),
    [
        (0, False, Unavailable),
        (1, False, Unavailable),
        (LARGE // 2, False, AskedTooLate),
        (0, True, AskedTooLate),
        (LARGE // 2, True, AskedTooLate),
    ],
    ids=["silent", "drips", "comes", "silent, asked late", "comes, asked late"],
)
def test_only_a_bucket_that_had_its_time_is_missing(
    bucket: Bucket, came: int, asked_late: bool, expected: type[SubnetError]
) -> None:
    fetching = Fetching({}, num_bytes=LARGE, is_late=lambda: asked_late, look_s=HANG_S)
    for uid in range(FEW + 1):
        fetching.add(member_of(uid), bucket.fetch(uid, came))
    assert not fetching.wait(0.05)
    wait_until(partial(_has_asked, bucket, FEW))
    found = outcomes(fetching)
    assert {type(found[uid]) for uid in range(FEW)} == {expected}
    assert type(found[FEW]) is AskedTooLate, "never asked: the validator's time, no miner's fault"
    assert isinstance(found[FEW], NodeTrouble)
    fetching.close()
    assert FEW not in bucket.asked


def test_a_bucket_much_slower_than_the_others_is_at_fault(bucket: Bucket) -> None:
    """Above the floor, but a tenth of what the same line gave for the others."""
    now_s = [100.0]
    fetching = fetching_of(bucket, 3, look_s=HANG_S, now_s=lambda: now_s[0])
    fetching.advance()
    wait_until(lambda: len(bucket.asked) == 3)
    now_s[0] += 10.0
    first, slow, fair = (request.arrival for request in fetching._requests)
    first.num_bytes = LARGE
    bucket.let(0)
    wait_until(lambda: fetching.num_waiting == 2)
    slow.num_bytes, fair.num_bytes = LARGE // 10, LARGE // 2
    found = outcomes(fetching)
    assert type(found[1]) is Unavailable
    assert type(found[2]) is AskedTooLate
    assert slow.num_bytes / 10.0 > LEAST_BYTES_PER_S


def test_what_is_not_needed_ends_with_its_next_byte(bucket: Bucket) -> None:
    fetching = fetching_of(bucket, 2, look_s=HANG_S)
    fetching.advance()
    wait_until(lambda: len(bucket.asked) == 2)
    fetching.close()
    for request in fetching._requests:
        assert request.future is not None
        assert isinstance(request.future.exception(HANG_S), Unavailable)


def test_an_answer_counts_however_late(bucket: Bucket) -> None:
    def absent(_arrival: Arrival) -> bytes:
        raise NotFound("no object")

    fetching = Fetching({}, is_late=lambda: True)
    fetching.add(member_of(0), absent)
    assert fetching.wait(HANG_S)
    assert isinstance(outcomes(fetching)[0], NotFound)


def test_a_watch_sees_bytes_and_not_time() -> None:
    watch = Watch()
    assert not watch.is_moving(0, 0.0, 100.0)
    assert watch.is_moving(1, 0.0, 100.0)
    assert not watch.is_moving(1, 0.0, 100.0)
    assert watch.is_moving(101, 1.0, 100.0)
    assert not watch.is_moving(200, 1.0, 100.0)


def test_the_least_rate_follows_what_the_line_gives() -> None:
    assert least_rate([]) == least_rate([1.0, 2.0]) == LEAST_BYTES_PER_S
    assert least_rate([4e6, 8e6, 1e9]) == 2e6
