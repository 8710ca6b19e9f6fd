# ruff: noqa
"""Attack F: commit the victim's NEXT payload one window ahead (positions alone matter).

A payload of window w that shares more than `max_overlap` of its positions with the victim's
payload of w + 1 makes the victim's a repeat: refused, worst gain. Overlaps per window, with what
the stranger knows: exact (order known) or tracked (mean of four orders, persistent).
"""

import sys
import numpy as np, torch
from benchmarks.evaluation.repetition import *
from benchmarks.evaluation.repetition import _shuffled, _share, _pages, _member


def main(num_windows: int, M: int, steps: int = 0) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    corpus, plan = load_corpus(TEXT), load_plan(ROOT / "runs" / "localnet.toml")
    if steps:
        plan["training"]["inner_steps"] = steps
    run = prepare_run(plan, corpus, RunChoices(owner_hotkey=OWNER, start_block=100))
    spec, random = run.spec, np.random.default_rng(3)
    form = PayloadFormat(
        run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=spec.compression.top_k
    )
    text = _pages(corpus.train, spec.data.page_tokens)
    theta0 = parse_params(run.blobs[bytes.fromhex(spec.checkpoint.theta0_digest)], spec)
    state = first_state(theta0, spec.run_id)
    miners = [Learner(spec=spec, form=form, text=text) for _ in range(4)]
    tracked = miners[0].copy()
    forecasts = {}
    for window in range(num_windows):
        shape = (4, spec.training.pages_per_window)
        assigned = random.integers(0, len(text), shape)
        trained = [_shuffled(ids, random, spec) for ids in assigned]
        start = miners[0].copy()
        orders = [_shuffled(assigned[0], random, spec) for _ in range(4)]
        learners = [tracked.copy() for _ in orders]
        guesses = [l.train(state, window, ids) for l, ids in zip(learners, orders, strict=True)]
        mean = {n: torch.stack([g[n] for g in guesses]).mean(dim=0) for n in guesses[0]}
        sent = [
            m.send(window, m.train(state, window, ids))
            for m, ids in zip(miners, trained, strict=True)
        ]
        own = payload_positions(sent[0], form)
        print(
            window,
            {k: _share(own, v) for k, v in forecasts.items()},
            "same window, tracked, mean of 4:",
            _share(own, payload_positions(tracked.copy().send(window, mean), form)),
            "one:",
            _share(own, payload_positions(tracked.copy().send(window, guesses[0]), form)),
            flush=True,
        )
        # forecast for window + 1, made before this window's payloads are revealed
        exact = miners[0].copy()  # knows all: EF after this window
        guess = tracked.copy()
        guess.trainer.load_moments(learners[0].trainer.moments())
        guess.send(window, mean)  # EF after the guessed payload
        forecasts = {}
        for name, who in (("exact", exact), ("tracked", guess)):
            for many in (1, M):
                others = [
                    who.copy().train(state, window + 1, random.integers(0, len(text), shape[1]))
                    for _ in range(many)
                ]
                avg = {n: torch.stack([g[n] for g in others]).mean(dim=0) for n in others[0]}
                forecasts[f"{name}/{many}"] = payload_positions(
                    who.copy().send(window + 1, avg), form
                )
            nothing = {n: torch.zeros_like(t) for n, t in avg.items()}
            forecasts[f"{name}/EF alone"] = payload_positions(
                who.copy().send(window + 1, nothing), form
            )
        # after the reveal: true sent payload is known
        for name, t in tracked.feedback.tensors.items():
            t.mul_(spec.compression.error_feedback_decay).add_(mean[name])
        for name, sparse in sent[0].tensors.items():
            sparse.add_to(tracked.feedback.tensors[name], coefficient=-1.0)
        tracked.trainer.load_moments(guess.trainer.moments())
        members = [_member(uid, payload) for uid, payload in enumerate(sent)]
        state = first_state(
            expected_params(state, members, dict(enumerate(sent)), spec), spec.run_id
        )


if len(sys.argv) > 4:  # steps per shuffled block
    import benchmarks.evaluation.repetition as rep

    rep.MAX_BLOCK_STEPS, rep.BLOCKS_PER_WINDOW = int(sys.argv[4]), 1
main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
