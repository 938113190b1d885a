"""What came out of the rows of a study: mean and spread over seeds, and whether the findings hold."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from timesformer.studies.cells import Cell, PlannedRow, PlannedTable
from timesformer.studies.study import Finding


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
        seconds: of training.
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
        seconds=figure("train_seconds"),
        memory=max((memory_of(results) or 0.0 for _, results in cells), default=0.0) or None,
        num_videos=cells[0][1]["num_videos"] if cells else 0,
    )


def memory_of(results: dict[str, Any]) -> float | None:
    """Peak memory of a run in MiB: of the GPU if it ran on one, else of the process."""
    peak = results.get("peak_memory_bytes")
    return None if peak is None else peak / 2**20


@dataclass(frozen=True)
class Verdict:
    """Whether a finding holds: None if not all of its cells are there; `text` says so in words."""

    holds: bool | None
    text: str


def judge(finding: Finding, table: PlannedTable) -> Verdict:
    """Whether a finding holds by the mean top-1 of the two rows.

    What counts as a difference is more than one standard error of it: of a share of the test videos, which are the same
    for all seeds, for each of the two.
    """
    first, second = (
        outcome_of(next(row for row in table.rows if row.row.name == name)) for name in (finding.row, finding.other)
    )
    claim = f"{finding.row} {'beats' if finding.beats else 'is not worse than'} {finding.other}"
    if first.top1 is None or second.top1 is None:
        return Verdict(None, f"{claim}: not known yet")
    difference = first.top1.mean - second.top1.mean
    error = math.hypot(*(_standard_error(outcome) for outcome in (first, second)))
    holds = difference > error if finding.beats else difference >= -error
    return Verdict(
        holds,
        f"{claim}: {'holds' if holds else 'does not hold'} ({first.top1.mean:.1f} and {second.top1.mean:.1f}, a "
        f"difference of {difference:+.1f} with a standard error of {error:.1f})",
    )


def _standard_error(outcome: Outcome) -> float:
    share = outcome.top1.mean / 100
    return 100 * math.sqrt(share * (1 - share) / outcome.num_videos)
