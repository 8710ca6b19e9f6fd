"""The law's picture: effect over pages of a payload, a line for each size of the model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from benchmarks.incentive.law import Shown
from benchmarks.incentive.point import STEPS
from template.planning.evidence import EffectLaw

mpl.use("Agg")
from matplotlib import pyplot as plt


def draw(
    shown: Sequence[Shown], law: EffectLaw, plans: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Measured points with their error beside the law; the shipped plans as crosses."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    shown = [point for point in shown if point.steps == STEPS]
    sizes = sorted({point.parameters for point in shown})
    pages_P = np.geomspace(min(p.pages for p in shown) / 1.3, 10_000, 50)
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(sizes)))
    for size, colour in zip(sizes, colours, strict=True):
        of_size = [point for point in shown if point.parameters == size]
        axes.errorbar(
            [point.pages for point in of_size],
            [point.effect for point in of_size],
            yerr=[1.96 * point.error for point in of_size],
            fmt="o",
            color=colour,
            capsize=2,
            label=f"{size:,} parameters",
        )
        axes.plot(pages_P, [law.effect(size, int(n)) for n in pages_P], color=colour, lw=1)
    for plan in plans:
        if plan["measured"]:
            continue
        axes.errorbar(
            [plan["pages"]],
            [plan["effect"]],
            yerr=[[plan["effect"] - plan["low"]], [plan["high"] - plan["effect"]]],
            fmt="x",
            color="crimson",
            capsize=2,
        )
        place = (plan["pages"], plan["effect"])
        axes.annotate(plan["plan"], place, (5, 4), textcoords="offset points", color="crimson")
    axes.axhline(0.4, color="grey", ls="--", lw=1)
    axes.annotate("assumed by the shipped plans", (1100, 0.43), color="grey", fontsize=8)
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(0.005, 5),
        xlabel="pages of a payload",
        ylabel="effect of the work test, standard deviations of a page",
        title="What a payload shows of its training (crosses: extrapolated)",
    )
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
