"""The plan's stability is measured on real neurons: a small plan shows each of its figures."""

import pytest
import torch

from benchmarks.learning.plan_stability import HONEST, NOISE, UIDS, lines_of, play
from simulation.swarm import small_plan, synthetic_corpus


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_honest_payloads_are_accepted_and_noise_is_not(monkeypatch) -> None:
    monkeypatch.setattr(
        "benchmarks.learning.plan_stability.load_corpus", lambda _text: synthetic_corpus()
    )
    played = play(small_plan(schedule__num_windows=4, training__inner_steps=12), seed=1)
    honest_uids = {UIDS[name] for name in HONEST}
    assert sorted(played.accepted) == [0, 1, 2, 3]
    assert all(UIDS[NOISE] not in uids for uids in played.accepted.values())
    assert sum(len(uids & honest_uids) for uids in played.accepted.values()) >= 12
    assert played.losses[5] < played.losses[2]
    *windows, summary = lines_of(played)
    assert [line.split(":")[0] for line in windows] == [f"window {w}" for w in range(4)]
    assert "noise accepted in 0 windows, paid in 0 settings of weights" in summary
    assert f"final loss {played.losses[5]:.3f}" in summary
