"""A model in bands of ranks: the words of one process, from one rank and from several processes."""

import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from compression import encode
from template.base.feedback import ErrorFeedback
from template.errors import EXIT_OPERATOR, ConfigError, RankLost, StateError, exit_status
from template.protocol.payload import Payload, decode_payload, frame_of
from template.protocol.root import tensors_digest
from template.protocol.spec import RunSpec
from template.ranks.group import Group, device_of
from template.ranks.loop import serve
from template.settings import Place
from template.training.checkpoint import CheckpointWriter, LocalCheckpoint
from template.training.model import initial_params
from template.training.optimizer import state_shapes
from template.training.outer import apply_updates, first_state, updated_when_read
from tests.support.rank_run import (
    HANG_S,
    HEADER,
    crew_of_one,
    delta_of,
    format_of,
    run_spec,
    tell_codec,
    together,
    told,
)


@pytest.mark.parametrize("keeps_on_device", [False, True])
def test_one_rank_says_what_one_process_says(keeps_on_device: bool, tmp_path: Path) -> None:
    """Also with what runs on a device (`--neuron.offload device`), here on the CPU's tensors."""
    crew, _ = crew_of_one(keeps_on_device=keeps_on_device)
    (tmp_path / "crew").mkdir()
    said = tell_codec(together(crew, run_spec()), tmp_path / "crew")
    assert said == told("codec", 1, tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("keeps_on_device", [False, True])
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_say_what_one_process_says(ranks: int, keeps_on_device: bool, tmp_path: Path) -> None:
    """Frames, parameters, roots, samples, norms, feedback and what is saved: equal bytes."""
    said = told("codec", ranks, tmp_path / "ranks", keeps_on_device=keeps_on_device)
    assert said == told("codec", 1, tmp_path / "alone")


def test_what_nobody_refers_to_is_forgotten_by_the_ranks() -> None:
    crew, _ = crew_of_one()
    orders = crew.team._first._orders
    shelf = orders["drop"].__self__  # type: ignore[attr-defined]
    theta = crew.spreader.place(initial_params(run_spec(), 1).items())
    assert list(shelf.bands) == [theta.number]
    del theta
    other = crew.spreader.place({"a": torch.zeros(3)}.items())
    assert list(shelf.bands) == [other.number]


def test_tensors_of_this_process_are_handed_out_before_they_are_encoded() -> None:
    """As the ranks' own bands are: nothing forgets the bands before the order that reads them."""
    crew, _ = crew_of_one()
    form = format_of(run_spec())
    parts = together(crew, run_spec())
    plain, spread = (parts.feedback({}) for _ in range(2))
    deltas = delta_of(form, 7)
    assert plain.encode(HEADER, deltas) == spread.encode(HEADER, parts.place(deltas))


def test_moments_of_one_process_reach_the_ranks() -> None:
    """An index file holds small moments, and format 3 all moments, as whole tensors."""
    found: list[list[str]] = []

    def load(values: Mapping[str, Any], _given: object) -> None:
        found.append(sorted(shelf.bands[values["number"]]))

    crew, _ = crew_of_one({"load_moments": load})
    shelf = crew.team._first._orders["drop"].__self__  # type: ignore[attr-defined]
    moments = {
        n: torch.zeros(s)
        for n, s in state_shapes(run_spec().training, format_of(run_spec()).shapes).items()
    }
    crew.trainer().load_moments(moments)
    assert found == [sorted(moments)]


def test_after_an_error_in_the_middle_of_an_order_the_ranks_take_no_more() -> None:
    crew, _ = crew_of_one()
    with pytest.raises(KeyError):
        crew.team.tell("give", number=99, name="a", shape=(1,))
    with pytest.raises(RankLost, match="out of step after KeyError"):
        crew.team.tell("zeros", number=1)


class Ordering(Group):
    """A group whose rank 0 gives one order."""

    def broadcast(self, data: bytes = b"") -> bytes:
        return b'{"order": "begin", "values": {}, "dropped": [], "answer": ""}'


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.OutOfMemoryError("4 GiB asked for"),
            r"rank 1: .*4 GiB asked for.*--neuron\.offload",
        ),
        (RuntimeError("no kernel"), "rank 1 ends: no kernel"),
    ],
)
def test_a_rank_that_ends_by_itself_blames_no_other_rank(error: Exception, words: str) -> None:
    def begin(_values: object, _given: object) -> None:
        raise error

    with pytest.raises(RankLost, match=words):
        serve(Ordering(Place(rank=1, size=2)), {"begin": begin})


