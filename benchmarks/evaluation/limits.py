"""What scoring a window costs, against the number of payloads and the size of the model.

    python -m benchmarks.evaluation.limits            five sizes, to 256 payloads (three minutes)
    python -m benchmarks.evaluation.limits --quick    two sizes, to 64 payloads

Processor seconds of one thread: a busy machine takes up to 1.5 times as many. Timed are the
functions that a validator calls: decoding and its checks, overlap with the window's payloads and
those of four windows before, a step and its restoration for each payload, forward passes, and what
follows from the losses (verdicts, ratings, weights). Fetching is not in it: half of a validator's
budget is for that.

A window of I payloads takes 2 + I times the forward passes over the held-out pages (at theta,
half-way through the last step, after each payload's step), and two times those over the claims of
each payload (at theta, after its step). The passes over one of each are timed once for a model.
Numbers of pages are the localnet's.

Beside it the peer's method (Templar's LossScore): for each miner the losses on its own and on
random pages, before and after its step, four passes, here over as many pages as ours: calculated
from the same timed passes. Payloads are noise: what they say changes no cost. Writes
benchmarks/results/evaluation_limits.{json,md,png}.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

from benchmarks.learning.report import commit
from benchmarks.learning.text import ROOT, load_pages
from evaluation.conclusion import Registered, reputations_and_weights
from evaluation.history import Histories, add_window, past_of
from evaluation.judge import Measured, judge
from evaluation.overlap import Earlier, Places, find_overlaps
from evaluation.verdict import NOT_SCORED, Verdict
from evaluation.work import HELD_OUT, QUARTERS, shown_to
from template.base.pace import VOTE_MARGIN_BLOCKS
from template.commands.plan import RunChoices, check_plan, load_plan
from template.protocol.admission import open_payload
from template.protocol.payload import (
    Payload,
    PayloadFormat,
    PayloadHeader,
    encode_payload,
    payload_digest,
)
from template.protocol.root import Member
from template.protocol.spec import RunSpec
from template.scoring.footprint import footprint_of, places_in
from template.scoring.rules import pay_rules
from template.training.model import initial_params, tensor_shapes
from template.training.outer import first_state, scored_coefficients, scored_references
from template.training.scorer import Scorer

mpl.use("Agg")
from matplotlib import pyplot as plt

OWNER = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
SIZES: Mapping[str, Mapping[str, int]] = {
    "18 k": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
    "0.11 M": {},
    "0.43 M": {
        "hidden_size": 128, "intermediate_size": 344, "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    "3.2 M": {
        "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4,
    },
    "12.7 M": {
        "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 8,
    },
}  # fmt: skip
PAYLOADS = (4, 16, 64, 256)
QUICK_SIZES, QUICK_PAYLOADS = ("18 k", "0.11 M"), (4, 16, 64)
PASSES_S = 8.0
"""Forward passes of a model are repeated for so long at most, and twice at least."""
MAX_TIMED_PAYLOADS = 64
"""Of so many at most decoding and steps are timed; they cost the same for each."""
EARLIER_WINDOWS, PAGES_CONSUMED = 4, 240
BLOCK_S = {"localnet": 0.25, "testnet": 12.0}
STAGES = ("decode", "overlap", "step", "forward", "judge")


@dataclass(frozen=True, kw_only=True, slots=True)
class Passes:
    """Seconds of the forward passes over the held-out pages, and over the claims of a payload."""

    held_out_s: float
    claimed_s: float


@dataclass(kw_only=True)
class Bench:
    """One model: its spec, its scorer, and payloads made for it."""

    spec: RunSpec
    form: PayloadFormat
    scorer: Scorer
    frames: list[bytes] = field(default_factory=list)
    passes: Passes | None = None

    @property
    def num_params(self) -> int:
        return sum(math.prod(shape) for shape in self.form.shapes.values())


def main(argv: Sequence[str]) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="benchmarks.evaluation.limits", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="two sizes, to 64 payloads")
    parser.add_argument("--sizes", default="", metavar="NAME,...", help="some of: " + str([*SIZES]))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    sizes = arguments.sizes.split(",") if arguments.sizes else [*SIZES]
    sizes = list(QUICK_SIZES) if arguments.quick else sizes
    rows = []
    for size in sizes:
        bench = prepare(size)
        for count in QUICK_PAYLOADS if arguments.quick else PAYLOADS:
            rows.append({"size": size} | measure(bench, count))
            print(line(rows[-1]), flush=True)
    content = {
        "command": " ".join(["python -m benchmarks.evaluation.limits", *argv]),
        "commit": commit(),
        "threads": 1,
        "budget_s": {name: budget_s(name) for name in BLOCK_S},
        "windows": rows,
        "fits": fits(rows),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "evaluation_limits.json").write_text(json.dumps(content, indent=1) + "\n")
    (arguments.out / "evaluation_limits.md").write_text(markdown(content))
    draw(content, arguments.out / "evaluation_limits.png")
    print(markdown(content))


def prepare(size: str, num_payloads: int = MAX_TIMED_PAYLOADS) -> Bench:
    """A model at random parameters, and payloads of noise."""
    path = ROOT / "runs" / "localnet.toml"
    plan = load_plan(path)
    plan["model"] |= SIZES[size]
    plan["training"]["max_parts"] = 1  # the smallest model has one layer, and so no parts
    spec = check_plan(path, plan, RunChoices(owner_hotkey=OWNER, start_block=100))
    form = PayloadFormat(
        run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=spec.compression.top_k
    )
    bench = Bench(spec=spec, form=form, scorer=Scorer(spec, "cpu"))
    generator = torch.Generator().manual_seed(0)
    for uid in range(num_payloads):
        noise = {n: 1e-3 * torch.randn(s, generator=generator) for n, s in form.shapes.items()}
        header = PayloadHeader(
            window=9, base_window=9, pages_consumed=PAGES_CONSUMED, public_key=bytes([uid]) * 32
        )
        bench.frames.append(encode_payload(header, noise, form)[0])
    return bench


def measure(bench: Bench, count: int) -> dict[str, Any]:
    """Seconds of each stage of a window with so many payloads, and of the peer's method."""
    spec, timed = bench.spec, min(count, len(bench.frames))
    state = first_state(initial_params(spec, 0), spec.run_id)
    per_payload = count / timed
    started = time.process_time()
    payloads = [_opened(bench, uid) for uid in range(timed)]
    decode_s = (time.process_time() - started) * per_payload
    overlap_s = _overlap_s(bench, payloads, count)
    norms = [payload.norms for payload in payloads]
    bench.scorer.load(state.params)
    started = time.process_time()
    references = scored_references(state, norms * math.ceil(per_payload), spec.outer)
    for payload in payloads:
        _step(bench, payload, references)
    step_s = (time.process_time() - started) * per_payload
    if bench.passes is None:
        bench.passes = _timed_passes(bench)
    passes, held_out, claimed = bench.passes, *_pages(spec)
    seconds = {
        "decode": decode_s,
        "overlap": overlap_s,
        "step": step_s,
        "forward": (2 + count) * passes.held_out_s + 2 * count * passes.claimed_s,
        "judge": _judge_s(spec, count),
    }
    ours_s = (seconds["forward"] + step_s) / count
    peer_s = 2 * passes.held_out_s + 2 * passes.claimed_s + step_s / count
    return {
        "payloads": count,
        "num_params": bench.num_params,
        "pool_pages": held_out + count * claimed,
        "shown_pages": held_out + claimed,
        "passes": asdict(passes),
        "seconds": seconds,
        "total_s": math.fsum(seconds.values()),
        "peer": {
            "ratio": peer_s / ours_s,
            "seconds_a_payload": peer_s,
            "ours_seconds_a_payload": ours_s,
        },
    }


