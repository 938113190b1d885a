"""Charts of the metrics in results.json: curves over thresholds and ranks, and calibration."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from timesformer.metrics.calibration import reliability
from timesformer.visualization import fonts
from timesformer.visualization.charts import MUTED, SERIES, Curve, line_chart, new_chart
from timesformer.visualization.run_charts import report_chart
from timesformer.visualization.run_files import FinishedRun

_MANY_CLASSES = 20  # from here on, ranks have a logarithmic axis
_LONGEST_NAME = 18


@report_chart("metrics")
def precision_recall(run: FinishedRun) -> Figure | None:
    return _threshold_curves(run, "Precision (%) by recall", "recall (%)", "recall", "precision")


@report_chart("metrics")
def roc(run: FinishedRun) -> Figure | None:
    names = ("false_positive_rate", "true_positive_rate")
    figure = _threshold_curves(run, "ROC: true positives (%)", "false positives (%)", *names)
    if figure:
        _draw_expected(figure.axes[0], [0, 100], [0, 100])
    return figure


@report_chart("metrics")
def cmc(run: FinishedRun) -> Figure | None:
    return _cmc_curves([run], [""])


@report_chart("metric comparison")
def cmc_of_runs(runs: Sequence[FinishedRun]) -> Figure | None:
    return _cmc_curves(runs, [run.name for run in runs])


@report_chart("calibration")
def uncalibrated(run: FinishedRun) -> Figure | None:
    """Share of correct predictions by confidence, from predictions.csv for results of older versions."""
    found = run.metrics_of_test.get("calibration") or {}
    if bins := found.get("reliability"):
        return _reliability_chart(f"Without temperature: error {found['ece']:.1f} %", bins)
    if run.metrics_of_test or run.predictions is None or not run.predictions.readable.any():
        return None
    known = run.predictions.readable
    bins = reliability(run.predictions.confidence[known], run.predictions.correct[known])
    columns = {"num_videos": bins.count, "confidence": bins.confidence, "correct": bins.correct}
    return _reliability_chart(f"Calibration: error {bins.error:.1f} %", columns)


@report_chart("calibration")
def calibrated(run: FinishedRun) -> Figure | None:
    found = run.metrics_of_test.get("calibration") or {}
    if not (bins := found.get("reliability_calibrated")):
        return None
    return _reliability_chart(
        f"With temperature {found['temperature']:.2f}: error {found['ece_calibrated']:.1f} %", bins
    )


def _threshold_curves(run: FinishedRun, title: str, xlabel: str, x: str, y: str) -> Figure | None:
    rows = run.metrics_of_test.get("curves") or []
    curves = [Curve(_label(row["class"]), row[x], row[y], number) for number, row in enumerate(rows)]
    return _percent_axes(line_chart(curves, title, xlabel))


def _label(name: str | None) -> str:
    if name is None:
        return "micro average"
    drawn = fonts.drawable(name, "class")
    return drawn if len(drawn) <= _LONGEST_NAME else f"{drawn[: _LONGEST_NAME - 1]}…"


def _cmc_curves(runs: Sequence[FinishedRun], labels: Sequence[str]) -> Figure | None:
    found = [run.metrics_of_test.get("cmc") or {"k": [], "accuracy": []} for run in runs]
    rows = zip(labels, found, strict=True)
    curves = [Curve(label, row["k"], row["accuracy"], number) for number, (label, row) in enumerate(rows)]
    sizes = {max(row["k"]) for row in found if row["k"]}
    if max(sizes, default=0) < 3:  # with two classes, the curve is top-1 and 100 %
        return None
    figure = line_chart(curves, "True class among the first k (%)", "k")
    axes, listed = figure.axes[0], next(row["k"] for row in found if row["k"])
    if len(sizes) == 1:
        _draw_expected(axes, listed, [100 * k / max(sizes) for k in listed])
    if max(sizes) > _MANY_CLASSES:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set(ylim=(0, 104))
    return figure


def _percent_axes(figure: Figure | None) -> Figure | None:
    if figure:
        figure.axes[0].set(xlim=(-2, 102), ylim=(0, 104))
    return figure


def _draw_expected(axes: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    axes.plot(x, y, color=MUTED, linewidth=1, linestyle="--", label="chance", zorder=1)
    axes.legend(loc="lower right")


def _reliability_chart(title: str, bins: dict[str, Any]) -> Figure:
    """Share of correct predictions in equal intervals of confidence, with their numbers of videos."""
    counts = np.asarray(bins["num_videos"])
    filled, number = np.flatnonzero(counts), len(counts)
    shares = np.asarray(bins["correct"], float)[filled]
    figure, axes = new_chart(title, "confidence (%); numbers of videos at the top", "correct (%)")
    axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle="--", label="perfect calibration")
    axes.bar(100 * (filled + 0.5) / number, shares, 92 / number, color=SERIES[0], alpha=0.85, label="this run")
    rotation = 90 if counts.max() >= 1000 else 0
    for at in filled:  # above the diagonal
        place = {"ha": "center", "va": "bottom", "rotation": rotation}
        axes.text(100 * (at + 0.5) / number, 102, counts[at], fontsize=7, color=MUTED, **place)
    axes.set(xlim=(0, 100), ylim=(0, 119 if rotation else 109))
    figure.legend(loc="outside lower center", ncols=2)
    return figure
