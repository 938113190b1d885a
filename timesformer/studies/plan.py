"""The plan of a study: its tables with the cells of their rows."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from timesformer.config import ConfigError, load_config
from timesformer.errors import counted, shorten
from timesformer.runtime.run_folder import best_path, checkpoint_folder
from timesformer.studies.cells import WEIGHTS_KEY, Cell, is_identity, make_cell
from timesformer.studies.demo_data import folder_of
from timesformer.studies.lists import folder_name
from timesformer.studies.study import DemoData, Row, Setting, Study, StudyError, Table


@dataclass(frozen=True)
class Choices:
    """The user's choices."""

    output: Path
    data: Path | None  # folder of the dataset, or for the demo's clips
    is_demo: bool
    seeds: int | None = None  # None: those of the study
    options: tuple[str, ...] = ()  # KEY VALUE ... for every cell
    weights: Mapping[str, str] = field(default_factory=dict)  # sources by name
    folds: tuple[int, ...] = ()  # numbers of the folds to run; empty: all
    is_dry_run: bool = False  # missing data and weights are listed, and no error


@dataclass(frozen=True)
class PlannedRow:
    """A row with its configuration (None if it is not run) and its cells, one for each fold and seed."""

    row: Row
    cfg: CfgNode | None = None
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class PlannedTable:
    """A table with its number, 0 for a sweep, and its rows."""

    number: int
    table: Table
    rows: tuple[PlannedRow, ...]