def _opened(bench: Bench, uid: int) -> Payload:
    frame = bench.frames[uid]
    key = bytes([uid]) * 32
    member = Member(
        uid=uid, hotkey=str(uid), public_key=key, coldkey=key, digest=payload_digest(frame)
    )
    return open_payload(frame, member, 9, bench.form, bench.spec.outer.max_staleness)


def _overlap_s(bench: Bench, payloads: Sequence[Payload], count: int) -> float:
    """Beyond the payloads there are, and for the windows before, places are moved on."""
    started = time.process_time()
    own = [
        places_in(footprint_of(payload, bench.form), bench.form, 0, lambda _window: bytes(32))
        for payload in payloads
    ]
    places_s = (time.process_time() - started) * count / len(payloads)

    def moved(index: int) -> Places:
        whole, row = min(bench.num_params, 1 << 25), own[index % len(own)]
        return np.sort((row.astype(np.int64) + 7919 * index) % whole).astype(np.int32)

    rows = {uid: own[uid] if uid < len(own) else moved(uid) for uid in range(count)}
    authors = {uid: str(uid) for uid in rows}
    earlier = [
        Earlier(window=w, author=str(uid), places=moved(uid + count * (w + 1)), applied=True)
        for w in range(EARLIER_WINDOWS)
        for uid in range(count)
    ]
    started = time.process_time()
    find_overlaps(rows, authors, earlier, bench.spec.evaluation.max_overlap)
    return places_s + time.process_time() - started


