"""One rank of a few real processes that hold a model together, and what rank 0 does with them.

    python -m tests.support.rank_run STORY FOLDER

with the variables of torchrun. Rank 0 writes what it found into the folder.
"""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from simulation.swarm import small_plan, synthetic_corpus
from simulation.world import hotkey_of
from template.base.feedback import RETURNED_SHARE, ErrorFeedback
from template.cli.signals import end_process
from template.commands.plan import RunChoices, prepare_run
from template.errors import SubnetError, exit_status
from template.protocol.payload import (
    Payload,
    PayloadFormat,
    PayloadHeader,
    decode_payload,
    encode_payload,
)
from template.protocol.ranges import BlockRange
from template.protocol.spec import RunSpec
from template.ranks.crew import NO_MORE, Crew, Duties, follow
from template.ranks.group import Group, join
from template.ranks.loop import Orders
from template.settings import Place
from template.training.checkpoint import CheckpointWriter, LocalCheckpoint, load_local, save_local
from template.training.inner import InnerTrainer
from template.training.inner_loop import InnerResult
from template.training.model import initial_params, tensor_shapes
from template.training.options import InnerOptions
from template.training.outer import (
    OuterState,
    first_state,
    outer_step,
    params_digest,
    previewed_params,
    start_of_miner,
    updated_when_read,
)
from template.training.published import build_checkpoint
from template.training.scorer import Scorer
from template.training.spread import finite, norms_of, sample_of
from tests.support.outer_steps import decision_on, members_of
from tests.support.successions import successor

ROOT = Path(__file__).resolve().parents[2]
HANG_S = 120.0
STALL_LIMIT_S = 60.0
SEED = b"\7" * 32
HEADER = PayloadHeader(window=0, base_window=0, pages_consumed=1, public_key=b"k" * 32)
Tensors = Mapping[str, Tensor]


def run_spec(
    *, words: int | None = None, then: Mapping[str, object] | None = None, **changes: object
) -> RunSpec:
    """A model whose tensors have edges, and whose rows end between blocks and between ranks.

    `words`: of the model's vocabulary, whatever the dataset's. `then`: what a succession changes.
    """
    plan = small_plan(
        **{
            "model__hidden_size": 72,
            "model__intermediate_size": 200,
            "model__num_hidden_layers": 2,
            "data__page_tokens": 16,
            # The second of three steps rounds theta.
            "checkpoint__every_windows": 3,
            **changes,
        }
    )
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=16)
    spec = prepare_run(plan, synthetic_corpus(20_000), choices).spec
    if then is not None:
        return successor(spec, 1, **then)
    if words is None:
        return spec
    return dataclasses.replace(spec, model=dataclasses.replace(spec.model, vocab_size=words))


def format_of(spec: RunSpec) -> PayloadFormat:
    """A run that allows halves of its model."""
    return PayloadFormat(
        run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=spec.compression.top_k, max_parts=2
    )


def delta_of(form: PayloadFormat, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator) * 1e-3 for n, s in form.shapes.items()}


