"""Outcomes of a study's rows: mean and standard deviation over seeds, and tests of its findings."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from timesformer.studies.cells import Cell
from timesformer.studies.plan import PlannedTable
from timesformer.studies.study import Finding
from timesformer.visualization.run_files import Predictions, join_predictions, read_run
from timesformer.visualization.significance import Comparison, align_predictions, compare_paired, compare_unpaired


@dataclass(frozen=True)
class Statistic:
    """Mean over folds and seeds, and the sample standard deviation; None for one run."""

    mean: float
    std: float | None


@dataclass(frozen=True)
class Outcome:
    """Results of a row over its finished cells: accuracies in percent, training seconds, peak memory in MiB.

    `chance` and `majority` are means of the accuracies of trivial predictions; None for results of older versions.
    """

    cells: tuple[tuple[Cell, dict[str, Any]], ...]
    top1: Statistic | None
    top5: Statistic | None
    val_top1: Statistic | None
    seconds: Statistic | None
    memory: float | None
    chance: float | None
    majority: float | None


def outcome_of(planned: Sequence[Cell], reference: str | None = None) -> Outcome:
    """The outcome of a row's cells so far, or that of another classifier on their features (`Row.reference`)."""
    cells = tuple((cell, results) for cell in planned if (results := cell.results()))
    if reference:
        cells = tuple((cell, row) for cell, results in cells if (row := _find_reference(results, reference)))

    def values_of(key: str) -> list[float]:
        return [results[key] for _, results in cells if results.get(key) is not None]

    keys = ("top1", "top5", "val_top1", "total_train_seconds")
    memory = max(values_of("peak_memory_bytes"), default=None)
    statistics_of = (_summarize(values_of(key)) for key in keys)
    trivial = [results.get("metrics") or {} for _, results in cells]
    chance, majority = (_mean([metrics.get(name) for metrics in trivial]) for name in ("chance", "majority"))
    return Outcome(cells, *statistics_of, None if memory is None else memory / 2**20, chance, majority)


def _mean(values: Sequence[float | None]) -> float | None:
    """None if a value is missing."""
    return statistics.mean(values) if values and None not in values else None


def _find_reference(results: dict[str, Any], method: str) -> dict[str, Any]:
    """The results with the accuracies of a reference classifier; empty if it was not fitted."""
    rows = [row for row in results.get("reference", []) if row["method"] == method]
    kept = {key: results[key] for key in ("num_videos", "num_classes", "versions", "metrics") if key in results}
    return {**kept, "top1": rows[0]["top1"], "val_top1": rows[0]["val_top1"]} if rows else {}


def _summarize(values: Sequence[float]) -> Statistic | None:
    if not values:
        return None
    return Statistic(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Verdict:
    """Whether a test supports a finding (None: undecided, or cells are missing), and a sentence that says so."""

    holds: bool | None
    text: str


def judge(finding: Finding, table: PlannedTable) -> Verdict:
    """Tests a finding by the difference in top-1 of its two rows; only a significant difference decides it."""
    rows = {row.row.name: row for row in table.rows}
    first, second = outcome_of(rows[finding.row].cells), outcome_of(rows[finding.other].cells)
    claim = f"{finding.row} {'beats' if finding.beats else 'is not worse than'} {finding.other}"
    if first.top1 is None or second.top1 is None:
        return Verdict(None, f"{claim}: not known yet")
    found = compare(first, second)
    if found.is_significant:
        holds = found.difference > 0
        verdict = "holds" if holds else "does not hold"
    else:
        holds, worse = None, max(0.0, -found.low)
        verdict = "undecided" if finding.beats else f"not refuted; up to {worse:.1f} points worse is possible"
    return Verdict(holds, f"{claim}: {verdict} ({first.top1.mean:.1f} and {second.top1.mean:.1f}; {found})")


def compare(first: Outcome, second: Outcome) -> Comparison:
    """The difference in top-1 of two rows: paired over common seeds if both have predictions of the same videos.

    The folds of a seed together are one test of all videos.
    """
    by_seed = [_by_seed(outcome) for outcome in (first, second)]
    seeds = sorted(seed for seed in by_seed[0].keys() & by_seed[1].keys() if _same_folds(by_seed, seed))
    predictions = [[_predictions(cells[seed]) for seed in seeds] for cells in by_seed]
    known = seeds and all(one is not None and one.videos for row in predictions for one in row)
    if known and (pairs := align_predictions(*predictions)) is not None:
        return compare_paired(*pairs)
    counts = (
        [(round(results["top1"] / 100 * results["num_videos"]), results["num_videos"]) for _, results in outcome.cells]
        for outcome in (first, second)
    )
    return compare_unpaired(*counts)


def _by_seed(outcome: Outcome) -> dict[int, dict[int, Cell]]:
    """The finished cells by seed and fold."""
    found: dict[int, dict[int, Cell]] = {}
    for cell, _ in outcome.cells:
        found.setdefault(cell.cfg.RNG_SEED, {})[cell.cfg.DATA.FOLD] = cell
    return found


def _same_folds(by_seed: Sequence[dict[int, dict[int, Cell]]], seed: int) -> bool:
    return by_seed[0][seed].keys() == by_seed[1][seed].keys()


def _predictions(cells: dict[int, Cell]) -> Predictions | None:
    """The predictions of all folds together; None if those of one are missing."""
    runs = [read_run(cells[fold].folder).predictions for fold in sorted(cells)]
    return None if any(run is None for run in runs) else join_predictions(runs)