def _step(bench: Bench, payload: Payload, references: Mapping[str, float]) -> None:
    outer, share = bench.spec.outer, bench.spec.evaluation.step_share
    alpha = outer.outer_lr
    factors = scored_coefficients(alpha, 0, payload.norms, references, outer, share)
    with bench.scorer.stepped(payload.tensors, factors):
        pass


def _pages(spec: RunSpec) -> tuple[int, int]:
    """Held-out pages of a window, and claimed pages of a payload."""
    return spec.evaluation.held_out_pages, spec.evaluation.claimed_pages


def _timed_passes(bench: Bench) -> Passes:
    """Medians; the two kinds take turns, so that a busy machine slows both alike."""
    train = load_pages(bench.spec.data.page_tokens).train
    batches = [train[:count] for count in _pages(bench.spec)]
    bench.scorer.part_losses(batches[0], QUARTERS)  # the first time takes longer
    times: list[list[float]] = []
    while len(times) < 2 or math.fsum(map(math.fsum, times)) < PASSES_S:
        times.append([_pass_s(bench, pages) for pages in batches])
    held_out_s, claimed_s = np.median(times, axis=0).tolist()
    return Passes(held_out_s=held_out_s, claimed_s=claimed_s)


def _pass_s(bench: Bench, pages: np.ndarray) -> float:
    started = time.process_time()
    bench.scorer.part_losses(pages, QUARTERS)
    return time.process_time() - started


def _judge_s(spec: RunSpec, count: int) -> float:
    """Verdicts, ratings and weights of a window, with as many windows behind it as count."""
    rng, rules, evaluation = np.random.default_rng(0), pay_rules(spec), spec.evaluation
    claimants = np.repeat(np.arange(count), evaluation.claimed_pages)
    owners_S = np.concatenate([np.full(evaluation.held_out_pages, HELD_OUT), claimants])
    before_SQ = rng.normal(3.0, 0.5, (owners_S.size, QUARTERS))
    shown = {uid: before_SQ[shown_to(owners_S, uid)] for uid in range(count)}
    after_KQ = {u: b_KQ - 0.05 - 0.01 * rng.normal(size=b_KQ.shape) for u, b_KQ in shown.items()}
    measured = Measured(owners_S=owners_S, before_SQ=before_SQ, after_KQ=after_KQ)
    histories: Histories = {}

    def verdicts(window: int) -> tuple[Verdict, ...]:
        blanks = [
            Verdict(
                window=window,
                uid=uid,
                hotkey=str(uid),
                digest="",
                status=NOT_SCORED,
                pages_consumed=PAGES_CONSUMED,
            )
            for uid in range(count)
        ]
        return judge(blanks, measured, past_of(histories, rules.judge), rules.judge)

    for window in range(spec.weights.history_windows):
        histories = add_window(histories, window, verdicts(window), rules.length)
    started = time.process_time()
    last = spec.weights.history_windows
    histories = add_window(histories, last, verdicts(last), rules.length)
    registered = Registered(uids={str(uid): uid for uid in range(count)}, burn_uid=None)
    reputations_and_weights(histories, last, registered, rules)
    return time.process_time() - started


def budget_s(plan: str) -> float:
    """Seconds that a validator has for a window's payloads, fetching included."""
    table = load_plan(ROOT / "runs" / f"{plan}.toml")["schedule"]
    blocks = table["blocks_per_window"] - table["upload_blocks"] - table["vote_margin_blocks"]
    return float((blocks - VOTE_MARGIN_BLOCKS) * BLOCK_S[plan])


