"""A study from start to end: what is to be run, the data for it, the runs, the tables and figures."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import DataError
from timesformer.errors import shorten
from timesformer.studies import demo_data
from timesformer.studies.cells import Cell, Choices, PlannedTable, Planner, changes_since, problems_of
from timesformer.studies.figures import draw_figures
from timesformer.studies.running import Launcher, run_cells
from timesformer.studies.study import Study, StudyError, Table
from timesformer.studies.tables import keep_other_tables, write_tables
from timesformer.studies.unequal import write_lists


@dataclass(frozen=True)
class Plan:
    """What a study comes to.

    Attributes:
        tables: all of them, for the page.
        cells: those that the chosen tables need, with the ones they start from.
        folder: where the page is written.
    """

    study: Study
    choices: Choices
    planner: Planner
    tables: tuple[PlannedTable, ...]
    cells: tuple[Cell, ...]
    folder: Path

    @property
    def missing(self) -> list[Cell]:
        """Cells that are not finished."""
        return [cell for cell in self.cells if not cell.results()]


def plan(study: Study, choices: Choices, numbers: Sequence[int] = (), sweep: Table | None = None) -> Plan:
    """Makes the cells of a study.

    Args:
        study: the study.
        choices: what the user chose.
        numbers: tables to run, from 1; none for all.
        sweep: the table of a sweep, which takes the place of those of the study.

    Raises:
        StudyError: if there is no such table, data or weights are not given, or options make no sense.
    """
    planner = Planner(study, choices)
    folder = choices.output / (study.name + ("_demo" if choices.is_demo else ""))
    if sweep is not None:
        planned = {0: planner.table(0, sweep)}
        folder /= "sweep"
    else:
        if unknown := [number for number in numbers if not 1 <= number <= len(study.tables)]:
            raise StudyError(f"--table {unknown[0]}: {study.name} has tables 1 to {len(study.tables)}")
        tables = dict(enumerate(study.tables, start=1))
        planned = {number: planner.table(number, tables[number]) for number in numbers or tables}
    cells: dict[Cell, None] = {}
    for table in planned.values():
        for cell in (cell for row in table.rows for cell in row.cells):
            _add(cell, cells)
    _require_weights(study, planner)
    if sweep is None:
        planned = {number: planned.get(number) or planner.table(number, table) for number, table in tables.items()}
    return Plan(study, choices, planner, tuple(planned.values()), tuple(cells), folder)


def _add(cell: Cell, cells: dict[Cell, None]) -> None:
    if cell.parent is not None:
        _add(cell.parent, cells)
    cells.setdefault(cell)


def _require_weights(study: Study, planner: Planner) -> None:
    if not planner.missing_weights:
        return
    lines = [
        f"--weights {name}=FILE, or --weights {name}={study.pretrained[name]} to have them fetched (for "
        f"{shorten(dict.fromkeys(row.rpartition(', seed')[0] or row for row in rows), '; ', 2)})"
        for name, rows in planner.missing_weights.items()
    ]
    message = "\n  - ".join([f"{study.name} starts from published weights, which are not given:", *lines])
    raise StudyError(f"{message}\nLicences are those of the weights; the released TimeSformer models are CC-BY-NC.")


def describe(plan: Plan) -> list[str]:
    """A line for each cell: what it is, whether it is finished, and where."""
    lines = []
    for cell in plan.cells:
        begun = any((cell.folder / "checkpoints").glob("*.pyth"))
        state = "finished" if cell.results() else "goes on" if begun else "to run"
        lines.append(f"{state:8}  {cell.name}  {cell.folder}")
    return [*lines, f"{len(plan.cells)} cells, {len(plan.missing)} of them to run; tables in {plan.folder}"]


def prepare(plan: Plan, check_gpus: bool) -> None:
    """Makes what made data there are, and checks configurations and data of what is to be run.

    Raises:
        StudyError, DataError: if something is missing or makes no sense, with what to do.
    """
    for cell in plan.cells:
        if changed := changes_since(cell):
            raise StudyError(
                f"{cell.folder} holds results of other options than {cell.name} has: {'; '.join(changed)}. Move that "
                "folder away to run it anew, or choose another --output"
            )
    missing = plan.missing
    seen = [row for table in plan.tables for row in table.rows if table.processes and row.cfg is not None]
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    for data in plan.planner.demo_sets(missing):
        print(f"demo clips: {demo_data.make(data, plan.choices.data or Path('data/studies'), workers)}", flush=True)
    lists = {}
    for row in [*(row for table in plan.tables for row in table.rows if row.row.rarest < 1), *seen]:
        if row.cfg is not None and row.row.rarest < 1:
            lists[row.cfg.DATA.SPLITS_DIR] = row
    try:
        for row in lists.values():
            if not Path(row.cfg.DATA.PATH_TO_DATA_DIR).is_dir():
                raise DataError(f"{row.cfg.DATA.PATH_TO_DATA_DIR} is not a folder here")
            write_lists(row.cfg, row.row.rarest)
        _check(missing, check_gpus)
    except DataError as error:
        raise StudyError(f"{error}\n{plan.study.name} expects its data prepared by `{plan.study.prepare}`") from error


def _check(cells: Sequence[Cell], check_gpus: bool) -> None:
    looked_at = set()
    for cell in cells:
        if problems := problems_of(cell, check_gpus):
            if any(problem.key == "DATA.PATH_TO_DATA_DIR" for problem in problems):
                raise DataError(f"{cell.name}: {problems[0]}")
            raise StudyError("\n  - ".join([f"{cell.name} cannot run:", *map(str, problems)]))
        data = str((cell.cfg.DATA, cell.cfg.TRAIN.DATASET, cell.cfg.TEST.DATASET, cell.cfg.MODEL.NUM_CLASSES))
        if data not in looked_at:
            looked_at.add(data)
            for split in ("train", "val", "test"):
                load_split(cell.cfg, split)


def reproduce(plan: Plan, launcher: Launcher) -> int:
    """Runs what is missing, and writes the tables and figures; the tables also of a study that is interrupted.

    Returns:
        0, or 1 if a cell failed.
    """
    is_demo, data = plan.choices.is_demo, plan.planner.data
    if moved := keep_other_tables(plan.folder, plan.tables):
        print(f"the tables in {plan.folder} are of other cells; they are now in {moved}", flush=True)
    try:
        failed = run_cells(plan.cells, launcher)
    except BaseException:
        write_tables(plan.study, plan.tables, plan.folder, is_demo, data)
        raise
    pictures, problems = draw_figures(plan.study.figures, plan.tables, plan.folder)
    findings = write_tables(plan.study, plan.tables, plan.folder, is_demo, data, pictures)
    for finding in findings:
        print(f"finding: {finding}")
    print(f"tables: {', '.join(str(plan.folder / f'tables.{kind}') for kind in ('md', 'html', 'csv'))}", flush=True)
    for problem in problems:
        print(f"not drawn: {problem}", file=sys.stderr)
    for cell, why in failed.items():
        print(f"failed: {cell.name}: {why}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(plan.cells)} cells failed; the same command runs these again", file=sys.stderr)
    return 1 if failed else 0
