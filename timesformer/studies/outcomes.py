"""What came out of the rows of a study: mean and spread over seeds, and which findings a test supports."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from timesformer.studies.cells import Cell, PlannedRow, PlannedTable
from timesformer.studies.study import Finding
from timesformer.visualization.run_files import read_run
from timesformer.visualization.significance import Comparison, align_predictions, compare_paired, compare_unpaired


@dataclass(frozen=True)
class Figure:
    """Mean over seeds, and the standard deviation between them (n - 1); None for one seed."""

    mean: float
    spread: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> "Figure | None":
        """The figure of some values; None if there are none."""
        values = list(values)
        if not values:
            return None
        return cls(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Outcome:
    """A row's results over its finished cells.

    Attributes:
        cells: those that are finished, with what their results.json holds.
        top1, top5, val_top1: in percent.
        seconds: of the whole training.
        memory: largest of the cells, in MiB; None if it was not measured.
        num_videos: of the test.
    """

    cells: tuple[tuple[Cell, dict[str, Any]], ...]
    top1: Figure | None
    top5: Figure | None
    val_top1: Figure | None
    seconds: Figure | None
    memory: float | None
    num_videos: int


def outcome_of(row: PlannedRow) -> Outcome:
    """What came out of a row so far."""
    cells = tuple((cell, results) for cell in row.cells if (results := cell.results()))

    def figure(key: str) -> Figure | None:
        return Figure.of(results[key] for _, results in cells if results.get(key) is not None)

    return Outcome(
        cells=cells,
        top1=figure("top1"),
        top5=figure("top5"),
        val_top1=figure("val_top1"),
        seconds=figure("total_train_seconds"),
        memory=max((memory_of(results) or 0.0 for _, results in cells), default=0.0) or None,
        num_videos=cells[0][1]["num_videos"] if cells else 0,
    )


def memory_of(results: dict[str, Any]) -> float | None:
    """Peak memory of a run in MiB: of the GPU if it ran on one, else of the process."""
    peak = results.get("peak_memory_bytes")
    return None if peak is None else peak / 2**20


@dataclass(frozen=True)
class Verdict:
    """Whether the test supports a finding: None where it decides neither way, or cells are missing.

    `text` says so in words, with the difference, its 95 % interval and the p-value.
    """

    holds: bool | None
    text: str


def judge(finding: Finding, table: PlannedTable) -> Verdict:
    """Whether a finding holds, by a test of the difference in top-1 of its two rows.

    Where both rows were tested on the same videos the test is paired, of the seeds that both have: McNemar's for one
    seed, and for several one that has videos and seeds as random (`significance.compare_paired`). Elsewhere, and where
    predictions.csv is missing, it is `significance.compare_unpaired`, of all seeds. A significant difference decides a
    finding; without one, neither row is shown to be better, which does not show that they are equally good.
    """
    first, second = (
        outcome_of(next(row for row in table.rows if row.row.name == name)) for name in (finding.row, finding.other)
    )
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
    """The difference in top-1 of two rows, each with one finished cell or more."""
    by_seed = [{cell.cfg.RNG_SEED: cell for cell, _ in outcome.cells} for outcome in (first, second)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    predictions = [[read_run(cells[seed].folder).predictions for seed in seeds] for cells in by_seed]
    known = seeds and all(one is not None and one.videos for row in predictions for one in row)
    if known and (pairs := align_predictions(*predictions)) is not None:
        return compare_paired(*pairs)
    return compare_unpaired(*([_counts(results) for _, results in outcome.cells] for outcome in (first, second)))


def _counts(results: dict[str, Any]) -> tuple[int, int]:
    """Correct predictions, and videos."""
    return round(results["top1"] / 100 * results["num_videos"]), results["num_videos"]