def fits(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, str]]]:
    """Payloads whose scoring takes all of a budget, and half of it, by run and size: between the
    numbers measured as a power of the number.
    """
    found: dict[str, dict[str, dict[str, str]]] = {}
    for plan in BLOCK_S:
        for size in dict.fromkeys(row["size"] for row in rows):
            points = [(r["payloads"], r["total_s"]) for r in rows if r["size"] == size]
            counts, seconds = (np.log([p[i] for p in points]) for i in (0, 1))
            answers = {}
            for share in (1.0, 0.5):
                budget = math.log(share * budget_s(plan))
                if budget >= seconds[-1]:
                    answers[str(share)] = f"{points[-1][0]} or more"
                elif budget < seconds[0]:
                    answers[str(share)] = f"fewer than {points[0][0]}"
                else:
                    answers[str(share)] = str(int(np.exp(np.interp(budget, seconds, counts))))
            found.setdefault(plan, {})[size] = answers
    return found


def line(row: Mapping[str, Any]) -> str:
    """One window in the table."""
    seconds = " | ".join(f"{row['seconds'][stage]:.3f}" for stage in STAGES)
    peer = row["peer"]
    return (
        f"| {row['size']} | {row['payloads']} | {row['pool_pages']} | {row['shown_pages']} | "
        f"{seconds} | {row['total_s']:.2f} | {row['total_s'] / row['payloads']:.4f} | "
        f"{peer['ratio']:.2f} |"
    )


def markdown(content: Mapping[str, Any]) -> str:
    """The tables that people read."""
    lines = [
        "Processor seconds to score one window, one thread.",
        "",
        "| parameters | payloads | pages at theta | pages after each step | decode | overlap | "
        "step and restore | forward passes | verdicts, ratings, weights | all | a payload | "
        "peer's time over ours |",
        "|" + "---|" * 12,
        *(line(row) for row in content["windows"]),
        "",
        "| payloads that fit | " + " | ".join(content["fits"]["localnet"]) + " |",
        "|" + "---|" * (1 + len(content["fits"]["localnet"])),
    ]
    for plan, sizes in content["fits"].items():
        budget = content["budget_s"][plan]
        for share, name in (("1.0", "all"), ("0.5", "half")):
            cells = " | ".join(answers[share] for answers in sizes.values())
            lines.append(f"| {plan}, {name} of {budget:.0f} s | {cells} |")
    lines += [
        "",
        "Peer: for each miner the losses on its own and on random pages, before and after its "
        "step, on as many pages as ours, calculated from the same passes. Ours measures the "
        "held-out pages at theta once for all miners, and once half-way through the last step.",
    ]
    return "\n".join(lines) + "\n"


def draw(content: Mapping[str, Any], path: Path) -> None:
    """Seconds of a window against payloads by size, and the budgets; where the time goes."""
    rows = content["windows"]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4))
    for size, colour in zip(sizes, plt.get_cmap("viridis")(np.linspace(0, 0.9, len(sizes))),
                            strict=True):  # fmt: skip
        points = [(r["payloads"], r["total_s"]) for r in rows if r["size"] == size]
        left.plot(*zip(*points, strict=True), "o-", ms=4, c=colour, label=f"{size} parameters")
    for plan, budget in content["budget_s"].items():
        left.axhline(budget, color="black", lw=0.8, ls=":")
        left.text(4, budget * 1.1, f"{plan}'s budget", fontsize=8)
    left.set(xscale="log", yscale="log", xlabel="payloads", ylabel="seconds to score a window")
    left.set_xticks(PAYLOADS, labels=[str(count) for count in PAYLOADS])
    left.set_xticks([], minor=True)
    left.legend(frameon=False, fontsize=8)
    most = max(row["payloads"] for row in rows)
    largest = [row for row in rows if row["payloads"] == most]
    for stage in STAGES:
        seconds = [row["seconds"][stage] for row in largest]
        right.plot([row["num_params"] for row in largest], seconds, "o-", ms=4, label=stage)
    right.set(xscale="log", yscale="log", xlabel="parameters")
    right.set_ylabel(f"seconds of a window with {most} payloads")
    right.legend(frameon=False, fontsize=8, loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main(sys.argv[1:])
