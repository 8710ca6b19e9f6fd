"""Charts as plain SVG, from numbers alone: no stranger's text comes here. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

WIDTH, HEIGHT = 720, 240
LEFT, RIGHT, TOP, BOTTOM = 78, 14, 14, 38
NUM_TICKS = 4
LEAST_SPAN, LEAST_STEP = 1e-9, 1e-200
MOST_POINTS: Final = 400
"""Points or bars drawn; a longer series is drawn from its newest windows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One window of a line; `error` draws a bar of one standard error up and down."""

    window: int
    value: float
    error: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One window of stacked bars: a number for each part, and what a pointer is told."""

    window: int
    parts: tuple[float, ...]


def line_chart(points: Sequence[Point], label: str, unit: str) -> Markup:
    """A line over windows; an empty text without two finite points."""
    shown = [p for p in points if math.isfinite(p.value)][-MOST_POINTS:]
    if len(shown) < 2:
        return Markup("")
    low = min(p.value - p.error for p in shown)
    high = max(p.value + p.error for p in shown)
    scale = _Scale(shown[0].window, shown[-1].window, low, high, is_bars=False)
    path = " ".join(f"{scale.x(p.window):.1f},{scale.y(p.value):.1f}" for p in shown)
    marks = [
        Markup(
            '<line class="error" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
            '<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{r}"><title>window {w}: {value:.5g} '
            "{unit}</title></circle>"
        ).format(
            x=scale.x(p.window),
            top=scale.y(p.value + p.error),
            bottom=scale.y(p.value - p.error),
            y=scale.y(p.value),
            r=2.5 if len(shown) <= 120 else 1.2,
            w=p.window,
            value=p.value,
            unit=unit,
        )
        for p in shown
    ]
    line = Markup('<polyline class="line" points="{}"/>').format(path)
    return _framed(scale, label, unit, [line, *marks])


def bar_chart(bars: Sequence[Bar], names: Sequence[str], label: str, unit: str) -> Markup:
    """Stacked bars over windows, with a legend; an empty text without a bar above zero."""
    shown = list(bars)[-MOST_POINTS:]
    if not shown or not any(sum(bar.parts) > 0 for bar in shown):
        return Markup("")
    high = max(sum(bar.parts) for bar in shown)
    scale = _Scale(shown[0].window, shown[-1].window, 0.0, high, is_bars=True)
    width = max(1.0, 0.8 * (WIDTH - LEFT - RIGHT) / (shown[-1].window - shown[0].window + 1))
    marks = []
    for bar in shown:
        below = 0.0
        for number, (name, part) in enumerate(zip(names, bar.parts, strict=True)):
            top, bottom = scale.y(below + part), scale.y(below)
            below += part
            if part > 0:
                marks.append(
                    Markup(
                        '<rect class="part{n}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
                        'height="{height:.1f}"><title>window {w}: {part:,.6g} {name}</title></rect>'
                    ).format(
                        n=number,
                        x=scale.x(bar.window) - width / 2,
                        y=top,
                        width=width,
                        height=max(0.0, bottom - top),
                        w=bar.window,
                        part=part,
                        name=name,
                    )
                )
    there = [any(bar.parts[number] > 0 for bar in shown) for number in range(len(names))]
    legend = Markup(" ").join(
        Markup('<span class="key key{}">{}</span>').format(number, name)
        for number, name in enumerate(names)
        if len(names) > 1 and there[number]
    )
    return (
        _framed(scale, label, unit, marks, kind="chart" if len(names) > 1 else "chart one") + legend
    )


class _Scale:
    """From windows and values to places in the picture."""

    def __init__(self, first: int, last: int, low: float, high: float, *, is_bars: bool) -> None:
        self.first, self.last = first, last
        span = high - low
        if span <= LEAST_SPAN * max(abs(low), abs(high)) or span < LEAST_STEP:
            span = max(abs(high), 1.0)  # a flat line, or values beyond what doubles tell apart
        self.step = _nice(span / NUM_TICKS)
        self.low = math.floor(low / self.step) * self.step
        self.high = math.ceil(high / self.step) * self.step
        if self.high == self.low:
            self.high += self.step
        self._margin = 0.5 if is_bars else 0.0

    def x(self, window: float) -> float:
        span = self.last - self.first + 2 * self._margin or 1
        return LEFT + (window - self.first + self._margin) / span * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def ticks(self) -> list[float]:
        number = round((self.high - self.low) / self.step)
        return [self.low + place * self.step for place in range(number + 1)]

    def windows(self) -> list[int]:
        """Windows with a label: both ends and some between."""
        step = max(1, math.ceil((self.last - self.first) / 8))
        return list(range(self.first, self.last + 1, step))


def _nice(step: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(f * power for f in (1.0, 2.0, 5.0, 10.0) if f * power >= step * (1 - 1e-9))


def _framed(
    scale: _Scale, label: str, unit: str, marks: Sequence[Markup], kind: str = "chart"
) -> Markup:
    grid = [
        Markup(
            '<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            '<text class="tick" x="{at}" y="{text_y:.1f}" text-anchor="end">{value}</text>'
        ).format(
            left=LEFT,
            right=WIDTH - RIGHT,
            y=scale.y(value),
            at=LEFT - 6,
            text_y=scale.y(value) + 4,
            value=short_number(value, scale.step),
        )
        for value in scale.ticks()
    ]
    below = [
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            scale.x(window), HEIGHT - BOTTOM + 25, window
        )
        for window in scale.windows()
    ]
    return Markup(
        '<svg class="{kind}" viewBox="0 0 {w} {h}" role="img" aria-label="{label}, {unit}">'
        "{body}</svg>"
    ).format(
        kind=kind,
        w=WIDTH,
        h=HEIGHT,
        label=label,
        unit=unit,
        body=Markup("").join(grid + below) + Markup("").join(marks),
    )


def short_number(value: float, step: float) -> str:
    """A tick with as many digits as its step needs, in thousands, millions and billions."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            unit = 1e3 if letter == "k" else limit
            return f"{value / unit:.4g}{letter}"
    digits = max(0, -math.floor(math.log10(step))) if step < 1 else 0
    return f"{value:.{min(digits, 8)}f}"
