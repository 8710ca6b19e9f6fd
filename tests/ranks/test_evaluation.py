"""Scoring on several real processes, over gloo: as one device's, and theta put back to the bit."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from template.errors import RankLost
from template.protocol.spec import ChatSpec
from template.training.inner import InnerTrainer
from template.training.model import initial_params
from template.training.outer import first_state
from template.training.published import build_checkpoint
from template.training.scorer import Scorer
from tests.support.rank_run import (
    crew_of_one,
    hash_of,
    pages_of,
    payload_of,
    run_spec,
    tell_scores,
    together,
    told,
)

CHAT = ChatSpec(system=1, user=5, assistant=2, end=3)
LARGE = {"words": 2**14, "model__tie_word_embeddings": False}
"""Losses in chunks, and an output layer of its own."""


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    """FSDP2's own group, which `Group.connect` makes of several ranks."""
    store = FileStore(str(tmp_path / "group"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def losses_in(said: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in said.items() if isinstance(value, list)}


def assert_same(many: dict[str, Any], one: dict[str, Any], tolerance: float) -> float:
    """The same parameters to the bit, and losses within the audit's tolerance; the difference."""
    assert {n: v for n, v in many.items() if isinstance(v, str)} == {
        n: v for n, v in one.items() if isinstance(v, str)
    }
    ours, theirs = losses_in(many), losses_in(one)
    assert ours.keys() == theirs.keys()
    apart = [float(np.abs(ours[n] - theirs[n]).max(initial=0.0)) for n in ours]
    assert max(apart) < tolerance
    assert (ours["again"] == ours["before"]).all()
    assert (ours["after 0"] != ours["before"]).any()
    return max(apart)


@pytest.mark.usefixtures("group_of_one")
def test_one_rank_scores_as_one_process(tmp_path: Path) -> None:
    crew, _ = crew_of_one()
    (tmp_path / "crew").mkdir()
    spec = run_spec()
    said = tell_scores(together(crew, spec), tmp_path / "crew")
    one = told("scores", 1, tmp_path / "alone")
    assert_same(said, one, spec.evaluation.loss_tolerance)
    assert said["theta"] == said["loaded"] == said["in the block"] == said["without a factor"]


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("words", [None, 2**14])
def test_answers_count_on_ranks_as_in_one_process(words: int | None) -> None:
    """In scoring and in training, with all logits at once and in chunks."""
    spec = run_spec(words=words)
    chat = replace(spec, data=replace(spec.data, chat=CHAT))
    theta, pages = initial_params(spec, 3), pages_of(run_spec())[:37]
    pages[::2, 3], pages[:, 9] = CHAT.assistant, CHAT.end
    crew, _ = crew_of_one(scoring_batch=8, spec=chat)
    placed = crew.spreader.place(theta.items())
    scorer, alone = crew.scorer(), Scorer(spec, "cpu")
    scorer.load(placed)
    alone.load(theta)
    found = scorer.part_losses(pages, 4, CHAT)
    assert np.abs(found - alone.part_losses(pages, 4, CHAT)).max() < 1e-5
    assert np.abs(found - alone.part_losses(pages, 4)).max() > 1e-3
    deltas = [
        dict(trainer.train(start, 2, [pages[:8]], lambda: False).pseudo_gradient)
        for trainer, start in (
            (crew.trainer(), placed), (InnerTrainer(chat, "cpu"), theta),
            (InnerTrainer(spec, "cpu"), theta),
        )
    ]  # fmt: skip
    ranks, one, whole = (each["model.norm.weight"] for each in deltas)
    torch.testing.assert_close(ranks, one, rtol=1e-3, atol=1e-7)
    assert not torch.allclose(ranks, whole, rtol=1e-3, atol=1e-7)


@pytest.mark.usefixtures("group_of_one")
def test_a_step_without_all_factors_moves_nothing_and_leaves_the_ranks_in_step() -> None:
    crew, _ = crew_of_one()
    spec = run_spec()
    parts = together(crew, spec)
    scorer, payload = crew.scorer(), payload_of(parts, 1)
    theta = parts.place(initial_params(spec, 3))
    scorer.load(theta)
    factors = dict.fromkeys(payload.norms, 0.3)
    factors.popitem()
    with pytest.raises(KeyError), scorer.stepped_by(payload, factors):
        pytest.fail("the block must not run")
    assert hash_of(scorer.params()) == hash_of(theta)


@pytest.mark.usefixtures("group_of_one")
def test_only_the_moved_values_are_noted() -> None:
    """No second theta: as many notes as a payload keeps values, and none after the block."""
    crew, _ = crew_of_one()
    spec = run_spec()
    parts = together(crew, spec)
    scorer, payload = crew.scorer(), payload_of(parts, 1)
    scorer.load(parts.place(initial_params(spec, 3)))
    with scorer.stepped_by(payload, dict.fromkeys(payload.norms, 0.3)):
        moved = crew.team._first._orders["score_back"].__self__._moved  # type: ignore[attr-defined]
        assert sum(before.numel() for _, before in moved.values()) == payload.plan.num_kept
    assert not crew.team._first._orders["score_back"].__self__._moved  # type: ignore[attr-defined]


@pytest.mark.usefixtures("group_of_one")
def test_a_rank_whose_device_is_full_says_what_to_do() -> None:
    crew, _ = crew_of_one({"score_pages": _full})
    scorer = crew.scorer()
    with pytest.raises(RankLost, match=r"rank 0: .*4 GiB.*--neuron\.scoring_batch"):
        scorer.losses(pages_of(run_spec()))


def _full(_values: object, _given: object) -> bytes:
    raise torch.OutOfMemoryError("4 GiB asked for")


@pytest.mark.usefixtures("group_of_one")
def test_passes_leave_nothing_behind_in_the_cut_model() -> None:
    """FSDP2 notes each layer of a pass for a backward pass, which a validator never makes."""
    crew, _ = crew_of_one(scoring_batch=4)
    scorer, pages = crew.scorer(), pages_of(run_spec())
    scorer.losses(pages)
    root = crew.team._first._orders["score_pages"].__self__._root  # type: ignore[attr-defined]
    notes = root._get_fsdp_state()._fsdp_param_group.comm_ctx.post_forward_order
    assert len(notes) == 0


@pytest.mark.usefixtures("group_of_one")
def test_a_wished_number_of_pages_is_of_each_device() -> None:
    assert crew_of_one()[0].scorer().batch_pages == Scorer(run_spec(), "cpu").batch_pages
    crew, _ = crew_of_one(scoring_batch=5)
    assert crew.scorer().batch_pages == 5


def test_a_checkpoint_reads_every_tensor_as_often_as_it_is_needed() -> None:
    """Once for the digests, once for the upload: no tensor comes here for its shape."""
    given: list[str] = []

    def note(values: Mapping[str, Any], given_to: Any) -> Any:
        given.append(values["name"])
        return shelf.give(values, given_to)

    crew, _ = crew_of_one({"give": note})
    shelf = crew.team._first._orders["drop"].__self__  # type: ignore[attr-defined]
    spec = run_spec()
    theta = initial_params(spec, 3)
    state = first_state(crew.spreader.place(theta.items()), spec.run_id)
    published = build_checkpoint(state, spec)
    assert sorted(given) == sorted(theta)
    for make in published.parts.values():
        make()
    assert sorted(given) == sorted([*theta, *theta])
    assert published == build_checkpoint(first_state(theta, spec.run_id), spec)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "changes"), [(2, {}), (3, {}), (3, LARGE), (2, {"model__architecture": "qwen3"})]
)
def test_ranks_score_as_one_process(ranks: int, changes: dict[str, Any], tmp_path: Path) -> None:
    """Half-way states, theta, three steps; then the next window from the state that was saved."""
    tolerance = run_spec(**changes).evaluation.loss_tolerance
    for _window in range(2):
        one = told("scores", 1, tmp_path / "alone", spec=changes)
        many = told("scores", ranks, tmp_path / "many", spec=changes)
        assert_same(many, one, tolerance)
        assert many["theta"] == many["loaded"] == many["in the block"]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3)])
def test_another_number_of_ranks_takes_the_next_window(
    before: int, after: int, tmp_path: Path
) -> None:
    spec = run_spec()
    one = [told("scores", 1, tmp_path / "alone") for _ in range(2)][1]
    told("scores", before, tmp_path / "many")
    many = told("scores", after, tmp_path / "many")
    assert_same(many, one, spec.evaluation.loss_tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_publish_the_bytes_of_one_process(ranks: int, tmp_path: Path) -> None:
    said = told("published", ranks, tmp_path / "ranks")
    assert said == told("published", 1, tmp_path / "alone")
