"""How many claimed pages, and which assumed effect, does the work test need?

    python -m benchmarks.evaluation.work_test            two runs a model (20 minutes on one core)
    python -m benchmarks.evaluation.work_test --quick    one run of the attack suite's model

Runs are recorded first (`benchmarks.evaluation.work_test_record`); a run in the cache is not
played again. Samples of the work test are drawn from the recorded gains, with several numbers of
claimed pages, and careers of 20 evaluations from the samples: at most one in each window of a
run, since a career with a window twice would take its luck twice. Pages outside the training
are divided anew each time into held-out pages and claims. Writes
benchmarks/results/work_test.{json,md,png}.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch

from benchmarks.evaluation.work_test_record import (
    FREE,
    HELD,
    MINERS,
    OWN,
    PROBES,
    TRIALS,
    Window,
    recorded,
)
from benchmarks.learning.report import commit
from benchmarks.learning.text import ROOT
from evaluation.work import WorkRules, work_sample
from template.commands.plan import load_plan

mpl.use("Agg")
from matplotlib import pyplot as plt

CLAIMED, EFFECTS = (4, 8, 16, 32, 48, 64), (0.2, 0.25, 0.3, 0.4, 0.5, 0.6)
EVALUATIONS, CAREERS, DRAWS = 20, 40_000, 48
MAX_FALSE, MIN_HONEST = 0.01, 0.99
SEEDS = (1, 2)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bank:
    """Samples drawn from the record: effects and their variances, [senders, windows, draws]."""

    effects: Floats
    variances: Floats

    def ratios(self, effect: float) -> Floats:
        """Log-likelihood ratios of an effect against none."""
        return (effect * self.effects - effect * effect / 2) / self.variances


def main(argv: Sequence[str]) -> None:
    """Record what is missing, draw, and write the results."""
    parser = argparse.ArgumentParser(prog="benchmarks.evaluation.work_test", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="one run of the smaller model")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "work_test")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    plan = load_plan(ROOT / "runs" / "localnet.toml")["evaluation"]
    names = ("attack suite",) if arguments.quick else tuple(TRIALS)
    seeds = SEEDS[:1] if arguments.quick else SEEDS
    models = {}
    for name in names:
        runs = [recorded(replace(TRIALS[name], seed=seed), arguments.cache) for seed in seeds]
        models[name] = study(runs, int(plan["held_out_pages"]), float(plan["work_error"]))
        print(f"{name}: drawn", flush=True)
    content = {
        "command": "python -m benchmarks.evaluation.work_test"
        + (" --quick" if arguments.quick else ""),
        "commit": commit(),
        "evaluations": EVALUATIONS,
        "careers": CAREERS,
        "error": float(plan["work_error"]),
        "held_out_pages": int(plan["held_out_pages"]),
        "models": models,
        "resampling": resampling(float(plan["work_error"])),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "work_test.json").write_text(json.dumps(content, indent=1) + "\n")
    (arguments.out / "work_test.md").write_text(markdown(content))
    draw(content, arguments.out / "work_test.png")
    print(markdown(content))


def study(runs: Sequence[Sequence[Window]], held_out: int, error: float) -> dict[str, Any]:
    """Distribution of the effect, and error rates for every number of pages and assumed effect."""
    rates, effects = [], {}
    for claimed in CLAIMED:
        rng = np.random.default_rng(claimed)
        nobody = [strangers(run, claimed, held_out, rng) for run in runs]
        honest = [workers(run, claimed, held_out, rng) for run in runs]
        effects[claimed] = distribution(honest, nobody)
        for effect in EFFECTS:
            rules = WorkRules(effect=effect, error=error)
            rates.append(
                {"claimed_pages": claimed, "effect": effect} | _rates(nobody, honest, rules, rng)
            )
    return {"runs": len(runs), "windows": len(runs[0]), "effects": effects, "rates": rates}


def strangers(run: Sequence[Window], claimed: int, held_out: int, rng: np.random.Generator) -> Bank:
    """Samples of every probe, on pages that nobody trained on."""

    def sample(window: Window, probe: int) -> tuple[float, float]:
        pages = rng.choice(HELD + FREE, held_out + claimed, replace=False)
        return _sample(window.probes_IFQ[probe, pages], held_out)

    return _bank(run, len(PROBES), sample)


def workers(run: Sequence[Window], claimed: int, held_out: int, rng: np.random.Generator) -> Bank:
    """Samples of every honest miner, on its own pages."""

    def sample(window: Window, miner: int) -> tuple[float, float]:
        own = [
            first + rng.choice(OWN // 4, claimed // 4, replace=False)
            for first in range(HELD + FREE, HELD + FREE + OWN, OWN // 4)
        ]
        pages = np.concatenate([rng.choice(HELD + FREE, held_out, replace=False), *own])
        return _sample(window.honest_IKQ[miner, pages], held_out)

    return _bank(run, MINERS, sample)


def _sample(gains_KQ: npt.NDArray[Any], held_out: int) -> tuple[float, float]:
    """Effect and variance of a payload; the first `held_out` sequences are the held-out ones."""
    found = work_sample(gains_KQ.astype(np.float64), np.arange(len(gains_KQ)) < held_out)
    assert found is not None, "a recorded gain is not finite"
    return found.effect, found.variance


def _bank(run: Sequence[Window], senders: int, sample: Any) -> Bank:
    drawn = np.array(
        [[[sample(w, sender) for _ in range(DRAWS)] for w in run] for sender in range(senders)]
    )
    return Bank(effects=drawn[..., 0], variances=drawn[..., 1])


def distribution(honest: Sequence[Bank], nobody: Sequence[Bank]) -> dict[str, float]:
    """Of the effect, in standard deviations of a sequence. What nobody earned should be zero, with
    the variance stated: `nobody_z_sd` is one then.
    """
    effects = np.concatenate([bank.effects for bank in honest], axis=1)
    noise = np.concatenate([b.effects / np.sqrt(b.variances) for b in nobody], axis=1)
    return {
        "honest_mean": float(effects.mean()),
        "honest_sd": float(effects.std()),
        "honest_sd_stated": float(np.sqrt(np.concatenate([b.variances for b in honest]).mean())),
        "honest_sd_of_miners": float(effects.mean(axis=(1, 2)).std(ddof=1)),
        "honest_sd_of_windows": float(effects.mean(axis=(0, 2)).std(ddof=1)),
        "nobody_mean": float(np.concatenate([b.effects for b in nobody], axis=1).mean()),
        "nobody_z_sd": float(noise.std()),
    }


def _rates(
    nobody: Sequence[Bank], honest: Sequence[Bank], rules: WorkRules, rng: np.random.Generator
) -> dict[str, Any]:
    passes = np.stack([_first_pass(bank, rules, rng) <= EVALUATIONS for bank in nobody])
    times = np.stack([_first_pass(bank, rules, rng) for bank in honest])
    kinds = passes.mean(axis=(0, 2))
    return {
        "false_pass": float(passes.mean()),
        "false_pass_of_runs": passes.mean(axis=(1, 2)).tolist(),
        "false_pass_of_kinds": dict(zip(PROBES, kinds.tolist(), strict=True)),
        "honest_accept": float((times <= EVALUATIONS).mean()),
        "evaluations_median": _quantile(times, 0.5),
        "evaluations_99": _quantile(times, 0.99),
    }


def _quantile(times: Floats, share: float) -> float | None:
    """The evaluation by which a share of the careers has passed; None if it is not one of 20."""
    time = float(np.quantile(times, share, method="higher"))
    return time if math.isfinite(time) else None


def _first_pass(bank: Bank, rules: WorkRules, rng: np.random.Generator) -> Floats:
    """The evaluation that opened the gate, infinity for none in 20; [senders, careers]."""
    ratios = bank.ratios(rules.effect)
    senders, windows, draws = ratios.shape
    careers = CAREERS // senders
    order = rng.random((senders, careers, windows)).argsort(axis=2)[..., :EVALUATIONS]
    which = rng.integers(draws, size=order.shape)
    return first_pass(ratios[np.arange(senders)[:, None, None], order, which], rules.bound)


def first_pass(ratios: Floats, bound: float) -> Floats:
    """Of careers along the last axis: the evaluation at which `WorkState` first holds."""
    total = np.zeros(ratios.shape[:-1])
    first = np.full(total.shape, math.inf)
    for evaluation in range(ratios.shape[-1]):
        total = total + ratios[..., evaluation]
        first = np.where((total >= bound) & np.isinf(first), evaluation + 1.0, first)
        total = np.clip(total, -bound, bound)
    return first


def resampling(error: float) -> dict[str, float]:
    """What drawing careers from single miners' 24 samples, with replacement, does to the rate of
    false passes: of normal samples without any effect, whose rate is known from fresh ones.
    """
    rules, rng = WorkRules(effect=0.25, error=error), np.random.default_rng(0)
    variance = 1 / 32 + 1 / 64
    miners = rng.normal(0.0, math.sqrt(variance), (2000, 24))
    again = rng.integers(24, size=(2000, 20, EVALUATIONS))
    once = rng.random((2000, 20, 24)).argsort(axis=2)[..., :EVALUATIONS]

    def rate(effects: Floats) -> float:
        ratios = (rules.effect * effects - rules.effect**2 / 2) / variance
        return float((first_pass(ratios, rules.bound) <= EVALUATIONS).mean())

    rows = np.arange(2000)[:, None, None]
    return {
        "fresh": rate(rng.normal(0.0, math.sqrt(variance), (CAREERS, EVALUATIONS))),
        "with_replacement": rate(miners[rows, again]),
        "without_replacement": rate(miners[rows, once]),
    }


def holds(rate: Mapping[str, Any]) -> bool:
    return rate["false_pass"] <= MAX_FALSE and rate["honest_accept"] >= MIN_HONEST


def markdown(content: Mapping[str, Any]) -> str:
    """The tables that people read."""
    lines = []
    for name, model in content["models"].items():
        lines += [f"## {name}: {model['runs']} runs of {model['windows']} windows", ""]
        lines += [
            "| claimed pages | honest effect | sd | of it stated | between miners | "
            "between windows | without work: mean | sd over stated |",
            "|" + "---|" * 8,
        ]
        for claimed, e in model["effects"].items():
            lines.append(
                f"| {claimed} | {e['honest_mean']:.3f} | {e['honest_sd']:.3f} | "
                f"{e['honest_sd_stated']:.3f} | {e['honest_sd_of_miners']:.3f} | "
                f"{e['honest_sd_of_windows']:.3f} | {e['nobody_mean']:+.4f} | "
                f"{e['nobody_z_sd']:.3f} |"
            )
        lines += [
            "",
            "| claimed pages | assumed effect | false pass | (by run) | worst kind | "
            f"honest within {content['evaluations']} | evaluations, median | 99 % by | |",
            "|" + "---|" * 9,
        ]
        for r in model["rates"]:
            runs = ", ".join(f"{100 * run:.2f}" for run in r["false_pass_of_runs"])
            kind, worst = max(r["false_pass_of_kinds"].items(), key=lambda each: each[1])
            lines.append(
                f"| {r['claimed_pages']} | {r['effect']} | "
                f"{100 * r['false_pass']:.2f} % | {runs} | {kind} {100 * worst:.2f} % | "
                f"{100 * r['honest_accept']:.2f} % | {_count(r['evaluations_median'])} | "
                f"{_count(r['evaluations_99'])} | {'holds' if holds(r) else ''} |"
            )
        lines.append("")
    again = content["resampling"]
    lines.append(
        "Careers drawn from 24 samples of a miner, of normal samples without effect (32 pages, "
        f"assumed effect 0.25): {100 * again['with_replacement']:.2f} % pass if drawn with "
        f"replacement, {100 * again['without_replacement']:.2f} % without, "
        f"{100 * again['fresh']:.2f} % of fresh samples."
    )
    return "\n".join(lines) + "\n"


def _count(time: float | None) -> str:
    return "-" if time is None else f"{time:.0f}"


def draw(content: Mapping[str, Any], path: Path) -> None:
    """False passes and honest failures against claimed pages, a line for each assumed effect."""
    models = content["models"]
    figure, axes = plt.subplots(2, len(models), figsize=(5.5 * len(models), 6.5), squeeze=False)
    colours = plt.get_cmap("viridis")(np.linspace(0.05, 0.9, len(EFFECTS)))
    floor = 100.0 / content["careers"]
    for column, (name, model) in enumerate(models.items()):
        for effect, colour in zip(EFFECTS, colours, strict=True):
            rows = [r for r in model["rates"] if r["effect"] == effect]
            pages = [r["claimed_pages"] for r in rows]
            false = [max(floor, 100 * r["false_pass"]) for r in rows]
            refused = [max(floor, 100 - 100 * r["honest_accept"]) for r in rows]
            for axis, values in zip(axes[:, column], (false, refused), strict=True):
                axis.plot(pages, values, "o-", ms=4, c=colour, label=f"assumed {effect}")
        for axis, what in zip(axes[:, column], ("false pass", "honest not accepted"), strict=True):
            axis.axhline(1.0, color="black", lw=1)
            axis.set(xscale="log", yscale="log", xlabel="claimed pages of a payload")
            axis.set_xticks(CLAIMED, labels=[str(count) for count in CLAIMED])
            axis.set_xticks([], minor=True)
            axis.set_ylabel(f"{what} in {content['evaluations']} evaluations, %", fontsize=9)
            axis.grid(color="#eeeeee")
        mean = model["effects"][max(model["effects"], key=int)]["honest_mean"]
        axes[0, column].set_title(f"{name}: honest work shows {mean:.2f}", fontsize=10)
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main(sys.argv[1:])