def test_a_refused_disk_leaves_the_ranks_in_step(tmp_path: Path) -> None:
    crew, _ = crew_of_one()
    theta = crew.spreader.place({"a": torch.ones(3)}.items())
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="rank 0: --neuron.state_dir") as caught:
        theta.save(tmp_path / "file", "theta", {})
    assert exit_status(caught.value) == EXIT_OPERATOR
    assert theta.are_finite()
    with pytest.raises(ValueError, match="cannot be read"):
        crew.spreader.read([tmp_path / "file"])
    assert torch.equal(theta["a"], torch.ones(3))


def test_a_state_that_a_rank_cannot_see_is_not_advised_away(tmp_path: Path) -> None:
    crew, _ = crew_of_one()
    with pytest.raises(StateError, match="put the state folder on storage that all ranks see"):
        crew.spreader.read([tmp_path / "none"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(StateError, match="cannot be read") as caught:
        crew.spreader.read([tmp_path / "folder"])
    assert "remove it to join anew" not in str(caught.value)


def test_a_save_that_a_rank_cannot_finish_leaves_no_file_behind(tmp_path: Path) -> None:
    """Planted as a limit on the size of files, which the kernel refuses like a full disk."""
    crew, _ = crew_of_one()
    spec = run_spec()
    theta, newer = (crew.spreader.place(initial_params(spec, n).items()) for n in range(2))
    saved, after = (LocalCheckpoint(state=first_state(p, spec.run_id)) for p in (theta, newer))
    writer = CheckpointWriter(tmp_path / "node.safetensors", spec.run_id)
    writer.save(saved)
    before = sorted(tmp_path.rglob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(StateError, match="free the disk"):
            writer.save(after)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.rglob("*")) == before


def test_ranks_take_the_devices_of_their_numbers() -> None:
    place = Place(rank=3, size=4, local_rank=1)
    assert device_of("cpu", place) == "cpu"
    assert device_of("cuda", place) == "cuda:1"
    assert device_of("cuda:0", Place()) == "cuda:0"
    for name in ("cuda:0", "mps"):
        with pytest.raises(ConfigError, match="cannot share one device"):
            device_of(name, place)


def test_rank_0_takes_its_leave_after_the_slowest_rank(tmp_path: Path) -> None:
    """Else a good end of a run is an error on a rank that comes to its own end a moment later."""
    code = (
        "import os, sys, time; from pathlib import Path; from template.ranks.group import join; "
        "from template.settings import Place; rank = int(sys.argv[1]); "
        "place = Place(rank=rank, size=2, local_rank=rank); "
        "group = join(place, 'cpu', meeting=Path(sys.argv[2]), stall_limit_s=60.0); "
        "time.sleep(rank); group.leave(); os._exit(0)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(rank), str(tmp_path / "meeting")])
        for rank in range(2)
    ]
    assert [process.wait(HANG_S) for process in running] == [0, 0]


def payload_of(spec: RunSpec, seed: int) -> Payload:
    form = format_of(spec)
    body = encode(delta_of(form, seed), form.plan)
    return decode_payload(frame_of(HEADER, body, form), form)


def test_payloads_of_the_spec_before_are_applied_by_the_ranks() -> None:
    """A succession has changed top_k, and the ranks were started again by the new spec."""
    before, after = run_spec(), run_spec(then={"compression__top_k": 32})
    assert before.compression.top_k != after.compression.top_k
    own = [payload_of(before, 1), payload_of(before, 2), payload_of(after, 3)]
    updates = [(p, dict.fromkeys(p.norms, 0.5)) for p in own]
    params = initial_params(after, 3)
    crew, _ = crew_of_one(spec=after)
    parts = together(crew, after)
    spread = parts.place(params)
    for is_short in (False, True):
        expected = tensors_digest(apply_updates(params, updates, is_short=is_short))
        made = apply_updates(spread, updates, is_short=is_short)
        read = updated_when_read(spread, updates, is_short=is_short)
        here = updated_when_read(params, updates, is_short=is_short)
        for found in (made, read, here):
            tensors = {name: found[name] for name in params}
            assert tensors_digest(tensors) == expected
    assert expected != tensors_digest(params)
    feedback, plain = parts.feedback({}), ErrorFeedback(format_of(after), 0.9, {})
    for one in (feedback, plain):
        one.take_back(own[0])
    taken = {name: feedback.tensors[name] for name in params}
    assert tensors_digest(taken) == tensors_digest(plain.tensors)
