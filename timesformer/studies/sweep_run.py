"""Runs the trials of a sweep: a trial is a row of its table, with a cell for each fold and seed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from filelock import FileLock

from timesformer.runtime.run_folder import metrics_path
from timesformer.studies.cells import Cell
from timesformer.studies.plan import Choices, Plan, PlannedRow
from timesformer.studies.running import Launcher, run_cells
from timesformer.studies.study import Row, Study, StudyError
from timesformer.studies.sweeps import Range, Sweep, Value
from timesformer.studies.trials import JOURNAL, Trials

if TYPE_CHECKING:
    import optuna


class SweepRun:
    """The trials of a sweep, and `plan` with a row for each that is known; None if none is.

    Nothing is written before `begin`. The accuracy of a trial is the mean over its cells. A pruner judges the first
    cell; the others wait for it.
    """

    def __init__(self, study: Study, choices: Choices, sweep: Sweep) -> None:
        self.sweep, self._study, self._choices = sweep, study, choices
        self._own = Plan(study, choices, sweep=sweep.table([Row(name="own setting")]))
        is_known = choices.is_dry_run and (self._own.folder / JOURNAL).exists()
        self.trials: Trials | None = self._open() if is_known else None
        self.plan = self._make_plan()
        self._cells_per_trial = len(self._own.tables[0].rows[0].cells)
        self._active: dict[str, list[optuna.trial.Trial]] = {}  # by row; of TPE, several may be equal
        self._rows: dict[Cell, PlannedRow] = {}
        self._waiting: list[Cell] = []  # for the first cell of their trial
        self._ready: list[Cell] = []
        self._sizes: dict[Cell, int] = {}  # of metrics.jsonl when it was last read
        self._pruned: dict[Cell, int] = {}  # epoch

    def _open(self) -> Trials:
        (setting,) = self._own.tables[0].rows
        epochs = _max_epochs(self.sweep, setting)
        return Trials(self._own.folder, self.sweep, [cell.key for cell in setting.cells], epochs)

    def _make_plan(self, examples: Sequence[dict[str, Value]] = ()) -> Plan | None:
        trials = self.trials.all() if self.trials else ()
        known = self.sweep.combinations or [trial.params for trial in trials] or examples
        rows = [self.sweep.row(one) for one in known]
        return Plan(self._study, self._choices, sweep=self.sweep.table(rows)) if rows else None

    def plan_to_check(self) -> Plan:
        """`plan`, or one with an example of a trial."""
        return self.plan or self._make_plan([self.sweep.example()])

    def begin(self) -> Plan:
        """Chooses the first trial, if there is none, and returns the plan."""
        self.trials = self.trials or self._open()
        self.trials.begin()
        self.plan = self.plan or self._make_plan()
        return self.plan

    def describe(self) -> list[str]:
        """A line for each cell that is known: whether it is finished, its name and folder."""
        pruned = [cell for row in self.pruned_rows().values() for cell in row.cells]
        lines = self.plan.describe(pruned) if self.plan else []
        more = self.sweep.trials - len(self.plan.rows if self.plan else ())
        missing = [] if self.plan else self.plan_to_check().describe_missing()
        return [*lines, *([f"{more} trials are chosen while the sweep runs"] if more > 0 else []), *missing]

    def pruned_rows(self) -> dict[int, PlannedRow]:
        """The rows of pruned trials, by trial number."""
        trials = self.trials.all() if self.trials else []
        return {one.number: self.row_of(one) for one in trials if one.state.name == "PRUNED"}

    def row_of(self, trial: optuna.trial.FrozenTrial | optuna.trial.Trial) -> PlannedRow:
        """The row of a trial."""
        return self.plan.row_of_sweep(self.sweep.row(trial.params))

    def lock(self) -> FileLock:
        """Keeps other commands from writing the files that they share."""
        return FileLock(self.plan.folder / "sweep.lock")

    def run(self, launcher: Launcher) -> dict[Cell, str]:
        """Runs the trials that are not finished, except those of other commands; returns the errors by cell."""
        parents = list(dict.fromkeys(cell.parent for cell in self.plan.cells if cell.parent))
        if parents:
            with self.lock():
                if failed := run_cells(parents, launcher):
                    return failed
        return run_cells((), launcher, self)

    @property
    def total(self) -> int:
        """The number of cells of all trials."""
        return self.sweep.trials * self._cells_per_trial

    @property
    def done(self) -> int:
        """The number of cells of finished and pruned trials."""
        return sum(trial.state.is_finished() for trial in self.trials.all()) * self._cells_per_trial

    def take(self, count: int) -> list[Cell]:
        """Cells of trials, at least `count` if there are as many."""
        cells, self._ready = self._ready, []
        while len(cells) < count and (trial := self.trials.take()):
            cells += self._begin(trial)
        return cells

    def _begin(self, trial: optuna.trial.Trial) -> list[Cell]:
        """The cells to run now; none if the results are known."""
        row = self.row_of(trial)
        same = self._active.setdefault(row.row.name, [])
        same.append(trial)
        if len(same) > 1:
            return []
        pruned = {self.row_of(one).row.name: one for one in self.trials.all() if one.state.name == "PRUNED"}
        if earlier := pruned.get(row.row.name):
            self._prune(row, sorted(earlier.intermediate_values.items()))
            return []
        missing = [cell for cell in row.cells if not cell.results()]
        if not missing:
            self._finish(row)
            return []
        self._rows |= dict.fromkeys(missing, row)
        if self.sweep.pruner == "none" or missing[0] is not row.cells[0]:
            return missing
        self._waiting += missing[1:]
        return missing[:1]

    def watch(self, running: Collection[Cell]) -> list[Cell]:
        """Reports new validations; returns cells of trials that are pruned because of them."""
        cancelled = []
        for cell in running if self.sweep.pruner != "none" else ():
            row = self._rows[cell]
            if cell is not row.cells[0] or cell in self._pruned or not self._has_grown(cell):
                continue
            curve = read_validations(cell)
            epoch = self.trials.report(self._active[row.row.name][0], curve, cell.cfg.SOLVER.MAX_EPOCH)
            if epoch is not None:
                self._pruned[cell] = epoch
                self._prune(row, [one for one in curve if one[0] <= epoch])
                cancelled.append(cell)
        return cancelled

    def ended(self, cell: Cell) -> str | None:
        """Continues the trial of a cell; returns the reason if it was pruned."""
        row = self._rows[cell]
        if cell in self._pruned:
            return f"pruned after epoch {self._pruned[cell]}"
        if cell.results():
            begun = [one for one in self._waiting if self._rows[one] is row]
            self._waiting = [one for one in self._waiting if one not in begun]
            self._ready += begun
            if all(one.results() for one in row.cells):
                self._finish(row)
        return None

    def _has_grown(self, cell: Cell) -> bool:
        path = metrics_path(cell.cfg)
        size = path.stat().st_size if path.exists() else 0
        before, self._sizes[cell] = self._sizes.get(cell, 0), size
        return size != before

    def _prune(self, row: PlannedRow, curve: list[tuple[int, float]]) -> None:
        for trial in self._active.pop(row.row.name):
            self.trials.report(trial, curve)
            self.trials.prune(trial)

    def _finish(self, row: PlannedRow) -> None:
        accuracies = [cell.results().get("val_top1") for cell in row.cells]
        if None in accuracies:
            raise StudyError(f"{row.cells[0].folder}: no validation accuracy found, which a sweep compares")
        for trial in self._active.pop(row.row.name):
            self.trials.report(trial, read_validations(row.cells[0]))
            self.trials.finish(trial, statistics.mean(accuracies))


def read_validations(cell: Cell) -> list[tuple[int, float]]:
    """Epoch and top-1 in percent of the validations of a cell so far, in order."""
    path = metrics_path(cell.cfg)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if '"val_epoch"' in line]
    return [(round(line["epoch"]), line["top1"]) for line in lines]


def _max_epochs(sweep: Sweep, setting: PlannedRow) -> int:
    """The epochs of the longest trial."""
    varied = sweep.space.get("SOLVER.MAX_EPOCH")
    if varied is None:
        return setting.cfg.SOLVER.MAX_EPOCH
    return int(varied.high if isinstance(varied, Range) else max(map(float, varied.texts)))
