"""A cell of a study: one configuration with one seed, in a folder that follows from what it is."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from timesformer.config import ConfigError, check, load_config
from timesformer.config.check import Problem
from timesformer.config.differences import differences
from timesformer.config.options import OPTIONS, effects_of, flatten
from timesformer.config.retired import RENAMED
from timesformer.studies.demo_data import folder_of
from timesformer.studies.study import DemoData, Finding, Row, Setting, Study, StudyError, Table
from timesformer.studies.unequal import lists_folder

STARTS_AT = "TRAIN.CHECKPOINT_FILE_PATH"


@dataclass(frozen=True, eq=False)
class Cell:
    """One run.

    Attributes:
        name: for people.
        cfg: the whole configuration; its OUTPUT_DIR is the folder of the cell.
        parent: the cell whose best checkpoint it starts from, if there is one.
        prepare: what to do where its data are missing.
    """

    name: str
    cfg: CfgNode
    parent: "Cell | None"
    prepare: str

    @property
    def folder(self) -> Path:
        """Where the run leaves its results."""
        return Path(self.cfg.OUTPUT_DIR)

    @property
    def config_path(self) -> Path:
        """The configuration that run_net.py is given."""
        return self.folder / "cell.yaml"

    @property
    def key(self) -> str:
        """What tells it from other cells: the name of its folder among them."""
        return f"{self.folder.parent.name}-{self.folder.name}"

    def results(self) -> dict[str, Any] | None:
        """What results.json holds; None if the cell is not finished, or the file is damaged."""
        try:
            results = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))
            return results if "top1" in results else None
        except (OSError, ValueError, TypeError):
            return None


@dataclass(frozen=True)
class PlannedRow:
    """A row with the configuration it stands for, and its cells, one for each seed; none where nothing is trained."""

    row: Row
    cfg: CfgNode | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class PlannedTable:
    """A table with its rows."""

    number: int
    title: str
    note: str
    columns: dict[str, str]
    findings: tuple[Finding, ...]
    rows: tuple[PlannedRow, ...]
    processes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Choices:
    """What the user chose.

    Attributes:
        output: folder of all studies, with the cells that they share.
        data: folder of the dataset; of the demo, the folder in which its sets are made.
        is_demo: whether to run the demo.
        seeds: number of seeds; None for that of the study.
        options: KEY VALUE KEY VALUE ... for every cell.
        weights: where the weights are, by name.
    """

    output: Path
    data: Path | None
    is_demo: bool
    seeds: int | None = None
    options: tuple[str, ...] = ()
    weights: Mapping[str, str] | None = None


class Planner:
    """Makes the cells of a study; equal ones, whichever row asks for them, are one."""

    def __init__(self, study: Study, choices: Choices) -> None:
        self._study, self._choices = study, choices
        self._cells: dict[Path, Cell] = {}
        self._pretraining: dict[str, Cell] = {}
        self.missing_weights: dict[str, list[str]] = {}
        """Rows by the name of the weights that they start from and nobody gave."""

    @property
    def seeds(self) -> range:
        """Seeds of every row."""
        study = self._study
        return range(1, (self._choices.seeds or (study.demo.seeds if self._choices.is_demo else study.seeds)) + 1)

    @property
    def data(self) -> Path:
        """Folder of the dataset; StudyError if it has to be given."""
        if self._choices.is_demo:
            return self._demo_folder(self._study.demo.data)
        if self._choices.data is None:
            raise StudyError(
                f"{self._study.name} needs its dataset: give --data FOLDER, prepared by `{self._study.prepare}`; or "
                "--demo, which needs none"
            )
        return self._choices.data.resolve()

    def demo_sets(self, cells: list[Cell]) -> list[DemoData]:
        """The sets of made clips that these cells read."""
        if not self._choices.is_demo:
            return []
        demo = self._study.demo
        sets = dict.fromkeys([demo.data, *(run.data for run in demo.pretrained.values())])
        used = {Path(cell.cfg.DATA.PATH_TO_DATA_DIR) for cell in cells}
        return [data for data in sets if self._demo_folder(data) in used or data == demo.data]

    def table(self, number: int, table: Table) -> PlannedTable:
        """The table with its cells.

        Raises StudyError for a row whose options make no sense.
        """
        rows = []
        for row in table.rows:
            where = f"table {number}, {row.name}" if number else f"sweep, {row.name}"
            cells, cfg = (), None
            if row.setting:
                cfg, parent = self._config(row, number, where)
                seeds = () if table.processes else self.seeds
                cells = tuple(self._cell(cfg, parent, seed, f"{where}, seed {seed}") for seed in seeds)
            rows.append(PlannedRow(row, cfg, cells))
        return PlannedTable(
            number, table.title, table.note, table.columns, table.findings, tuple(rows), table.processes
        )

    def _config(self, row: Row, number: int, where: str) -> tuple[CfgNode, Cell | None]:
        """The configuration of a row, and the cell it starts from."""
        study, demo = self._study, self._choices.is_demo
        settings = [study.setting, row.setting or Setting()]
        settings += [study.demo.setting, row.demo] if demo else []
        options = {key: value for setting in settings for key, value in setting.set.items()}
        options["DATA.PATH_TO_DATA_DIR"] = str(self.data)
        if row.rarest < 1:
            options["DATA.SPLITS_DIR"] = str(lists_folder(self._choices.output, self.data, row.rarest))
        config = next(setting.config for setting in reversed(settings) if setting.config)
        weights = next((s.weights for s in reversed(settings) if s.weights is not None), "none")
        parent = None
        if weights == "none":
            options |= {"TRAIN.FINETUNE": False} if demo else {}
        else:
            options["TRAIN.FINETUNE"] = True
            if demo:
                parent = self._pretrain(weights)
                options[STARTS_AT] = str(parent.folder / "checkpoints" / "best.pyth")
            elif source := (self._choices.weights or {}).get(weights):
                options[STARTS_AT] = str(Path(source).resolve()) if Path(source).exists() else source
            else:
                self.missing_weights.setdefault(weights, []).append(where)
        return self._load(config, options, number, where), parent

    def _pretrain(self, name: str) -> Cell:
        if name not in self._pretraining:
            run, where = self._study.demo.pretrained[name], f"weights {name}"
            options = {**run.setting.set, "TRAIN.FINETUNE": False}
            options["DATA.PATH_TO_DATA_DIR"] = str(self._demo_folder(run.data))
            self._pretraining[name] = self._cell(self._load(run.setting.config, options, None, where), None, 1, where)
        return self._pretraining[name]

    def _demo_folder(self, data: DemoData) -> Path:
        return folder_of(data, self._choices.data or Path("data/studies")).resolve()

    def _load(self, config: Path, options: dict[str, Any], number: int | None, where: str) -> CfgNode:
        given = [str(part) for pair in options.items() for part in pair]
        try:
            return load_config(config, [*given, *self._options_for(number)], check_values=False)
        except ConfigError as error:
            raise StudyError(f"{self._study.file}, {where} ({config}): {error}") from error

    def _options_for(self, number: int | None) -> list[str]:
        """The command line's options but for those that are for other tables.

        Without a number, for a run that stands for published weights, they are those alone that change no result.
        """
        options = self._choices.options
        pairs = [options[start : start + 2] for start in range(0, len(options), 2)]
        if number is None:
            return [part for pair in pairs if not _is_identity(pair[0]) for part in pair]
        others = {key for key, numbers in self._study.only.items() if number not in numbers}
        return [part for pair in pairs if pair[0] not in others for part in pair]

    def _cell(self, cfg: CfgNode, parent: Cell | None, seed: int, name: str) -> Cell:
        cfg = cfg.clone()
        name_of_run = re.sub(r"\W+", "_", Path(cfg.OUTPUT_DIR).name)
        folder = self._choices.output.resolve() / "cells" / f"{name_of_run}-{_digest(cfg, parent)}" / f"seed_{seed}"
        cfg.RNG_SEED, cfg.OUTPUT_DIR = seed, str(folder)
        return self._cells.setdefault(folder, Cell(name, cfg, parent, self._study.prepare))


def _digest(cfg: CfgNode, parent: Cell | None) -> str:
    """Ten digits that follow from all that a run's figures depend on, but for the seed, as far as it is no default."""
    content = _content(cfg, parent)
    first_names = {new: old for old, new in RENAMED.items()}  # so that results of earlier versions are found
    own = {
        first_names.get(key, key): value
        for key, value in flatten(content).items()
        if OPTIONS[key].default != value and _is_identity(key)
    }
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:10]


