"""The page about the robustness of a model: accuracy under corruptions, relative to clean clips."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup

from timesformer.analysis.corruptions import SEVERITIES
from timesformer.analysis.robustness import EXAMPLES, JSON, read_robustness
from timesformer.atomic import write_text_atomically
from timesformer.errors import UserError, counted
from timesformer.metrics.baselines import describe_baselines
from timesformer.runtime.subcommands import suggest_command
from timesformer.visualization.charts import MUTED, STYLE, Curve, line_chart, svg
from timesformer.visualization.pages.page import render_page
from timesformer.visualization.significance import wilson_interval

PAGE = "robustness.html"


def write_robustness_page(folder: Path) -> Path:
    """Writes robustness.html from the results in a folder; returns its path. UserError if there are none."""
    write_text_atomically(folder / PAGE, render_robustness_page(folder))
    return folder / PAGE


def render_robustness_page(folder: Path) -> str:
    """The page about the results in a folder as HTML text; UserError if there are none."""
    results = read_robustness(folder)
    if not results or not results.get("clean"):
        raise UserError(f"{folder} has no {JSON} with results: run `{suggest_command('robustness')}` first")
    return render_page("robustness.html", **_content(results, folder))


def _content(results: dict[str, Any], folder: Path) -> dict[str, Any]:
    severities = [n for n in SEVERITIES if any(str(n) in e["severities"] for e in results["corruptions"].values())]
    rows = [_row(name, entry, results, severities) for name, entry in results["corruptions"].items()]
    tested = sum(len(entry["severities"]) for entry in results["corruptions"].values())
    finished = results["finished"][:16].replace("T", " ")
    subtitle = (results["settings"].get("MODEL.MODEL_NAME"), results["checkpoint"], finished)
    return {
        "title": "Robustness",
        "subtitle": " · ".join(filter(None, subtitle)),
        "lead": _lead(results, rows),
        "tiles": _tiles(results, tested),
        "charts": _charts(results),
        "severities": severities,
        "rows": rows,
        "examples": [(row["title"], image) for row in rows if (image := _image(folder, row["name"]))],
    }


def _row(name: str, entry: dict[str, Any], results: dict[str, Any], severities: Sequence[int]) -> dict[str, Any]:
    mean, clean = results["mean_top1"][name], results["clean"]["top1"]
    found = [entry["severities"].get(str(severity)) for severity in severities]
    return {
        "name": name,
        "title": name.replace("_", " "),
        "parameter": entry["parameter"],
        "cells": [(None, None) if result is None else (result["top1"], f"{result['value']:g}") for result in found],
        "mean": mean,
        "relative": 100 * mean / clean if clean else None,
    }


def _lead(results: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    worst = min(rows, key=lambda row: row["mean"])
    text = f"Clean clips: {results['clean']['top1']:.1f} % correct. "
    text += f"Under corruptions, on average: {results['mean_corruption_top1']:.1f} %. "
    return text + f"The lowest mean: {worst['mean']:.1f} % ({worst['title']})."


def _tiles(results: dict[str, Any], tested: int) -> list[tuple[str, str, str, str]]:
    clean, total = results["clean"], results["num_videos"]
    low, high = wilson_interval(clean["correct"], total)
    details = f"95 % interval {low:.1f} to {high:.1f}"
    if "majority" in results:  # not in results of older versions
        details += f"; {describe_baselines(results['chance'], results['majority'])}"
    tiles = [("clean top-1", f"{clean['top1']:.2f}", "%", details)]
    if (mean := results["mean_corruption_top1"]) is not None:
        details = f"mean over {counted(len(results['corruptions']), 'corruption')} of the mean over severities"
        tiles.append(("mean corruption top-1", f"{mean:.2f}", "%", details))
    if (relative := results["relative"]) is not None:
        tiles.append(("relative to clean", f"{relative:.1f}", "%", "mean corruption top-1 / clean top-1"))
    details = f"{results['num_classes']:,} classes, {counted(tested, 'corrupted test')}"
    return [*tiles, ("test videos", f"{total:,}", "", details)]


def _charts(results: dict[str, Any]) -> list[Markup]:
    """A chart for each group: top-1 in percent of that of clean clips, by severity."""
    clean = results["clean"]["top1"]
    groups: dict[str, list[Curve]] = {}
    for name, entry in results["corruptions"].items() if clean else ():
        curves = groups.setdefault(entry["group"], [])
        points = sorted(
            (int(severity), 100 * result["top1"] / clean) for severity, result in entry["severities"].items()
        )
        x, y = zip((0, 100.0), *points, strict=True)
        curves.append(Curve(name.replace("_", " "), x, y, len(curves), dots=True))
    charts = []
    with matplotlib.rc_context(STYLE):
        for group, curves in groups.items():
            figure = line_chart(curves, f"{group.capitalize()}: top-1, % of clean", "severity")
            (axes,) = figure.axes
            axes.axhline(100 * 100 / results["num_classes"] / clean, color=MUTED, linewidth=1, linestyle=":")
            axes.set(ylim=(0, max(105, *(1.03 * value for curve in curves for value in curve.y))), xlim=(0, 5.15))
            axes.legend(loc="lower left")
            charts.append(Markup(svg(figure)))
    return charts


def _image(folder: Path, name: str) -> str:
    path = folder / EXAMPLES / f"{name}.jpg"
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else ""
