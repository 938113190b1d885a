"""Prepares the data of a study, runs its cells, and writes its tables and figures."""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import SPLITS, DataError
from timesformer.runtime.resource_limits import available_cores
from timesformer.studies import demo_data
from timesformer.studies.cells import Cell
from timesformer.studies.figures import draw_figures
from timesformer.studies.lists import folder_name, write_lists
from timesformer.studies.plan import Plan
from timesformer.studies.running import Launcher, run_cells
from timesformer.studies.study import StudyError
from timesformer.studies.sweep_page import sweep_sections
from timesformer.studies.sweep_run import SweepRun
from timesformer.studies.tables import FILES, Picture, move_other_tables, write_tables


def prepare(plan: Plan, check_gpus: bool) -> None:
    """Checks all cells, and generates the demo's clips and the lists of rows; StudyError if a cell is not valid.

    Nothing is written if the options of a cell are not valid.
    """
    for cell in plan.cells:
        if changed := cell.changed_options():
            raise StudyError(
                f"{cell.folder} holds results of other options than {cell.name}: {'; '.join(map(str, changed))}. Move "
                "it away, or choose another --output"
            )
    made = {"DATA.SPLITS_DIR", *(["DATA.PATH_TO_DATA_DIR"] if plan.choices.is_demo else [])}  # below
    with_lists = {row.cfg.DATA.SPLITS_DIR: row for row in plan.rows if row.cfg is not None and folder_name(row.row)}
    try:
        for cell in plan.missing:
            _check_options(cell, check_gpus, made)
        for data in plan.demo_sets():
            print(f"demo clips: {demo_data.make(data, plan.demo_base, available_cores())}", flush=True)
        for row in with_lists.values():
            if not Path(row.cfg.DATA.PATH_TO_DATA_DIR).is_dir():
                raise DataError(f"{row.cfg.DATA.PATH_TO_DATA_DIR} is not a folder")
            write_lists(row.cfg, row.row)
        _check(plan.missing, check_gpus)
    except DataError as error:
        raise StudyError(f"{error}\n{plan.study.name} expects data prepared by `{plan.study.prepare}`") from error


def _check_options(cell: Cell, check_gpus: bool, ignored: Collection[str] = ()) -> None:
    if problems := [problem for problem in cell.problems(check_gpus) if problem.key not in ignored]:
        if any(problem.key == "DATA.PATH_TO_DATA_DIR" for problem in problems):
            raise DataError(f"{cell.name}: {problems[0]}")
        raise StudyError("\n  - ".join([f"{cell.name} cannot run:", *map(str, problems)]))


def _check(cells: Sequence[Cell], check_gpus: bool) -> None:
    checked = set()
    for cell in cells:
        _check_options(cell, check_gpus)
        data = str((cell.cfg.DATA, cell.cfg.TRAIN.DATASET, cell.cfg.TEST.DATASET, cell.cfg.MODEL.NUM_CLASSES))
        if data not in checked:
            checked.add(data)
            for split in SPLITS:
                load_split(cell.cfg, split)


def reproduce(plan: Plan, launcher: Launcher, sweep: SweepRun | None = None) -> int:
    """Runs the cells, or those of the sweep, and writes tables and figures; returns the exit code."""
    if moved := move_other_tables(plan):
        print(f"the tables in {plan.folder} are of other cells; moved to {moved}", flush=True)
    try:
        failed = sweep.run(launcher) if sweep else run_cells(plan.cells, launcher)
    except BaseException:
        _write(plan, sweep)
        raise
    pictures, problems = draw_figures(plan)
    for finding in _write(plan, sweep, pictures):
        print(finding if sweep else f"finding: {finding}")
    print(f"tables: {', '.join(str(plan.folder / name) for name in FILES)}", flush=True)
    for problem in problems:
        print(f"not drawn: {problem}", file=sys.stderr)
    for cell, error in failed.items():
        print(f"failed: {cell.name}: {error}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(plan.cells)} cells failed; the same command runs them again", file=sys.stderr)
    return 1 if failed else 0


def _write(plan: Plan, sweep: SweepRun | None, pictures: Sequence[Picture] = ()) -> list[str]:
    if sweep is None:
        return write_tables(plan, pictures)
    with sweep.lock():
        return write_tables(plan, pictures, sweep_sections(sweep))
