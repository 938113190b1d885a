"""What the page that compares several runs shows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from markupsafe import Markup

from timesformer.runtime.logging import duration
from timesformer.visualization import charts
from timesformer.visualization.charts import SERIES, Curve
from timesformer.visualization.run_files import FinishedRun
from timesformer.visualization.run_page import Content, count_right, default_options, shown
from timesformer.visualization.significance import LEVEL, Comparison, aligned, compare_paired, holm, interval

_PAIRED = 6  # runs up to which the table lists each pair
_FIGURES = {"top1": "top-1", "top5": "top-5", "mean_class_top1": "mean over classes", "val_top1": "validation top-1"}
_OF_ONE_KIND = ("RNG_SEED", "DATA.SPLIT")  # options in which runs may differ whose mean says something
_NOT_COMPARED = ("OUTPUT_DIR", "SHARD_ID", "LOG_PERIOD")


def comparison_page(runs: Sequence[FinishedRun]) -> Content:
    """The content of the page about several runs; their names differ."""
    rows = [_row(run, number) for number, run in enumerate(runs)]
    pairs = _compare_pairs(runs)
    winner = _winner(runs, pairs)
    differing = options_that_differ(runs)
    classes = _classes(runs)
    content: Content = {
        "title": f"{len(runs)} runs compared",
        "subtitle": " · ".join(run.name for run in runs),
        "lead": _lead(runs, pairs, winner),
        "notes": [f"{run.name}: {note}" for run in runs for note in run.notes],
        "runs": rows,
        "figures": _FIGURES,
        "winner": winner,
        "mean": _mean(rows, differing),
        "curves": _curves(runs),
        "agreements": [pair.row(runs) for pair in pairs] if len(runs) <= _PAIRED else [],
        "why_no_agreements": _why_no_agreements(runs, pairs),
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
    seconds, right, total = run.figure("total_train_seconds"), count_right(run), run.results.get("num_videos")
    tested, trained = run.figure("checkpoint_epochs"), run.figure("total_epochs")
    return {
        "name": run.name,
        "color": f"var(--series-{number % len(SERIES) + 1})",
        "folder": str(run.folder),
        "model": run.config.get("MODEL.MODEL_NAME", ""),
        "interval": "{:.1f}–{:.1f}".format(*interval(right, total)) if right is not None and total else "",
        "videos": total,
        "epochs": tested,
        "of_epochs": f"{tested:g}{f' of {trained:g}' if trained is not None else ''}" if tested is not None else "–",
        "training": "" if seconds is None else duration(seconds),
        "seconds": seconds,
        **{key: run.figure(key) for key in _FIGURES},
        "val_top1": run.val_top1,
    }


@dataclass(frozen=True)
class _Pair:
    """Two runs on the same videos, by their numbers.

    Attributes:
        counts: videos that both recognise, only the first, only the second, and neither.
        comparison: of their top-1.
        p: its p-value, adjusted for the number of pairs.
    """

    first: int
    second: int
    counts: tuple[int, int, int, int]
    comparison: Comparison
    p: float

    def row(self, runs: Sequence[FinishedRun]) -> Content:
        """For the table of pairs."""
        both, only_first, only_second, neither = self.counts
        found = self.comparison
        return {
            "first": runs[self.first].name,
            "second": runs[self.second].name,
            "both": both,
            "only_first": only_first,
            "only_second": only_second,
            "neither": neither,
            "difference": found.difference,
            "interval": f"{found.low:+.1f} to {found.high:+.1f}",
            "p": found.p,
            "adjusted": self.p,
        }


def _compare_pairs(runs: Sequence[FinishedRun]) -> list[_Pair]:
    """Each two runs that were tested on the same videos."""
    found = []
    for first, second in combinations(range(len(runs)), 2):
        one, other = runs[first].predictions, runs[second].predictions
        if one is None or other is None or not one.videos or (both := aligned([one], [other])) is None:
            continue
        a, b = both[0][0], both[1][0]
        counts = tuple(int(part.sum()) for part in (a & b, a & ~b, b & ~a, ~a & ~b))
        found.append((first, second, counts, compare_paired(*both)))
    adjusted = holm([comparison.p for *_, comparison in found])
    return [_Pair(*pair, p) for pair, p in zip(found, adjusted, strict=True)]


def _tested(runs: Sequence[FinishedRun]) -> list[int]:
    """Numbers of the runs with a top-1, the highest first."""
    tested = [number for number, run in enumerate(runs) if run.figure("top1") is not None]
    return sorted(tested, key=lambda number: -(runs[number].figure("top1") or 0.0))


def _not_told_apart(number: int, tested: Sequence[int], pairs: Sequence[_Pair]) -> list[int]:
    """Numbers of the other runs whose top-1 does not differ significantly from that of run `number`."""
    apart = {frozenset((pair.first, pair.second)) for pair in pairs if pair.p < LEVEL}
    return [other for other in tested if other != number and frozenset((number, other)) not in apart]


def _winner(runs: Sequence[FinishedRun], pairs: Sequence[_Pair]) -> int | None:
    """Number of the run whose top-1 is significantly higher than that of each other one."""
    tested = _tested(runs)
    return tested[0] if len(tested) > 1 and not _not_told_apart(tested[0], tested, pairs) else None


def _lead(runs: Sequence[FinishedRun], pairs: Sequence[_Pair], winner: int | None) -> str:
    tested = _tested(runs)
    if len(tested) < 2:
        return ""
    sizes = {(runs[number].figure("num_videos"), runs[number].figure("num_classes")) for number in tested}
    known = [number for number in tested if runs[number].predictions is not None]
    of_same_videos = {frozenset((pair.first, pair.second)) for pair in pairs}
    if len(sizes) > 1 or any(frozenset(pair) not in of_same_videos for pair in combinations(known, 2)):
        return "They were tested on different videos, so no accuracy here is better than another."
    first, second = tested[:2]
    names = [runs[number].name for number in tested]
    top1 = [runs[number].figure("top1") or 0.0 for number in tested]
    if top1[0] == top1[1]:
        return f"{_listed(names[: top1.count(top1[0])])} share the highest test top-1, {top1[0]:.2f} %."
    gap = top1[0] - top1[1]
    ranked = f"{names[0]} has the highest test top-1, {top1[0]:.2f} %; {names[1]} is {gap:.2f} points lower."
    if winner is not None:
        than = names[1] if len(tested) == 2 else "each other run"
        return f"{ranked} {names[0]} is significantly better than {than}."
    if first not in known or second not in known:
        return f"{ranked} Whether that is significant cannot be tested without predictions.csv of both."
    alike = [runs[number].name for number in _not_told_apart(first, tested, pairs)]
    return f"{ranked} The difference from {_listed(alike)} is not significant."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


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


def _why_no_agreements(runs: Sequence[FinishedRun], pairs: Sequence[_Pair]) -> str:
    if len(runs) > _PAIRED:
        return f"The pairs of more than {_PAIRED} runs are not listed."
    return "" if pairs else "They were not tested on the same videos, so they are not compared video by video."


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
