"""Accuracy against the length, brightness and motion of test clips."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from timesformer.analysis.clip_properties import read_properties
from timesformer.visualization.charts import MUTED, SERIES, STYLE, new_chart, svg
from timesformer.visualization.run_files import FinishedRun
from timesformer.visualization.significance import wilson_interval

_BINS = 5
_TITLES = {
    "frames": ("Length", "frames of the video"),
    "seconds": ("Duration", "seconds of the video"),
    "brightness": ("Brightness", "mean luma of the clip (0 to 255)"),
    "motion": ("Motion", "mean difference of successive frames (0 to 255)"),
}


@dataclass(frozen=True)
class Bin:
    """Videos whose property is from `low` to `high` (both included); `interval` is Wilson's, in percent."""

    low: float
    high: float
    videos: int
    correct: int

    @property
    def top1(self) -> float:
        return 100 * self.correct / self.videos

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.correct, self.videos)


def properties_section(run: FinishedRun, folder: Path) -> dict[str, Any] | None:
    """Values of `templates/_properties.html`; None without properties of clips."""
    properties, predictions = read_properties(folder), run.predictions
    if not properties or predictions is None:
        return None
    known = [row for row, video in enumerate(predictions.videos) if video in properties]
    correct = predictions.correct[known]
    charts, rows, constant = [], [], []
    for name, (title, label) in _TITLES.items():
        values = np.array([getattr(properties[predictions.videos[row]], name) for row in known])
        bins = accuracy_by_bin(values, correct)
        if len(bins) > 1:
            charts.append(Markup(svg(_chart(title, label, bins))))
            rows += [(label, _range(found), found.videos, found.top1, found.interval) for found in bins]
        elif bins:
            constant.append(f"{label}: {_range(bins[0])} for all clips")
    return {"charts": charts, "rows": rows, "constant": constant, "videos": len(known)}


def accuracy_by_bin(values: np.ndarray, correct: np.ndarray, bins: int = _BINS) -> list[Bin]:
    """Correct predictions, bool (videos,), in at most `bins` ranges of values, float (videos,), by rising value.

    The limits are quantiles, so that each range has about as many videos; equal values are in one range. NaN is left
    out.
    """
    finite = np.isfinite(values)
    values, correct = values[finite], correct[finite]
    if not len(values):
        return []
    limits = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf"))
    number = np.searchsorted(limits, values)  # a limit belongs to the range that it ends
    found = (number == n for n in range(len(limits) + 1))
    return [
        Bin(float(values[rows].min()), float(values[rows].max()), int(rows.sum()), int(correct[rows].sum()))
        for rows in found
        if rows.any()
    ]


@matplotlib.rc_context(STYLE)
def _chart(title: str, label: str, bins: Sequence[Bin]) -> Figure:
    figure, axes = new_chart(f"{title}: top-1 (%)", label)
    places, top1 = range(len(bins)), [found.top1 for found in bins]
    errors = np.abs(np.array([found.interval for found in bins]).T - top1)
    axes.bar(places, top1, 0.72, color=SERIES[0], alpha=0.85)
    axes.errorbar(places, top1, errors, fmt="none", ecolor=MUTED, capsize=3, linewidth=1.1)
    axes.set_xticks(places, [_range(found) for found in bins], fontsize=7.5)
    axes.set_ylim(0, 104)
    axes.grid(axis="x", visible=False)
    return figure


def _range(found: Bin) -> str:
    low, high = (f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in (found.low, found.high))
    return low if low == high else f"{low}–{high}"
