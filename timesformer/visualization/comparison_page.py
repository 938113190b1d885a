"""What the page that compares several runs shows."""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from markupsafe import Markup
from scipy.stats import binomtest

from timesformer.engine.logs import duration
from timesformer.visualization import charts
from timesformer.visualization.charts import SERIES, Curve
from timesformer.visualization.run_files import FinishedRun
from timesformer.visualization.run_page import Content, count_right, default_options, interval, shown

_PAIRED = 6  # runs up to which each is held against each other one
_FIGURES = {"top1": "top-1", "top5": "top-5", "mean_class_top1": "mean over classes", "val_top1": "validation top-1"}
_OF_ONE_KIND = ("RNG_SEED", "DATA.SPLIT")  # options in which runs may differ whose mean says something
_NOT_COMPARED = ("OUTPUT_DIR", "SHARD_ID", "LOG_PERIOD")


def comparison_page(runs: Sequence[FinishedRun]) -> Content:
    """The content of the page about several runs; their names differ."""
    rows = [_row(run, number) for number, run in enumerate(runs)]
    best = {key: max((row[key] for row in rows if row[key] is not None), default=None) for key in _FIGURES}
    agreements, why_none = _agreements(runs)
    differing = options_that_differ(runs)
    classes = _classes(runs)
    content: Content = {
        "title": f"{len(runs)} runs compared",
        "name": f"{len(runs)} runs compared",
        "under": " · ".join(run.name for run in runs),
        "lead": _lead(runs),
        "notes": [f"{run.name}: {note}" for run in runs for note in run.notes],
        "runs": rows,
        "figures": _FIGURES,
        "best": best,
        "mean": _mean(rows, differing),
        "curves": _curves(runs),
        "agreements": agreements,
        "why_no_agreements": why_none,
        "names": [run.name for run in runs],
        "classes": classes,
        "differing": differing,
    }
    titles = {"curves": "Training", "agreements": "Video by video", "classes": "Classes", "differing": "Options"}
    content["sections"] = [("results", "Results"), *((key, title) for key, title in titles.items() if content[key])]
    return content


def options_that_differ(runs: Sequence[FinishedRun]) -> list[Content]:
    """The options that are not the same in all runs, with the value of each.

    One that is younger than a run was as it is by default; None where there is no such default.
    """
    defaults = {key: shown(value) for key, value in default_options().items()}
    keys = sorted({key for run in runs for key in run.config} - set(_NOT_COMPARED))
    found = []
    for key in keys:
        values = [shown(run.config[key]) if key in run.config else defaults.get(key) for run in runs]
        if len(set(values)) > 1:
            found.append({"key": key, "values": values})
    return found


def _row(run: FinishedRun, number: int) -> Content:
    seconds, right, total = run.figure("train_seconds"), count_right(run), run.results.get("num_videos")
    val = run.figure("val_top1")
    return {
        "name": run.name,
        "color": f"var(--series-{number % len(SERIES) + 1})",
        "folder": str(run.folder),
        "model": run.config.get("MODEL.MODEL_NAME", ""),
        "interval": "{:.1f}–{:.1f}".format(*interval(right, total)) if right is not None and total else "",
        "videos": total,
        "epochs": run.figure("checkpoint_epochs"),
        "training": "" if seconds is None else duration(seconds),
        "seconds": seconds,
        **{key: run.figure(key) for key in _FIGURES},
        "val_top1": val if val is not None and val >= 0 else None,
    }


def _lead(runs: Sequence[FinishedRun]) -> str:
    tested = [run for run in runs if run.figure("top1") is not None]
    if len(tested) < 2:
        return ""
    if len({(run.figure("num_videos"), run.figure("num_classes")) for run in tested}) > 1:
        return "They were tested on different videos, so no accuracy here is better than another."
    first, second, *others = sorted(tested, key=lambda run: -(run.figure("top1") or 0.0))
    gap = (first.figure("top1") or 0.0) - (second.figure("top1") or 0.0)
    if gap == 0:
        alike = [first.name, *(run.name for run in (second, *others) if run.figure("top1") == first.figure("top1"))]
        names = f"{', '.join(alike[:-1])} and {alike[-1]}"
        return f"{names} share the highest test top-1, {first.figure('top1'):.2f} %."
    return (
        f"{first.name} has the highest test top-1, {first.figure('top1'):.2f} %; {second.name} follows by "
        f"{gap:.2f} points."
    )


def _mean(rows: Sequence[Content], differing: Sequence[Content]) -> Content | None:
    """Mean and standard deviation (n - 1) of the figures that all runs have; None where they are not of one kind."""
    if len(rows) < 2 or any(option["key"] not in _OF_ONE_KIND for option in differing):
        return None
    mean: Content = {}
    for key in _FIGURES:
        values = [row[key] for row in rows if row[key] is not None]
        mean[key] = f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}" if len(values) == len(rows) else ""
    return mean


def _curves(runs: Sequence[FinishedRun]) -> list[Markup]:
    def chart(kind: str, name: str, title: str, dots: bool = False) -> str | None:
        lines = [Curve(run.name, *run.series(kind, name), number, dots=dots) for number, run in enumerate(runs)]
        if not any(math.isfinite(value) for line in lines for value in line.y):
            return None
        return charts.svg(charts.curves(lines, title))

    made = (
        chart("val_epoch", "top1", "Validation top-1 (%)", True),
        chart("val_epoch", "loss", "Validation loss", True),
        chart("train_epoch", "loss", "Training loss"),
        chart("train_epoch", "top1", "Training top-1 (%)"),
        chart("train_step", "lr", "Learning rate"),
        chart("train_step", "clips_per_second", "Training clips per second"),
    )
    return [Markup(figure) for figure in made if figure]


def _agreements(runs: Sequence[FinishedRun]) -> tuple[list[Content], str]:
    """What each pair of runs made of the same test videos; or why that cannot be said."""
    if len(runs) > _PAIRED:
        return [], f"More than {_PAIRED} runs are not compared video by video."
    told = [run for run in runs if run.predictions is not None]
    rights = [
        dict(zip(run.predictions.videos, run.predictions.right.tolist(), strict=True))
        for run in told
        if run.predictions
    ]
    found = []
    for (first, a), (second, b) in combinations(zip(told, rights, strict=True), 2):
        if a.keys() != b.keys():
            continue
        only_first = sum(right and not b[video] for video, right in a.items())
        only_second = sum(right and not a[video] for video, right in b.items())
        both = sum(right and b[video] for video, right in a.items())
        apart = only_first + only_second
        found.append(
            {
                "first": first.name,
                "second": second.name,
                "both": both,
                "only_first": only_first,
                "only_second": only_second,
                "neither": len(a) - both - apart,
                "p": float(binomtest(only_first, apart).pvalue) if apart else 1.0,
            }
        )
    return found, "" if found else "They were not tested on the same videos, so they are not compared video by video."


def _classes(runs: Sequence[FinishedRun]) -> list[Content]:
    """Top-1 of each class in each run, those that differ most first."""
    by_run = [{row.get("class"): row.get("top1") for row in run.results.get("per_class") or []} for run in runs]
    names = list(dict.fromkeys(name for rows in by_run for name in rows))
    found = []
    for name in names:
        values: list[Any] = [rows.get(name) for rows in by_run]
        known = [value for value in values if value is not None]
        found.append({"name": name, "values": values, "spread": max(known) - min(known) if len(known) > 1 else None})
    return sorted(found, key=lambda row: -1.0 if row["spread"] is None else row["spread"], reverse=True)
