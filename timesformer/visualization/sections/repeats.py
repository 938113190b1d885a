"""Repeated runs of one configuration: mean, standard deviation, confidence interval, and their table for a page."""

import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from timesformer.metrics.baselines import describe_baselines
from timesformer.visualization.run_files import FinishedRun
from timesformer.visualization.sections.metrics import baselines_of
from timesformer.visualization.significance import LEVEL, t_interval

REPEATED_BY = {
    "RNG_SEED": "seed",
    "DATA.SPLIT": "split",
    "DATA.FOLD": "fold",
}
"""Options whose values number repeated runs."""


@dataclass(frozen=True)
class Summary:
    """Statistics of a metric in percent over runs.

    `std` is the standard deviation over all runs (n - 1), None for one run. `low` and `high` are the 95 % interval of
    the mean by Student's t, within 0 to 100, None for one unit. The `count` units are the means over the seeds of each
    split or fold, or else the runs: seeds of one fold share their clips, so counting each run would make the interval
    too narrow.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    count: int


def summarize(values: Sequence[float], parts: Sequence[Hashable]) -> Summary:
    """The statistics of the values of runs; `parts` says which split or fold each run has."""
    by_part: dict[Hashable, list[float]] = {}
    for value, part in zip(values, parts, strict=True):
        by_part.setdefault(part, []).append(value)
    units = [statistics.mean(of_part) for of_part in by_part.values()] if len(by_part) > 1 else [*values]
    low, high = (min(100.0, max(0.0, end)) for end in t_interval(units)) if len(units) > 1 else (None, None)
    std = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.mean(values), std, low, high, len(units))


def repeats_section(runs: Sequence[FinishedRun], differing: Sequence[str]) -> dict[str, Any] | None:
    """The values of `templates/_repeats.html`; None unless all runs are tested and differ only by REPEATED_BY."""
    tested = all(run.metric("top1") is not None for run in runs)
    if len(runs) < 2 or not differing or not tested or not {*differing} <= {*REPEATED_BY}:
        return None
    axes = [key for key in REPEATED_BY if key in differing and key != "RNG_SEED"]
    parts = [tuple(run.config.get(key, 1) for key in axes) for run in runs]
    seeds = [run.config.get("RNG_SEED", 1) for run in runs]
    top1 = {(part, seed): run.metric("top1") for part, seed, run in zip(parts, seeds, runs, strict=True)}
    columns = sorted(set(seeds))
    rows = []
    for part in sorted(set(parts)):
        name = ", ".join(f"{REPEATED_BY[key]} {number}" for key, number in zip(axes, part, strict=True)) or "all clips"
        values = [top1.get((part, seed)) for seed in columns]
        known = [value for value in values if value is not None]
        rows.append({"name": name, "top1": values, "mean": statistics.mean(known)})
    summary = summarize([run.metric("top1") for run in runs], parts)
    unit = f"{REPEATED_BY[axes[0]]}s" if axes else "seeds"
    return {
        "seeds": columns,
        "rows": rows,
        "summary": summary,
        "unit": unit,
        "level": round(100 * (1 - LEVEL)),
        "has_folds": "DATA.FOLD" in axes,
        "baselines": _baselines(runs),
        "lead": _lead(summary, len(runs), unit),
    }


def _baselines(runs: Sequence[FinishedRun]) -> str:
    """Means over the runs, as text; "" if those of a run are unknown."""
    found = [baselines_of(run) for run in runs]
    if None in found:
        return ""
    chance, majority = (
        statistics.mean(values) for values in zip(*((b.chance, b.majority) for b in found), strict=True)
    )
    return describe_baselines(chance, majority)


def _lead(summary: Summary, num_runs: int, unit: str) -> str:
    interval = f"{round(100 * (1 - LEVEL))} % interval of the mean over {summary.count} {unit}"
    return (
        f"{num_runs} runs of one configuration: test top-1 {summary.mean:.2f} % ± {summary.std:.2f} "
        f"({interval}: {summary.low:.1f} to {summary.high:.1f} %)."
    )