def batches_of(spec: RunSpec, seed: int, count: int = 3) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    shape = (spec.training.batch_pages, spec.data.page_tokens)
    return [generator.integers(0, spec.model.vocab_size, size=shape) for _ in range(count)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a neuron, of one process or of many ranks."""

    spec: RunSpec
    form: PayloadFormat
    place: Callable[[Tensors], Tensors]
    trainer: Callable[[], InnerTrainer]
    feedback: Callable[[Tensors], ErrorFeedback]
    load: Callable[[Path], LocalCheckpoint | None]
    scorer: Callable[[], Scorer]


def alone(spec: RunSpec, options: InnerOptions) -> Parts:
    form, decay = format_of(spec), spec.compression.error_feedback_decay
    return Parts(
        spec=spec,
        form=form,
        place=lambda tensors: tensors,
        trainer=lambda: InnerTrainer(spec, "cpu", options),
        feedback=lambda saved: ErrorFeedback(form, decay, saved),
        load=lambda path: load_local(path, spec),
        scorer=lambda: Scorer(spec, "cpu"),
    )


def together(crew: Crew, spec: RunSpec) -> Parts:
    decay = spec.compression.error_feedback_decay
    return Parts(
        spec=spec,
        form=format_of(spec),
        place=lambda tensors: crew.spreader.place(tensors.items()),
        trainer=crew.trainer,  # type: ignore[arg-type]
        feedback=lambda saved: crew.feedback(decay, saved, RETURNED_SHARE),  # type: ignore[arg-type,return-value]
        load=lambda path: load_local(path, spec, crew.spreader),
        scorer=crew.scorer,  # type: ignore[arg-type]
    )


def crew_of_one(
    more: Orders = NO_MORE,
    scoring_batch: int | None = None,
    *,
    keeps_on_device: bool = False,
    spec: RunSpec | None = None,
) -> tuple[Crew, Group]:
    """Rank 0 without another."""
    spec = spec or run_spec()
    duties = Duties(
        spec=spec,
        form=format_of(spec),
        device=torch.device("cpu"),
        options=InnerOptions(),
        scoring_batch=scoring_batch,
        keeps_on_device=keeps_on_device,
    )
    group = Group(Place())
    return Crew(group, duties, more), group


def tell_codec(parts: Parts, folder: Path) -> dict[str, object]:
    """Payloads, outer steps and questions: the same words from any number of ranks."""
    spec, form = parts.spec, parts.form
    state = first_state(parts.place(initial_params(spec, 3)), spec.run_id)
    feedback, said = parts.feedback({}), dict[str, object]()
    for window in range(4):
        frames = [
            feedback.encode(HEADER, parts.place(delta_of(form, 10 * window + uid)))
            for uid in range(3)
        ]
        payloads = {uid: decode_payload(frame, form) for uid, frame in enumerate(frames)}
        payloads[3] = half_payload_of(parts, 100 + window, window % 2)
        feedback.take_back(payloads[1])
        feedback.take_back(payloads[3])
        feedback.keep(parts.place(delta_of(form, 77)))
        eager = start_of_miner(state, [payloads[0], payloads[3]], spec)
        said[f"frames {window}"] = [frame.hex() for frame in frames]
        said[f"eager {window}"] = hash_of(eager)
        members = members_of(payloads)
        preview = previewed_params(state, members, payloads, spec)
        said[f"preview {window}"] = [hash_of(preview), hash_of({n: preview[n] for n in preview})]
        state = outer_step(state, decision_on(window, payloads), payloads, spec)
        said[f"state {window}"] = [
            params_digest(state).hex(),
            state.root.hex(),
            sample_of(state.params, SEED).hex(),
            norms_of(state.params),
            finite(state.params),
        ]
    state = outer_step(state, decision_on(4, ()), {}, spec)
    said["rounded without payloads"] = params_digest(state).hex()
    said["feedback"] = hash_of(feedback.tensors)
    said["read"] = hash_of({name: state.params[name] for name in sorted(state.params)})
    said["saved"] = list(saved_anew(parts, state, folder))
    return said


def saved_anew(parts: Parts, state: OuterState, folder: Path) -> Iterator[str]:
    """An anchor, written and read."""
    path = folder / "anchor.safetensors"
    save_local(path, LocalCheckpoint(state=state), parts.spec.run_id)
    again = parts.load(path)
    assert again is not None
    yield params_digest(again.state).hex()


def hash_of(tensors: Tensors) -> str:
    """As theta is hashed, of tensors wherever they lie."""
    return params_digest(dataclasses.replace(EMPTY, params=tensors)).hex()


EMPTY = OuterState(window=1, params={}, root=b"", initial_norms={})


def tell_training(parts: Parts, folder: Path) -> dict[str, object]:
    """A window from what is saved in the folder, or from theta_0, and the state saved after it."""
    spec, path = parts.spec, folder / "node.safetensors"
    checkpoint = parts.load(path)
    if checkpoint is None:
        state = first_state(parts.place(initial_params(spec, 3)), spec.run_id)
        checkpoint = LocalCheckpoint(state=state)
    trainer, feedback = parts.trainer(), parts.feedback(checkpoint.groups.get("feedback", {}))
    trainer.load_moments(checkpoint.groups.get("moments", {}))
    window = int(checkpoint.values.get("window", 0))
    payload = payload_of(parts, 5)
    start = start_of_miner(checkpoint.state, [payload], spec)
    factors = dict.fromkeys(parts.form.shapes, 0.1)
    goal = updated_when_read(checkpoint.state.params, [(payload, factors)], is_short=True)
    goals = iter([None, goal])
    result: InnerResult = trainer.train(
        start, window + 2, batches_of(spec, window), lambda: False, lambda: next(goals, None)
    )
    delta = {name: result.pseudo_gradient[name].clone() for name in result.pseudo_gradient}
    save_file(delta, folder / f"delta-{window}")
    frame = feedback.encode(HEADER, result.pseudo_gradient)
    after = LocalCheckpoint(
        state=checkpoint.state,
        groups={"moments": trainer.moments(), "feedback": feedback.tensors},
        values={"window": window + 1},
    )
    CheckpointWriter(path, spec.run_id).save(after)
    return {
        "window": window,
        "loss": result.mean_loss,
        "steps": result.steps,
        "moved_at": result.moved_at,
        "frame": frame.hex(),
    }


def tell_scores(parts: Parts, folder: Path) -> dict[str, object]:
    """Losses of a validator's window at a saved theta, and whether every bit is restored."""
    spec, path = parts.spec, folder / "validator.safetensors"
    checkpoint = parts.load(path)
    if checkpoint is None:
        checkpoint = LocalCheckpoint(
            state=first_state(parts.place(initial_params(spec, 3)), spec.run_id)
        )
    before, scorer, pages = checkpoint.state, parts.scorer(), pages_of(spec)
    payloads = {uid: payload_of(parts, uid) for uid in range(3)}
    payloads[3] = half_payload_of(parts, 3, 1)
    window = before.window - 1
    after = outer_step(before, decision_on(window, payloads), payloads, spec)
    scorer.load_half_way(before.params, after.params)
    said: dict[str, object] = {
        "half way": scorer.losses(pages).tolist(),
        "half way theta": hash_of(scorer.params()),
    }
    scorer.load(after.params)
    said |= {"theta": hash_of(after.params), "loaded": hash_of(scorer.params())}
    said["before"] = scorer.losses(pages).tolist()
    for uid, payload in payloads.items():
        factors = dict.fromkeys(payload.norms, 0.1 * (uid + 1))
        with scorer.stepped_by(payload, factors):
            said[f"after {uid}"] = scorer.losses(pages).tolist()
            said[f"stepped {uid}"] = hash_of(scorer.params())
        assert hash_of(scorer.params()) == hash_of(after.params)
    for name in ("in the block", "without a factor"):
        with suppress(ArithmeticError, KeyError):
            factors = dict.fromkeys(payloads[0].norms, 0.3)
            if name == "without a factor":
                factors.popitem()
            with scorer.stepped_by(payloads[0], factors):
                raise ArithmeticError(name)
        said[name] = hash_of(scorer.params())
    said["again"] = scorer.losses(pages).tolist()
    said["few"] = scorer.losses(pages[:1]).tolist()
    said["none"] = scorer.losses(pages[:0]).tolist()
    CheckpointWriter(path, spec.run_id).save(LocalCheckpoint(state=after))
    return said


def pages_of(spec: RunSpec) -> np.ndarray:
    """More than a pass of any number of ranks, and no multiple of one."""
    shape = (157, spec.data.page_tokens)
    return np.random.default_rng(11).integers(0, spec.model.vocab_size, size=shape)


def tell_published(parts: Parts, _folder: Path) -> dict[str, object]:
    """A published checkpoint."""
    spec = parts.spec
    state = first_state(parts.place(initial_params(spec, 3)), spec.run_id)
    published = build_checkpoint(state, spec)
    blobs = {
        digest.hex(): hashlib.sha256(data).hexdigest() for digest, data in published.blobs.items()
    }
    assert all(digest == found for digest, found in blobs.items())
    sources = {digest: make() for digest, make in published.parts.items()}
    return {
        "manifest": published.manifest.decode(),
        "sources": {
            d.hex(): source.read(0, source.num_bytes).hex() for d, source in sources.items()
        },
    }


def tell_saved(parts: Parts, folder: Path) -> dict[str, object]:
    """What is saved in the folder, taken up and saved again."""
    found = parts.load(folder / "node.safetensors")
    assert found is not None
    trainer, feedback = parts.trainer(), parts.feedback(found.groups["feedback"])
    trainer.load_moments(found.groups["moments"])
    again = LocalCheckpoint(
        state=found.state,
        groups={"moments": trainer.moments(), "feedback": feedback.tensors},
        values=found.values,
    )
    CheckpointWriter(folder / "again.safetensors", parts.spec.run_id).save(again)
    return {}


def payload_of(parts: Parts, seed: int) -> Payload:
    form = parts.form
    frame = ErrorFeedback(form, 0.0, {}).encode(HEADER, delta_of(form, seed))
    return decode_payload(frame, form)


def half_payload_of(parts: Parts, seed: int, half: int) -> Payload:
    """A payload of one half of the model."""
    form = parts.form
    header = dataclasses.replace(HEADER, blocks=BlockRange(part=half, parts=2))
    frame = encode_payload(header, delta_of(form, seed), form)[0]
    return decode_payload(frame, form)


def tell_forever(parts: Parts, folder: Path) -> dict[str, object]:
    """Asks again and again, until a rank ends; or idles, after a file says so."""
    theta = parts.place(initial_params(parts.spec, 3))
    (folder / "ready").touch()
    while True:
        if (folder / "idle").exists():
            time.sleep(HANG_S)
        finite(theta)


STORIES: Mapping[str, Callable[[Parts, Path], dict[str, object]]] = {
    "codec": tell_codec,
    "training": tell_training,
    "saved": tell_saved,
    "scores": tell_scores,
    "published": tell_published,
    "forever": tell_forever,
}


def duties_of(folder: Path) -> Duties:
    wishes = json.loads((folder / "wishes.json").read_text())
    spec = run_spec(**wishes["spec"])
    return Duties(
        spec=spec,
        form=format_of(spec),
        device=torch.device("cpu"),
        options=InnerOptions(**wishes["options"]),
        keeps_on_device=wishes["keeps_on_device"],
    )


def main(story: str, folder: Path) -> int:
    torch.set_num_threads(1)
    duties = duties_of(folder)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    place = Place(rank=rank, size=size, local_rank=rank)
    try:
        group = join(place, "cpu", meeting=folder / "meeting", stall_limit_s=STALL_LIMIT_S)
        if place.rank:
            follow(group, duties)
            return 0
        crew = Crew(group, duties)
        said = STORIES[story](together(crew, duties.spec), folder)
        (folder / f"{story}.json").write_text(json.dumps(said))
        crew.end()
    except SubnetError as error:
        sys.stderr.write(f"{error}\n")
        return exit_status(error)
    return 0


@contextmanager
def ranks_of(
    story: str,
    ranks: int,
    folder: Path,
    *,
    spec: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
    keeps_on_device: bool = False,
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes of a story; killed at the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    wishes = {
        "spec": dict(spec or {}),
        "options": dict(options or {}),
        "keeps_on_device": keeps_on_device,
    }
    (folder / "wishes.json").write_text(json.dumps(wishes))
    (folder / "meeting").unlink(missing_ok=True)
    running = []
    for rank in range(ranks):
        names = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank}
        env = os.environ | {name: str(number) for name, number in names.items()}
        command = [sys.executable, "-m", "tests.support.rank_run", story, str(folder)]
        with (folder / f"rank-{rank}.log").open("wb") as out:
            running.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=out, stderr=out))
    try:
        yield running
    finally:
        for process in running:
            process.send_signal(signal.SIGKILL)
            process.wait()


def told(
    story: str,
    ranks: int,
    folder: Path,
    *,
    spec: Mapping[str, object] | None = None,
    options: Mapping[str, object] | None = None,
    keeps_on_device: bool = False,
) -> dict[str, object]:
    """What rank 0 of so many processes found; of 1 rank, this process without any."""
    if ranks == 1:
        folder.mkdir(parents=True, exist_ok=True)
        parts = alone(run_spec(**(spec or {})), InnerOptions(**(options or {})))  # type: ignore[arg-type]
        said = STORIES[story](parts, folder)
        return dict(json.loads(json.dumps(said)))
    with ranks_of(
        story, ranks, folder, spec=spec, options=options, keeps_on_device=keeps_on_device
    ) as running:
        ends = [process.wait(HANG_S) for process in running]
    assert ends == [0] * ranks, logs_of(folder)
    return dict(json.loads((folder / f"{story}.json").read_text()))


def logs_of(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("rank-*.log")))


def words(argv: Sequence[str]) -> tuple[str, Path]:
    return argv[1], Path(argv[2])


if __name__ == "__main__":
    end_process(main(*words(sys.argv)))
