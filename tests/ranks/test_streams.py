"""Two streams of orders: training and what goes on beside it hold each other up in nothing."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from template.errors import RankLost
from template.ranks.crew import Crew
from template.training.model import initial_params
from tests.support.rank_run import HEADER, crew_of_one, delta_of, format_of, run_spec, together
from tests.support.waiting import HANG_S


def _shelf(crew: Crew) -> Any:
    return crew.team._first._orders["drop"].__self__  # type: ignore[attr-defined]


def test_a_long_order_of_one_stream_holds_up_no_order_of_the_other() -> None:
    begun, go_on = Event(), Event()

    def stand(_values: Mapping[str, Any], _given: object) -> None:
        begun.set()
        assert go_on.wait(HANG_S)

    crew, _ = crew_of_one({"stand": stand})
    theta = crew.spreader.place(initial_params(run_spec(), 1).items())
    crew.split()

    def train() -> None:
        with crew.training():
            crew.team.tell("stand")

    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train)
        assert begun.wait(HANG_S)
        assert theta.are_finite()
        digest = theta.digest()
        assert not training.done()
        go_on.set()
        training.result(HANG_S)
    assert theta.digest() == digest


def test_what_one_stream_made_the_other_reads_and_both_must_drop_it() -> None:
    crew, _ = crew_of_one()
    form = format_of(run_spec())
    shelf = _shelf(crew)
    crew.split()
    theta = crew.spreader.place(initial_params(run_spec(), 1).items())
    feedback = together(crew, run_spec()).feedback({})
    with crew.training():
        frame = feedback.encode(HEADER, delta_of(form, 7))
    assert frame
    number = theta.number
    assert number in shelf.bands
    del theta
    crew.team.call("nothing")
    assert number in shelf.bands, "training may be about to read it"
    with crew.training():
        crew.team.call("nothing")
    assert number not in shelf.bands
    assert not shelf._dropped_once


def test_what_training_drops_is_passed_on_at_once() -> None:
    """Else pseudo-gradients would stay until the next outer step."""
    crew, _ = crew_of_one()
    shelf = _shelf(crew)
    crew.split()
    with crew.training():
        made = crew.spreader.place({"a": torch.ones(3)}.items())
        number = made.number
        del made
        crew.team.call("nothing")
    assert number not in shelf.bands


@pytest.fixture
def _one_process(tmp_path) -> Iterator[None]:
    """FSDP2 asks for a group, be it of one process."""
    dist.init_process_group(
        "gloo", store=FileStore(str(tmp_path / "meeting"), 1), rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
def test_moments_are_copied_where_the_device_trains_on(tmp_path) -> None:
    """What is saved is what was copied, whatever the next step makes of the moments."""
    crew, _ = crew_of_one()
    trainer = crew.trainer()
    spec = run_spec()
    theta = crew.spreader.place(initial_params(spec, 1).items())
    pages = torch.zeros((2, spec.data.page_tokens), dtype=torch.int64).numpy()
    trainer.train(theta, 0, [pages], lambda: False)
    made = trainer.moments()
    crew.team.call("copy_moments", number=made.number)  # type: ignore[attr-defined]
    live = trainer.moments()
    files = [f.save(tmp_path, name, {}) for name, f in {"before": made}.items()]  # type: ignore[attr-defined]
    trainer.train(theta, 1, [pages], lambda: False)
    files += [made.save(tmp_path, "copied", {}), live.save(tmp_path, "live", {})]  # type: ignore[attr-defined]
    before, copied, now = ((tmp_path / f[0].name).read_bytes() for f in files)
    assert before == copied
    assert before != now


def test_an_error_in_one_stream_ends_both() -> None:
    crew, _ = crew_of_one()
    crew.split()
    with pytest.raises(KeyError):
        crew.team.tell("give", number=99, name="a", shape=(1,))
    with crew.training(), pytest.raises(RankLost, match="out of step after KeyError"):
        crew.team.tell("zeros", number=1)
