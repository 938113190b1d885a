"""The charts of a report: every function marked with `report_chart` is drawn."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from timesformer.visualization import fonts
from timesformer.visualization.charts import (
    SERIES,
    STYLE,
    Curve,
    confusion_matrix,
    line_chart,
    new_chart,
    per_class,
    svg,
)
from timesformer.visualization.confusions import count_confusions
from timesformer.visualization.run_files import FinishedRun
from timesformer.visualization.significance import wilson_interval

logger = logging.getLogger(__name__)

Section = Literal["training", "metrics", "calibration", "classes", "comparison", "metric comparison", "files"]
Draw = Callable[[Any], Figure | None]
_CHARTS: dict[Section, list[Draw]] = {section: [] for section in get_args(Section)}


def report_chart(section: Section) -> Callable[[Draw], Draw]:
    """Adds the decorated function to the charts of a section.

    It takes the `FinishedRun` (for comparisons a sequence of them) and returns a figure, made with `new_chart` or
    `line_chart`, or None where there is nothing to show. Charts of the section "files" are not on the page: only
    `tools/report.py --figures` writes them.
    """

    def register(draw: Draw) -> Draw:
        _CHARTS[section].append(draw)
        return draw

    return register


def draw_figures(section: Section, runs: Any) -> list[Figure]:
    """The charts of a section; `runs` is the run, for comparisons a sequence of runs."""
    return _draw(section, runs, lambda figure: figure)


def draw_charts(section: Section, runs: Any) -> list[Markup]:
    """The charts of a section as `<svg>` elements."""
    return _draw(section, runs, lambda figure: Markup(svg(figure)))


def _draw(section: Section, runs: Any, convert: Callable[[Figure], Any]) -> list[Any]:
    drawn = []
    with matplotlib.rc_context(STYLE):
        for draw in _CHARTS[section]:
            try:
                if figure := draw(runs):
                    figure.set_label("" if section == "files" else section)
                    drawn.append(convert(figure))
            except Exception as error:  # the report is more than one chart
                logger.warning("the chart %s failed: %s: %s", draw, type(error).__name__, error)
    return drawn


@report_chart("training")
def loss(run: FinishedRun) -> Figure | None:
    curves = [
        Curve("training by iteration", *run.series("train_step", "loss"), 0, faint=True),
        Curve("training", *run.series("train_epoch", "loss"), 0),
        Curve("validation", *run.series("val_epoch", "loss"), 1, dots=True),
    ]
    return line_chart(curves, "Loss")


@report_chart("training")
def accuracy(run: FinishedRun) -> Figure | None:
    top1, mean_class = run.series("val_epoch", "top1"), run.series("val_epoch", "mean_class_top1")
    curves = [Curve("training top-1", *run.series("train_epoch", "top1"), 0)]
    curves.append(Curve("validation top-1", *top1, 1, dots=True))
    if len(top1[1]) != len(mean_class[1]) or not np.allclose(top1[1], mean_class[1], atol=0.5, equal_nan=True):
        curves.append(Curve("mean over classes", *mean_class, 2))
    curves.append(Curve("validation top-5", *run.series("val_epoch", "top5"), 1, faint=True))
    return line_chart(curves, "Accuracy (%)")


def _training_curve(run: FinishedRun, title: str, name: str, color: int, factor: int = 1) -> Figure | None:
    epochs, values = run.series("train_step", name)
    return line_chart([Curve("", epochs, [factor * value for value in values], color)], title)


for _curve in (
    {"title": "Learning rate", "name": "lr", "color": 3},
    {"title": "Training clips per second", "name": "clips_per_second", "color": 6},
    {"title": "Waiting for data (% of the time)", "name": "data_share", "color": 4, "factor": 100},
):
    report_chart("training")(partial(_training_curve, **_curve))


@report_chart("classes")
def accuracy_histogram(run: FinishedRun) -> Figure | None:
    values = [row["top1"] for row in run.results.get("per_class") or [] if row.get("top1") is not None]
    if len(values) <= 12:
        return None
    figure, axes = new_chart("Classes by top-1", "top-1 (%)", "classes")
    axes.hist(values, bins=np.arange(0, 105, 5), color=SERIES[0], rwidth=0.92)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlim(0, 100)
    return figure


@report_chart("classes")
def accuracy_by_size(run: FinishedRun) -> Figure | None:
    sizes = (run.results.get("class_counts") or {}).get("train") or []
    pairs = zip(sizes, run.results.get("per_class") or [], strict=False)
    points = [(size, row["top1"]) for size, row in pairs if row.get("top1") is not None]
    if len({size for size, _ in points}) < 2:
        return None
    figure, axes = new_chart("Top-1 (%) by class size", "training clips")
    axes.scatter(*zip(*points, strict=True), s=16, color=SERIES[0], alpha=0.55, linewidths=0)
    return figure


@report_chart("comparison")
def top1_with_intervals(runs: list[FinishedRun]) -> Figure | None:
    """Test top-1 of the runs, with Wilson's 95 % interval."""
    tested = [(run, run.num_correct, run.results.get("num_videos")) for run in runs]
    tested = [(run, correct, total) for run, correct, total in tested if correct is not None and total]
    if not tested:
        return None
    figure, axes = new_chart("Test top-1 (%)", "with 95 % interval")
    for row, (run, correct, total) in enumerate(tested):
        low, high = wilson_interval(correct, total)
        top1, color = 100 * correct / total, SERIES[runs.index(run) % len(SERIES)]
        axes.errorbar(top1, row, xerr=[[top1 - low], [high - top1]], fmt="o", color=color, markersize=4)
    names = [fonts.drawable(run.name) for run, *_ in tested]
    axes.set_yticks(range(len(tested)), names, family=fonts.families())
    axes.set_ylim(len(tested) - 0.5, -0.5)
    return figure


def _compare(runs: list[FinishedRun], title: str, kind: str, name: str) -> Figure | None:
    dots = kind == "val_epoch"
    return line_chart([Curve(run.name, *run.series(kind, name), i, dots=dots) for i, run in enumerate(runs)], title)


for _title, _kind, _name in (
    ("Validation top-1 (%)", "val_epoch", "top1"),
    ("Validation loss", "val_epoch", "loss"),
    ("Training loss", "train_epoch", "loss"),
    ("Training top-1 (%)", "train_epoch", "top1"),
    ("Learning rate", "train_step", "lr"),
    ("Training clips per second", "train_step", "clips_per_second"),
):
    report_chart("comparison")(partial(_compare, title=_title, kind=_kind, name=_name))


def _confusion(run: FinishedRun, percent: bool) -> Figure | None:
    if run.predictions is None or not run.predictions.readable.any():
        return None
    counts = count_confusions(run.predictions, len(run.class_names))
    title = "Confusion matrix in percent (of the true class)" if percent else "Confusion matrix"
    return confusion_matrix(counts, run.class_names, title, percent=percent)


report_chart("files")(partial(_confusion, percent=False))
report_chart("files")(partial(_confusion, percent=True))


@report_chart("files")
def top1_by_class(run: FinishedRun) -> Figure | None:
    rows = run.results.get("per_class") or []
    top1 = [np.nan if row.get("top1") is None else row["top1"] for row in rows]
    return per_class(run.class_names, top1) if np.isfinite(top1).any() else None
