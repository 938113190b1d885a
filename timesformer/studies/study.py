"""The schema of a study's YAML file: tables of runs next to published results (docs/studies.md)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from timesformer.config.shipped import SUFFIXES, find_config, shipped_folder, study_names
from timesformer.errors import UserError

FOLDER = shipped_folder() / "studies"


class StudyError(UserError):
    """A study cannot be read or run; the message names the file and key, or the option."""


def _find_config(path: Path, info: ValidationInfo) -> Path:
    """A configuration, given relative to the study's file, or by the name of a shipped one."""
    relative = info.context.parent / path if info.context is not None else path
    if relative.is_file():
        return relative
    try:
        return find_config(path)
    except UserError as error:
        raise ValueError(str(error)) from error


Count = Annotated[int, Field(ge=1, strict=True)]
Config = Annotated[Path, AfterValidator(_find_config)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class DemoData(_Section):
    """Clips to make with `prepare demo`; clips: per class, for training, validation and test."""

    seed: Count
    clips: tuple[Count, Count, Count]
    classes: tuple[str, ...] = ()
    layout: Literal["hmdb_simp", "muwiges", "ucf101"] = "hmdb_simp"


class Setting(_Section):
    """A configuration, options over it, and the name of the weights to start from; None: those of the study."""

    config: Config | None = None
    set: dict[str, Any] = {}
    weights: str | None = None


class Pretraining(Setting):
    """A training run of the demo whose best checkpoint is the stand-in for published weights."""

    data: DemoData


class Split(_Section):
    """A new split of all clips. test: fraction of all clips; val: of the remaining ones."""

    test: float = Field(0.1, gt=0, lt=1)
    val: float = Field(0.2, gt=0, lt=1)
    stratified: bool = True
    seed: int = 42


class Row(Setting):
    """A row of a table. published: top-1 and top-5 in percent; demo: settings over these in the demo.

    in_demo: whether the demo runs the row; note: a sentence below the table.
    rarest, split: other lists of clips than those of the dataset.
    reference: a classifier on the cached features of the runs, whose accuracy is shown instead of that of the head.
    """

    name: str
    published: tuple[float | None, float | None] = (None, None)
    run: bool = True
    in_demo: bool = True
    demo: Setting = Setting()
    facts: dict[str, Any] = {}
    note: str = ""
    rarest: float = Field(1.0, gt=0, le=1)
    split: Split | None = None
    reference: Literal["k-NN", "logistic regression"] | None = None


class Finding(_Section):
    """An expected result: the top-1 of `row` is above that of `beats`, or not below that of `not_worse_than`."""

    row: str
    beats: str | None = None
    not_worse_than: str | None = None

    @property
    def other(self) -> str:
        """The row to compare with."""
        return self.beats or self.not_worse_than or ""

    @model_validator(mode="after")
    def _check(self) -> "Finding":
        if (self.beats is None) == (self.not_worse_than is None):
            raise ValueError("expected one of beats and not_worse_than")
        return self


class Table(_Section):
    """A table of the study; with `processes` it counts the classes that they see, and nothing is trained."""

    title: str
    note: str = ""
    rows: tuple[Row, ...] = Field(min_length=1)
    columns: dict[str, str] = {}
    findings: tuple[Finding, ...] = ()
    processes: tuple[Count, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "Table":
        names = [row.name for row in self.rows]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"rows: found {repeated[0]!r} several times, expected unique names")
        compared = [row.name for row in self.rows if row.reference is None]  # others have no predictions
        for finding in self.findings:
            for name in (finding.row, finding.other):
                _check_choice("findings", name, compared)
        return self


class FigureRows(_Section):
    """Rows of a table that a figure is drawn for."""

    table: Count
    rows: tuple[str, ...] = Field(min_length=1)


class Demo(Setting):
    """The study on generated clips. pretrained: runs by the name of the weights, or the study that has the run."""

    data: DemoData
    seeds: Count = 1
    folds: Count = 1
    pretrained: dict[str, Pretraining | str] = {}
    note: str = ""


class Study(Setting):
    """A study: tables over one dataset; with several `folds`, by cross-validation (DATA.SPLIT_RULE folds)."""

    config: Config
    file: Path = Path()
    title: str
    source: str
    note: str = ""
    prepare: str
    seeds: Count = 3
    folds: Count = 1
    pretrained: dict[str, str] = {}
    tables: tuple[Table, ...] = Field(min_length=1)
    only: dict[str, tuple[Count, ...]] = {}
    figures: dict[Literal["confusion", "per_class", "cmc", "attention", "examples"], FigureRows] = {}
    demo: Demo | None = None

    @property
    def name(self) -> str:
        """Name of the file without suffix."""
        return self.file.stem

    @property
    def is_configuration(self) -> bool:
        """Whether the file is a configuration; the study then has a single row."""
        return self.file.absolute() == self.config

    @model_validator(mode="after")
    def _check(self) -> "Study":
        for kind, figure in self.figures.items():
            if figure.table > len(self.tables):
                raise ValueError(f"figures.{kind}.table: found {figure.table}, expected 1 to {len(self.tables)}")
            names = [row.name for row in self.tables[figure.table - 1].rows if row.run]
            for name in figure.rows:
                _check_choice(f"figures.{kind}.rows", name, names)
        for key, setting in self._settings():
            if setting.weights is not None:
                known = self.demo.pretrained if "demo" in key and self.demo else self.pretrained
                _check_choice(f"{key}weights", setting.weights, [*known, "none"])
        return self

    def _settings(self) -> Iterator[tuple[str, Setting]]:
        yield "", self
        if self.demo:
            yield "demo.", self.demo
        for number, table in enumerate(self.tables):
            for index, row in enumerate(table.rows):
                yield f"tables[{number}].rows[{index}].", row
                yield f"tables[{number}].rows[{index}].demo.", row.demo


def _check_choice(key: str, value: str, choices: list[str]) -> None:
    if value not in choices:
        raise ValueError(f"{key}: found {value!r}, expected one of {', '.join(choices)}")


def find_study(name: str) -> Path:
    """The file of a study, given by its name under configs/studies or by its path; or that of a configuration."""
    path = Path(name) if Path(name).suffix in SUFFIXES else FOLDER / f"{name}.yaml"
    if path.is_file():
        return path
    try:
        return find_config(name)
    except UserError as error:
        raise StudyError(f"study {name!r} not found: expected one of {', '.join(study_names())}; {error}") from error


def read_study(path: Path) -> Study:
    """Reads the file of a study, or of a configuration; StudyError with file and key if it is not valid."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and all(str(key).isupper() for key in content):  # keys of a configuration
            content = {"config": path.absolute(), "title": path.stem, "source": "", "prepare": "timesformer prepare"}
            content |= {"seeds": 1, "tables": [{"title": "Results", "rows": [{"name": path.stem}]}]}
        study = Study.model_validate(content, context=path).model_copy(update={"file": path})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        raise StudyError("\n".join(f"{path}: {_describe(problem)}" for problem in error.errors())) from error
    if study.demo is None:
        return study
    runs = {name: _complete(study, name, run) for name, run in study.demo.pretrained.items()}
    return study.model_copy(update={"demo": study.demo.model_copy(update={"pretrained": runs})})


def _complete(study: Study, name: str, run: Pretraining | str) -> Pretraining:
    """The run with the demo's settings, or that of another study."""
    if isinstance(run, str):
        other = study.file.with_name(f"{run}.yaml")
        demo = None if other == study.file else read_study(other).demo
        found = demo.pretrained if demo else {}
        if name not in found:
            raise StudyError(f"{study.file}: demo.pretrained.{name}: found {run}, expected a study that has this key")
        return found[name]
    config = run.config or study.demo.config or study.config
    return run.model_copy(update={"config": config, "set": {**study.demo.set, **run.set}})


def _describe(problem: dict[str, Any]) -> str:
    """A problem found by pydantic: key, what was found, what was expected."""
    parts = [part for part in problem["loc"] if part not in ("Pretraining", "str")]  # alternative types, not keys
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")
    found = [] if problem["type"] in ("missing", "value_error") else [f"found {problem['input']!r}"]
    message = problem["msg"].removeprefix("Value error, ")
    return ": ".join(filter(None, [key, ", ".join([*found, message])]))
