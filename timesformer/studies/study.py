"""What a study is: its tables with their rows and published figures, read from a YAML file (docs/studies.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from timesformer.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "configs" / "studies"
FIGURES = ("confusion", "per_class", "attention", "examples")

Options = dict[str, Any]


class StudyError(UserError):
    """A study's file is not as it should be; the message names file and key."""


@dataclass(frozen=True)
class DemoData:
    """Demo clips to make, by datasets/demo/make.py.

    Attributes:
        seed: of the generator.
        clips: of each class for training, validation and test.
        classes: names of some of the classes; empty for all.
        layout: how they are laid out: as the dataset hmdb_simp, muwiges or ucf101.
    """

    seed: int
    clips: tuple[int, int, int]
    classes: tuple[str, ...] = ()
    layout: str = "hmdb_simp"


@dataclass(frozen=True)
class Setting:
    """What is run: a configuration file and what is set over it.

    Attributes:
        config: the file; None for that of the study.
        set: options by their dotted key.
        weights: name of the weights to start from; "none" for none, None for those of the study.
    """

    config: Path | None = None
    set: Options = field(default_factory=dict)
    weights: str | None = None


@dataclass(frozen=True)
class Pretraining:
    """A run of the demo whose best checkpoint stands for published weights: from scratch, and the whole setting."""

    data: DemoData
    setting: Setting


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        name: unlike that of any other row of its table.
        published: top-1 and top-5 in percent as published; None where there is none.
        setting: what is run; None for a row that is only printed as published.
        demo: what takes its place, or is set over it, on the demo.
        facts: other published figures, by the name of their column.
        rarest: share of its training clips that the rarest class keeps, the others in geometric steps; 1 for all.
    """

    name: str
    published: tuple[float | None, float | None]
    setting: Setting | None
    demo: Setting
    facts: dict[str, str]
    rarest: float = 1.0


@dataclass(frozen=True)
class Finding:
    """That a row's top-1 is above another's (`beats`), or not below it."""

    row: str
    other: str
    beats: bool


@dataclass(frozen=True)
class Table:
    """A table of the study.

    Attributes:
        title: what it compares.
        rows: its lines.
        columns: options that it shows, by the name of their column.
        findings: what should come out of it.
        processes: for a table of what data-parallel processes see, how many of them; then nothing is trained.
        note: said under the title.
    """

    title: str
    rows: tuple[Row, ...]
    columns: dict[str, str]
    findings: tuple[Finding, ...]
    processes: tuple[int, ...] = ()
    note: str = ""

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True)
class Demo:
    """The study on made clips, for anyone without the data."""

    data: DemoData
    seeds: int
    setting: Setting
    pretrained: dict[str, Pretraining]
    note: str


@dataclass(frozen=True)
class Study:
    """A study: tables over one dataset.

    Attributes:
        name: of its file.
        file: it was read from.
        title: of its page.
        source: where the published figures come from.
        note: said above its tables.
        prepare: the command that makes the dataset ready.
        seeds: training seeds of every row, from 1.
        setting: what all rows have in common.
        pretrained: where released weights are to be had, by name.
        tables: in order.
        only: numbers of the tables that alone take an option of the command line, by its key.
        figures: kind of the figure (see FIGURES), number of the table and names of its rows.
        demo: its demo.
    """

    name: str
    file: Path
    title: str
    source: str
    note: str
    prepare: str
    seeds: int
    setting: Setting
    pretrained: dict[str, str]
    tables: tuple[Table, ...]
    only: dict[str, tuple[int, ...]]
    figures: tuple[tuple[str, int, tuple[str, ...]], ...]
    demo: Demo


def find_study(name: str) -> Path:
    """The file of a study by its name under configs/studies, or by its path.

    Raises StudyError where there is none.
    """
    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = sorted(path.stem for path in FOLDER.glob("*.yaml"))
        raise StudyError(f"there is no study {name!r}: expected a file, or one of {', '.join(known)}")
    return path


def read_study(path: Path) -> Study:
    """Read a study's file.

    Raises:
        StudyError: if it cannot be read, a key is unknown or missing, or a value is not as it should be.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise StudyError(f"{path} is not valid YAML: {error}") from error
    return _Reader(path).study(content)