def _is_identity(key: str) -> bool:
    """Whether runs with other values of an option are of different cells."""
    return effects_of(key) != {"runtime"} and key != "RNG_SEED"


def _content(cfg: CfgNode, parent: Cell | None) -> dict[str, Any]:
    content = yaml.safe_load(cfg.dump())
    if parent is not None:
        content["TRAIN"]["CHECKPOINT_FILE_PATH"] = parent.key  # wherever that lies
    return content


def changes_since(cell: Cell) -> list[str]:
    """How the options of a finished cell differ from those its results are of: a default is another one today."""
    then = (cell.results() or {}).get("config")
    changes = differences(then, cell.cfg) if then else []
    return [str(change) for change in changes if change.effects != {"runtime"} and change.key != STARTS_AT]


def problems_of(cell: Cell, check_gpus: bool) -> list[Problem]:
    """What is wrong with the configuration of a cell on this machine; weights of a cell to come are no problem."""
    to_come = cell.parent is not None
    return [problem for problem in check(cell.cfg, check_gpus) if not (to_come and problem.key == STARTS_AT)]


def write_config(cell: Cell) -> None:
    """Writes the configuration of a cell into its folder, for run_net.py."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    cell.config_path.write_text(f"# {cell.name}\n{cell.cfg.dump()}", encoding="utf-8")
