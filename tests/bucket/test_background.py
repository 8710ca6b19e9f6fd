"""Jobs beside the loop: one at a time, never lost, second to what cannot wait, ended in between."""

import threading
from collections.abc import Iterator

import pytest

from template.bucket.background import Background, PausedSource, Stopped
from template.store.multipart import BytesSource

LIMIT_S = 30.0


@pytest.fixture
def notes() -> list[bool]:
    return []


@pytest.fixture
def background(notes) -> Iterator[Background]:
    made = Background(notes.append)
    yield made
    made.stop(LIMIT_S)


class Slow:
    """A job that is under way until `released`."""

    def __init__(self) -> None:
        self.begun, self.released = threading.Event(), threading.Event()
        self.runs = 0

    def __call__(self) -> None:
        self.runs += 1
        self.begun.set()
        assert self.released.wait(LIMIT_S)


def test_what_is_asked_for_during_a_job_is_done_once_afterwards(background, notes) -> None:
    job = Slow()
    for _ in range(5):
        background.start("job", job)
    assert job.begun.wait(LIMIT_S)
    job.released.set()
    background.wait_for("job")
    assert job.runs == 2
    assert notes == [True, False]
    background.start("job", job)
    background.wait_for("job")
    assert job.runs == 3


def test_jobs_stand_still_while_another_goes_first(background, notes) -> None:
    done: list[str] = []

    def job() -> None:
        background.give_way()
        done.append("job")

    with background.first():
        background.start("job", job)
        with background.first():
            pass
        assert notes == [], "nothing moves, so a clock may go on"
        done.append("vote")
    background.wait_for("job")
    assert done == ["vote", "job"]
    assert notes == [True, False]


def test_an_upload_in_parts_gives_way_between_two_parts(background) -> None:
    source = background.paced(BytesSource(bytes(range(100))))
    assert isinstance(source, PausedSource)
    assert source.num_bytes == 100
    read: list[bytes] = []
    with background.first():
        background.start("upload", lambda: read.append(source.read(10, 5)))
        assert read == []
    background.wait_for("upload")
    assert read == [bytes(range(10, 15))]


def test_a_stop_ends_a_job_between_two_pieces_and_starts_none(background, notes) -> None:
    begun, late = threading.Event(), threading.Event()

    def job() -> None:
        while True:
            background.give_way()
            begun.set()

    background.start("job", job)
    assert begun.wait(LIMIT_S)
    background.stop(LIMIT_S)
    background.wait_for("job")
    background.raise_failure()
    assert notes == [True, False]
    background.start("late", late.set)
    background.wait_for("late")
    assert not late.is_set()


def test_a_stop_ends_a_job_that_waits_for_its_turn(background) -> None:
    with background.first():
        background.start("job", background.give_way)
        background.stop(LIMIT_S)
        background.wait_for("job")
    with pytest.raises(Stopped, match="this node ends"):
        background.give_way()


def _raise_soon(background: Background) -> None:
    """The thread ends shortly after its job."""
    for _ in range(1000):
        background.raise_failure()
        threading.Event().wait(0.001)


def test_a_failure_is_kept_and_raised_once_in_the_loop(background) -> None:
    def fail() -> None:
        raise ValueError("a fault of the code")

    background.start("job", fail)
    background.wait_for("job")
    with pytest.raises(ValueError, match="a fault of the code"):
        _raise_soon(background)
    background.raise_failure()
    ran = threading.Event()
    background.start("job", ran.set)
    assert ran.wait(LIMIT_S), "the next start goes on"