class _Reader:
    """Turns the content of a file into a Study; `where` is the way to the value at hand, such as tables[0].rows[2]."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def study(self, content: Any) -> Study:
        given = self._keys(
            content,
            "",
            required=("title", "source", "config", "prepare", "tables", "demo"),
            optional=("note", "seeds", "set", "weights", "pretrained", "only", "figures"),
        )
        tables = tuple(
            self._table(table, f"tables[{number}]")
            for number, table in enumerate(self._list(given["tables"], "tables"))
        )
        setting = self._setting(given, "")
        study = Study(
            name=self._path.stem,
            file=self._path,
            title=self._text(given["title"], "title"),
            source=self._text(given["source"], "source"),
            note=self._text(given.get("note", ""), "note"),
            prepare=self._text(given["prepare"], "prepare"),
            seeds=self._count(given.get("seeds", 3), "seeds"),
            setting=setting,
            pretrained={
                name: self._text(place, f"pretrained.{name}")
                for name, place in self._mapping(given.get("pretrained", {}), "pretrained").items()
            },
            tables=tables,
            only={
                key: tuple(self._count(number, f"only.{key}") for number in self._list(numbers, f"only.{key}"))
                for key, numbers in self._mapping(given.get("only", {}), "only").items()
            },
            figures=self._figures(given.get("figures", {}), tables),
            demo=self._demo(given["demo"], setting.config),
        )
        self._check_weights(study)
        return study

    def _table(self, content: Any, where: str) -> Table:
        given = self._keys(
            content, where, required=("title", "rows"), optional=("columns", "findings", "processes", "note")
        )
        rows = [
            self._row(row, f"{where}.rows[{n}]") for n, row in enumerate(self._list(given["rows"], f"{where}.rows"))
        ]
        names = [row.name for row in rows]
        if repeated := {name for name in names if names.count(name) > 1}:
            self._fail(
                f"{where}.rows", f"{sorted(repeated)[0]!r} is the name of several rows, expected another for each"
            )
        findings = self._list(given.get("findings", []), f"{where}.findings", empty=True)
        return Table(
            title=self._text(given["title"], f"{where}.title"),
            rows=tuple(rows),
            columns={
                name: self._text(key, f"{where}.columns.{name}")
                for name, key in self._mapping(given.get("columns", {}), f"{where}.columns").items()
            },
            findings=tuple(self._finding(f, f"{where}.findings[{n}]", names) for n, f in enumerate(findings)),
            processes=tuple(
                self._count(number, f"{where}.processes")
                for number in self._list(given.get("processes", []), f"{where}.processes", empty=True)
            ),
            note=self._text(given.get("note", ""), f"{where}.note"),
        )

    def _row(self, content: Any, where: str) -> Row:
        given = self._keys(
            content,
            where,
            required=("name",),
            optional=("published", "run", "config", "set", "weights", "demo", "facts", "rarest"),
        )
        published = self._list(given.get("published", [None, None]), f"{where}.published")
        if len(published) != 2 or not all(value is None or _is_number(value) for value in published):
            self._fail(f"{where}.published", f"found {published!r}, expected [top-1, top-5] in percent, null for none")
        rarest = given.get("rarest", 1.0)
        if not _is_number(rarest) or not 0 < rarest <= 1:
            self._fail(f"{where}.rarest", f"found {rarest!r}, expected a share above 0, up to 1")
        demo = self._keys(given.get("demo", {}), f"{where}.demo", optional=("config", "set", "weights"))
        return Row(
            name=self._text(given["name"], f"{where}.name"),
            published=tuple(published),
            setting=self._setting(given, f"{where}.") if given.get("run", True) else None,
            demo=self._setting(demo, f"{where}.demo."),
            facts={name: str(value) for name, value in self._mapping(given.get("facts", {}), f"{where}.facts").items()},
            rarest=float(rarest),
        )

    def _finding(self, content: Any, where: str, names: list[str]) -> Finding:
        given = self._keys(content, where, required=("row",), optional=("beats", "not_worse_than"))
        if len(given) != 2:
            self._fail(where, "expected one of beats and not_worse_than beside row")
        other = given.get("beats", given.get("not_worse_than"))
        for name in (given["row"], other):
            if name not in names:
                self._fail(where, f"{name!r} is no row of the table: expected one of {', '.join(names)}")
        return Finding(given["row"], other, "beats" in given)

    def _demo(self, content: Any, study_config: Path) -> Demo:
        given = self._keys(
            content, "demo", required=("data",), optional=("config", "seeds", "set", "weights", "pretrained", "note")
        )
        setting = self._setting(given, "demo.")
        pretrained = {
            name: self._pretraining(name, run, setting, study_config)
            for name, run in self._mapping(given.get("pretrained", {}), "demo.pretrained").items()
        }
        return Demo(
            data=self._demo_data(given["data"], "demo.data"),
            seeds=self._count(given.get("seeds", 1), "demo.seeds"),
            setting=setting,
            pretrained=pretrained,
            note=self._text(given.get("note", ""), "demo.note"),
        )

    def _pretraining(self, name: str, content: Any, demo: Setting, study_config: Path) -> Pretraining:
        where = f"demo.pretrained.{name}"
        if isinstance(content, str):
            other = self._path.with_name(f"{content}.yaml")
            found = {} if content == self._path.stem else read_study(other).demo.pretrained
            if name not in found:
                self._fail(where, f"{other} has no pretraining of that name in its demo")
            return found[name]
        keys = self._keys(content, where, required=("data",), optional=("config", "set"))
        own = self._setting(keys, f"{where}.")
        config = own.config or demo.config or study_config
        return Pretraining(self._demo_data(keys["data"], f"{where}.data"), Setting(config, {**demo.set, **own.set}))

    def _demo_data(self, content: Any, where: str) -> DemoData:
        given = self._keys(content, where, required=("seed", "clips"), optional=("classes", "layout"))
        clips = self._list(given["clips"], f"{where}.clips")
        if len(clips) != 3 or not all(type(number) is int and number > 0 for number in clips):
            self._fail(
                f"{where}.clips", f"found {clips!r}, expected clips of a class for training, validation and test"
            )
        layouts = ("hmdb_simp", "muwiges", "ucf101")
        if (layout := given.get("layout", layouts[0])) not in layouts:
            self._fail(f"{where}.layout", f"found {layout!r}, expected one of {', '.join(layouts)}")
        classes = self._list(given.get("classes", []), f"{where}.classes", empty=True)
        return DemoData(self._count(given["seed"], f"{where}.seed"), tuple(clips), tuple(classes), layout)

    def _setting(self, given: Mapping[str, Any], prefix: str) -> Setting:
        config = given.get("config")
        path = self._path.parent / self._text(config, f"{prefix}config") if config is not None else None
        if path is not None and not path.is_file():
            self._fail(f"{prefix}config", f"{path} not found, expected a configuration, from the study's folder")
        weights = given.get("weights")
        return Setting(
            config=path,
            set=dict(self._mapping(given.get("set", {}), f"{prefix}set")),
            weights=None if weights is None else self._text(weights, f"{prefix}weights"),
        )

    def _figures(self, content: Any, tables: tuple[Table, ...]) -> tuple[tuple[str, int, tuple[str, ...]], ...]:
        found = []
        for kind, place in self._mapping(content, "figures").items():
            where = f"figures.{kind}"
            if kind not in FIGURES:
                self._fail(where, f"is no figure: expected one of {', '.join(FIGURES)}")
            given = self._keys(place, where, required=("table", "rows"))
            number = self._count(given["table"], f"{where}.table")
            if number > len(tables):
                self._fail(f"{where}.table", f"found {number}, expected a number up to {len(tables)}")
            names = [row.name for row in tables[number - 1].rows if row.setting]
            rows = self._list(given["rows"], f"{where}.rows")
            if unknown := [row for row in rows if row not in names]:
                self._fail(f"{where}.rows", f"{unknown[0]!r} is no row of table {number} that is run")
            found.append((kind, number, tuple(rows)))
        return tuple(found)

    def _check_weights(self, study: Study) -> None:
        settings = [("", study.setting), ("demo.", study.demo.setting)]
        for number, table in enumerate(study.tables):
            for place, row in enumerate(table.rows):
                where = f"tables[{number}].rows[{place}]."
                settings += [(where, row.setting or Setting()), (f"{where}demo.", row.demo)]
        for where, setting in settings:
            is_demo = "demo." in where
            known = [*(study.demo.pretrained if is_demo else study.pretrained), "none"]
            if setting.weights is not None and setting.weights not in known:
                section = "demo.pretrained" if is_demo else "pretrained"
                self._fail(f"{where}weights", f"{setting.weights!r} is not in {section}: expected one of {known}")

    # ------------------------------------------------------------ values

    def _keys(
        self, content: Any, where: str, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()
    ) -> Mapping[str, Any]:
        given = self._mapping(content, where or "the file")
        known = (*required, *optional)
        for key in given:
            if key not in known:
                near = get_close_matches(str(key), known, n=1)
                self._fail(
                    _join(where, key), f"is no key here; {f'the nearest is {near[0]}' if near else f'expected {known}'}"
                )
        for key in required:
            if given.get(key) is None:
                self._fail(_join(where, key), "is missing")
        return given

    def _mapping(self, content: Any, where: str) -> Mapping[str, Any]:
        if not isinstance(content, Mapping):
            self._fail(where, f"found {content!r}, expected a mapping of keys to values")
        return content

    def _list(self, content: Any, where: str, empty: bool = False) -> list[Any]:
        if not isinstance(content, list) or not (content or empty):
            self._fail(where, f"found {content!r}, expected a list")
        return content

    def _text(self, content: Any, where: str) -> str:
        if not isinstance(content, str):
            self._fail(where, f"found {content!r}, expected text")
        return content.strip()

    def _count(self, content: Any, where: str) -> int:
        if type(content) is not int or content < 1:
            self._fail(where, f"found {content!r}, expected a whole number from 1")
        return content

    def _fail(self, where: str, problem: str) -> None:
        raise StudyError(f"{self._path}: {where}: {problem}")


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