class Plan:
    """All tables of a study, or a sweep, and the cells of those with these numbers (none: all), in order of execution.

    Equal cells of several rows are one. Raises StudyError if a table does not exist, data or weights are not given
    (except in a dry run), or options are not valid.
    """

    def __init__(self, study: Study, choices: Choices, numbers: Sequence[int] = (), sweep: Table | None = None) -> None:
        if choices.is_demo and study.demo is None:
            raise StudyError(f"--demo: {study.file} has no demo")
        self.study, self.choices = study, choices
        self.folder = choices.output / (study.name + "_demo" * choices.is_demo) / ("sweep" * (sweep is not None))
        self._known: dict[Path, Cell] = {}
        self._missing_weights: dict[str, list[str]] = {}
        tables = dict(enumerate(study.tables, start=1)) if sweep is None else {0: sweep}
        if unknown := set(numbers) - set(tables):
            raise StudyError(f"--table {min(unknown)}: {study.name} has tables 1 to {len(study.tables)}")
        planned = {number: self._plan_table(number, tables[number]) for number in numbers or tables}
        cells = [cell for table in planned.values() for row in table.rows for cell in row.cells]
        self.cells = tuple(dict.fromkeys(one for cell in cells for one in (cell.parent, cell) if one is not None))
        self._missing_lines = [] if choices.is_demo else self._describe_weights()
        if self._missing_lines and not choices.is_dry_run:
            needs = f"{study.name} needs weights (mind their licenses):"
            raise StudyError("\n  - ".join([needs, *self._missing_lines]))
        self.tables = tuple(planned.get(number) or self._plan_table(number, table) for number, table in tables.items())

    @property
    def missing(self) -> list[Cell]:
        """Cells that are not finished."""
        return [cell for cell in self.cells if not cell.results()]

    @property
    def rows(self) -> list[PlannedRow]:
        """Rows of all tables."""
        return [row for table in self.tables for row in table.rows]

    @cached_property
    def data(self) -> Path:
        """Folder of the dataset."""
        if self.choices.is_demo:
            return self._demo_folder(self.study.demo.data)
        if self.choices.data is None and self.study.is_configuration:
            return self._own_data()
        if self.choices.data is None and self.choices.is_dry_run:
            return Path("DATA").resolve()
        if self.choices.data is None:
            raise StudyError(f"{self.study.name}: give --data FOLDER, prepared by `{self.study.prepare}`, or --demo")
        return self.choices.data.resolve()

    @property
    def demo_base(self) -> Path:
        """Folder in which the demo's clips are made."""
        return self.choices.data or Path("data/studies")

    def demo_sets(self) -> list[DemoData]:
        """Sets of generated clips that unfinished cells read; always that of the demo itself."""
        if not self.choices.is_demo:
            return []
        demo = self.study.demo
        used = {Path(cell.cfg.DATA.PATH_TO_DATA_DIR) for cell in self.missing}
        sets = dict.fromkeys([demo.data, *(run.data for run in demo.pretrained.values())])
        return [data for data in sets if data == demo.data or self._demo_folder(data) in used]

    def describe(self, pruned: Collection[Cell] = ()) -> list[str]:
        """A line for each cell: whether it is finished, its name and folder."""
        lines, to_run = [], 0
        for cell in self.cells:
            resumes = any(checkpoint_folder(cell.cfg).glob("*.pyth"))
            state = "finished" if cell.results() else "pruned" if cell in pruned else "resumes" if resumes else "to run"
            to_run += state in ("resumes", "to run")
            lines.append(f"{state:8}  {cell.name}  {cell.folder}")
        total = f"{counted(len(self.cells), 'cell')}, {to_run} of them to run; tables in {self.folder}"
        return [*lines, total, *self.describe_missing()]

    def describe_missing(self) -> list[str]:
        """A line for each input that unfinished cells lack here, and each other problem of their options."""
        found = {f"missing: {line}": None for line in self._missing_lines}
        for cell in self.missing:
            for problem in cell.problems(check_gpus=False):
                if problem.key != "DATA.PATH_TO_DATA_DIR":
                    found |= {} if problem.key == "DATA.SPLITS_DIR" else {f"problem: {problem}": None}
                elif not self.choices.is_demo:  # which generates its clips
                    is_given = self.choices.data is not None or self.study.is_configuration
                    what = problem if is_given else "--data FOLDER"
                    found[f"missing: {what}, prepared by `{self.study.prepare}`"] = None
        return list(found)

    def _own_data(self) -> Path:
        """The dataset of a configuration."""
        cfg = self._load(self.study.config, self._given(), self.study.name)
        if not cfg.DATA.PATH_TO_DATA_DIR:
            raise StudyError(f"{self.study.file}: DATA.PATH_TO_DATA_DIR is empty: give --data FOLDER")
        return Path(cfg.DATA.PATH_TO_DATA_DIR).resolve()

    def _demo_folder(self, data: DemoData) -> Path:
        return folder_of(data, self.demo_base).resolve()

    def row_of_sweep(self, row: Row) -> PlannedRow:
        """The row of a sweep's table with this name, which is added if it is new."""
        (table,) = self.tables
        for planned in table.rows:
            if planned.row.name == row.name:
                return planned
        planned = self._plan_row(table.number, table.table, row)
        self.tables = (replace(table, rows=(*table.rows, planned)),)
        self.cells = tuple(dict.fromkeys((*self.cells, *planned.cells)))
        return planned

    def _plan_table(self, number: int, table: Table) -> PlannedTable:
        return PlannedTable(number, table, tuple(self._plan_row(number, table, row) for row in table.rows))

    def _plan_row(self, number: int, table: Table, row: Row) -> PlannedRow:
        name = f"table {number}, {row.name}" if number else f"sweep, {row.name}"
        if not row.run or (self.choices.is_demo and not row.in_demo):
            return PlannedRow(row)
        cfg, parent = self._configure(row, number, name)
        return PlannedRow(row, cfg, () if table.processes else tuple(self._cells(cfg, parent, name)))

    def _cells(self, cfg: CfgNode, parent: Cell | None, name: str) -> Iterator[Cell]:
        """The cells of a row, fold after fold."""
        settings = self.study.demo if self.choices.is_demo else self.study
        seeds = range(1, (self.choices.seeds or settings.seeds) + 1)
        if settings.folds == 1:
            yield from (self._cell(cfg, parent, seed, f"{name}, seed {seed}") for seed in seeds)
            return
        folds = self.choices.folds or range(1, settings.folds + 1)
        if max(folds) > settings.folds:
            raise StudyError(f"--fold {max(folds)}: {self.study.name} has folds 1 to {settings.folds}")
        for fold, seed in product(folds, seeds):
            cfg = cfg.clone()
            cfg.DATA.SPLIT_RULE, cfg.DATA.NUM_FOLDS, cfg.DATA.FOLD = "folds", settings.folds, fold
            yield self._cell(cfg, parent, seed, f"{name}, fold {fold}, seed {seed}")

    def _configure(self, row: Row, number: int, name: str) -> tuple[CfgNode, Cell | None]:
        """The configuration of a row, and the cell that it starts from."""
        study, is_demo = self.study, self.choices.is_demo
        settings: list[Setting] = [study, row, *([study.demo, row.demo] if is_demo else [])]
        options = {key: value for setting in settings for key, value in setting.set.items()}
        options["DATA.PATH_TO_DATA_DIR"] = str(self.data)
        if lists := folder_name(row):
            options["DATA.SPLITS_DIR"] = str(self.choices.output.resolve() / "lists" / f"{self.data.name}_{lists}")
        config = next(setting.config for setting in reversed(settings) if setting.config)
        weights = next((one.weights for one in reversed(settings) if one.weights is not None), "none")
        parent = None
        if weights == "none":
            options |= {"TRAIN.FINETUNE": False} if is_demo else {}
        else:
            options["TRAIN.FINETUNE"] = True
            if is_demo:
                parent = self._pretrain(weights)
                options[WEIGHTS_KEY] = str(best_path(parent.cfg))
            elif source := self.choices.weights.get(weights):
                options[WEIGHTS_KEY] = str(Path(source).resolve()) if Path(source).exists() else source
            else:
                self._missing_weights.setdefault(weights, []).append(name)
                options |= {WEIGHTS_KEY: study.pretrained[weights]} if self.choices.is_dry_run else {}
        others = {key for key, numbers in study.only.items() if number not in numbers}
        given = {key: value for key, value in self._given().items() if key not in others}
        return self._load(config, {**options, **given}, name), parent

    def _pretrain(self, name: str) -> Cell:
        """The run of the demo's stand-in for published weights; options that affect results do not vary it."""
        run = self.study.demo.pretrained[name]
        options = {**run.set, "TRAIN.FINETUNE": False, "DATA.PATH_TO_DATA_DIR": str(self._demo_folder(run.data))}
        options |= {key: value for key, value in self._given().items() if not is_identity(key)}
        return self._cell(self._load(run.config, options, f"weights {name}"), None, 1, f"weights {name}")

    def _given(self) -> dict[str, str]:
        """Options of the command line."""
        if len(self.choices.options) % 2:
            raise StudyError(f"{self.choices.options[-1]}: no value found, expected KEY VALUE KEY VALUE ...")
        return dict(zip(self.choices.options[::2], self.choices.options[1::2], strict=True))

    def _load(self, config: Path, options: Mapping[str, Any], name: str) -> CfgNode:
        try:
            return load_config(config, [str(part) for pair in options.items() for part in pair], check_values=False)
        except ConfigError as error:
            raise StudyError(f"{self.study.file}, {name} ({config}): {error}") from error

    def _cell(self, cfg: CfgNode, parent: Cell | None, seed: int, name: str) -> Cell:
        cell = make_cell(cfg, parent, seed, name, self.choices.output.resolve() / "cells")
        return self._known.setdefault(cell.folder, cell)

    def _describe_weights(self) -> list[str]:
        return [
            f"--weights {name}=FILE, or --weights {name}={self.study.pretrained[name]} to download them (for "
            f"{shorten(dict.fromkeys(rows), '; ', 2)})"
            for name, rows in self._missing_weights.items()
        ]
