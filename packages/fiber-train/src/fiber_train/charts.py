"""Curves and calibration as SVG that takes the page's colors, and is legible at the width of a phone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

_INK = "#123456"  # what stands for the page's own color of text
_COLORS = ("#4477dd", "#e07a2d", "#2f9e62", "#a05bc0")  # on light and on dark
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: sharp, and in the reader's font
    "svg.hashsalt": "fiber",  # the same run gives the same page
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}
_SIZE = (4.2, 2.7)  # inches; as wide as a phone
BINS = 10


def curves(title: str, lines: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Values over steps.

    Args:
        title: What the values are.
        lines: By run the (step, value) points.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        for (name, points), color in zip(lines.items(), _COLORS, strict=False):
            if points:
                axes.plot(*zip(*points, strict=True), color=color, linewidth=1.6, label=name)
        axes.set(title=title, xlabel="step", ylim=(min(0, *_values(lines)), None))
        axes.locator_params(axis="x", nbins=4, integer=True)
        axes.locator_params(axis="y", nbins=5)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=9)
        return _svg(figure)


def calibration(title: str, confidences: Sequence[tuple[float, bool]]) -> str:
    """How often decisions are right, by how sure the model was; on the diagonal these are equal.

    Args:
        title: What is decided.
        confidences: Of each decision how sure, in [0, 1], and whether it was right.
    """
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for sure, right in confidences:
        bins[min(BINS - 1, int(sure * BINS))].append((sure, right))
    filled = [each for each in bins if each]
    means = [sum(value for value, _ in each) / len(each) for each in filled]
    shares = [sum(good for _, good in each) / len(each) for each in filled]
    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=":")
        most = max(len(each) for each in filled)
        axes.scatter(means, shares, s=[20 + 120 * len(each) / most for each in filled], color=_COLORS[0], alpha=0.85)
        axes.set(title=title, xlabel="how sure", ylabel="share right", xlim=(-0.02, 1.02), ylim=(-0.05, 1.05))
        return _svg(figure)


def calibration_error(confidences: Sequence[tuple[float, bool]]) -> float:
    """Expected calibration error with `BINS` bins, in [0, 1] (Naeini et al. 2015)."""
    sums = [[0.0, 0.0] for _ in range(BINS)]
    for sure, right in confidences:
        own = sums[min(BINS - 1, int(sure * BINS))]
        own[0] += sure
        own[1] += right
    return sum(abs(sure - right) for sure, right in sums) / len(confidences)


def _values(lines: Mapping[str, Sequence[tuple[int, float]]]) -> list[float]:
    return [value for points in lines.values() for _, value in points] or [0]


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    svg = buffer.getvalue().replace(_INK, "currentColor")
    return svg[svg.index("<svg") :]  # without the XML prologue, which HTML does not have
