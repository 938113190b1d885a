"""The content of the page that compares several runs, for `templates/comparison.html`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from timesformer.config.options import effects_of, flatten, get_cfg
from timesformer.runtime.logging import duration
from timesformer.visualization.charts import SERIES
from timesformer.visualization.pages.run_page import Content, show_interval
from timesformer.visualization.run_charts import draw_charts
from timesformer.visualization.run_files import FinishedRun
from timesformer.visualization.sections.metrics import baseline_warning, baselines_of, compare_metrics
from timesformer.visualization.sections.repeats import REPEATED_BY, repeats_section
from timesformer.visualization.significance import LEVEL, Comparison, align_predictions, compare_paired, holm

_MAX_RUNS_PAIRED = 6  # runs up to which each pair is listed
_METRICS = {
    "top1": "top-1",
    "top1_shuffled": "top-1, shuffled",
    "top5": "top-5",
    "mean_class_top1": "mean over classes",
    "val_top1": "validation top-1",
}


@dataclass(frozen=True)
class Pair:
    """Two runs, and their comparison."""

    first: int
    second: int
    counts: list[int]  # videos that both, only the first, only the second and neither predict correctly
    comparison: Comparison
    adjusted_p: float


def comparison_page(runs: Sequence[FinishedRun]) -> Content:
    """The values that `templates/comparison.html` shows; the names of the runs differ."""
    rows = [_result_row(run, number) for number, run in enumerate(runs)]
    pairs, options = _compare_pairs(runs), _differing_options(runs)
    tested = [number for number, run in enumerate(runs) if run.metric("top1") is not None]
    ranked = sorted(tested, key=lambda number: -runs[number].metric("top1"))
    differing = {frozenset((pair.first, pair.second)) for pair in pairs if pair.adjusted_p < LEVEL}
    rivals = [number for number in ranked[1:] if frozenset((ranked[0], number)) not in differing]
    repeats = repeats_section(runs, [key for key, _ in options])
    hidden = {name for name in ("top1_shuffled", "top5") if all(row[name] is None for row in rows)}
    return {
        "title": f"{len(runs)} runs compared",
        "subtitle": " · ".join(run.name for run in runs),
        "lead": repeats["lead"] if repeats else _lead(runs, ranked, rivals, len(pairs)),
        "notes": [f"{run.name}: {note}" for run in runs for note in (*run.notes, baseline_warning(run)) if note],
        "runs": rows,
        "metrics": {name: title for name, title in _METRICS.items() if name not in hidden},
        "best": ranked[0] if len(ranked) > 1 and not rivals and not repeats else None,
        "means": _means(rows, options),
        "repeats": repeats,
        "charts": draw_charts("comparison", runs),
        "metric_comparison": compare_metrics(runs),
        "pairs": pairs if len(runs) <= _MAX_RUNS_PAIRED else [],
        "max_runs_paired": _MAX_RUNS_PAIRED,
        "names": [run.name for run in runs],
        "classes": _class_rows(runs),
        "options": options,
    }


def _result_row(run: FinishedRun, number: int) -> Content:
    seconds = run.metric("total_train_seconds")
    tested, trained = run.metric("checkpoint_epochs"), run.metric("total_epochs")
    trivial = baselines_of(run)
    return {
        "name": run.name,
        "color": f"var(--series-{number % len(SERIES) + 1})",
        "folder": str(run.folder),
        "model": run.config.get("MODEL.MODEL_NAME", ""),
        "interval": show_interval(run, "{:.1f}–{:.1f}"),
        "trivial": trivial and trivial.majority,
        "trivial_text": f"{trivial.chance:.1f} / {trivial.majority:.1f}" if trivial else "",
        "videos": run.results.get("num_videos"),
        "epochs": tested,
        "epochs_text": f"{tested or 0:g}" if trained is None else f"{tested or 0:g} of {trained:g}",
        "seconds": seconds,
        "duration": duration(seconds or 0),
        **{name: run.metric(name) for name in _METRICS},
    }


def _compare_pairs(runs: Sequence[FinishedRun]) -> list[Pair]:
    """Each pair of runs that were tested on the same videos."""
    found = []
    for first, second in combinations(range(len(runs)), 2):
        one, other = runs[first].predictions, runs[second].predictions
        if one and other and one.videos and (correct := align_predictions([one], [other])):
            (a,), (b,) = correct
            counts = [int(part.sum()) for part in (a & b, a & ~b, b & ~a, ~a & ~b)]
            found.append((first, second, counts, compare_paired(*correct)))
    adjusted = holm([comparison.p for *_, comparison in found])
    return [Pair(*pair, p) for pair, p in zip(found, adjusted, strict=True)]


def _lead(runs: Sequence[FinishedRun], ranked: Sequence[int], rivals: Sequence[int], num_pairs: int) -> str:
    """A sentence about the best of the `ranked` runs, which is not significantly better than its `rivals`."""
    if len(ranked) < 2:
        return ""
    tests = {(runs[number].metric("num_videos"), runs[number].metric("num_classes")) for number in ranked}
    with_predictions = {number for number in ranked if runs[number].predictions}
    if len(tests) > 1 or num_pairs < math.comb(len(with_predictions), 2):
        return "The runs were tested on different videos, so their accuracies cannot be ranked."
    names, top1 = [runs[number].name for number in ranked], [runs[number].metric("top1") for number in ranked]
    if top1[0] == top1[1]:
        return f"{_join(names[: top1.count(top1[0])])} share the highest test top-1, {top1[0]:.2f} %."
    gap = top1[0] - top1[1]
    lead = f"{names[0]} has the highest test top-1, {top1[0]:.2f} %; {names[1]} is {gap:.2f} points lower."
    if not {*ranked[:2]} <= with_predictions:
        return f"{lead} Significance cannot be tested without predictions.csv of both."
    if rivals:
        return f"{lead} The difference from {_join([runs[number].name for number in rivals])} is not significant."
    return f"{lead} {names[0]} is significantly better than {names[1] if len(names) == 2 else 'each other run'}."


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _differing_options(runs: Sequence[FinishedRun]) -> list[tuple[str, list[str]]]:
    """Key and values of the options that are not equal in all runs. Older runs have the default of newer options."""
    defaults = flatten(get_cfg())
    keys = sorted({key for run in runs for key in run.config if effects_of(key) != {"runtime"}})
    rows = [(key, [str(run.config.get(key, defaults.get(key, "–"))) or "(empty)" for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _means(rows: Sequence[Content], options: Sequence[tuple[str, list[str]]]) -> dict[str, str] | None:
    """Mean and standard deviation (n - 1) of the metrics; None unless the runs are repetitions."""
    if len(rows) < 2 or not {key for key, _ in options} <= {*REPEATED_BY}:
        return None
    values = {name: np.array([row[name] for row in rows], float) for name in _METRICS}  # None becomes NaN
    return {name: f"{v.mean():.2f} ± {v.std(ddof=1):.2f}".replace("nan ± nan", "–") for name, v in values.items()}


def _class_rows(runs: Sequence[FinishedRun]) -> list[Content]:
    """Top-1 of each class in each run, sorted by their range."""
    by_run = [{row.get("class"): row.get("top1") for row in run.results.get("per_class") or []} for run in runs]
    rows = []
    for name in dict.fromkeys(name for top1 in by_run for name in top1):
        values = [top1.get(name) for top1 in by_run]
        known = [value for value in values if value is not None]
        rows.append({"name": name, "top1": values, "range": max(known) - min(known) if len(known) > 1 else None})
    return sorted(rows, key=lambda row: (row["range"] is None, -(row["range"] or 0)))
