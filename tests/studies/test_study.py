"""Reading the files of studies."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.studies.conftest import content
from timesformer.studies.plan import Choices, Plan
from timesformer.studies.study import FOLDER, StudyError, find_study, read_study

SHIPPED = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("is_demo", [False, True], ids=["real", "demo"])
def test_shipped_studies_have_valid_cells(path: Path, is_demo: bool, tmp_path: Path) -> None:
    study = read_study(path)
    (tmp_path / "w.pyth").touch()
    weights = dict.fromkeys(study.pretrained, str(tmp_path / "w.pyth"))
    options = ("DATA.TEST_SCENES", "street") if study.name == "muwiges" else ()
    plan = Plan(study, Choices(tmp_path / "out", tmp_path, is_demo, 1, options, weights))
    assert plan.cells
    for cell in plan.cells:
        keys = {problem.key for problem in cell.problems(check_gpus=False)}
        assert keys <= {"DATA.SPLITS_DIR", *(["DATA.PATH_TO_DATA_DIR"] if is_demo else [])}, cell.name  # made later


def test_published_results_of_muwiges_are_those_of_its_table() -> None:
    by_subject, by_scene = read_study(find_study("muwiges")).tables
    published = {row.name: row.published for row in by_subject.rows}
    assert published["TimeSformer"] == (50.96, 86.51)
    assert published["LightTimeSformer"] == (66.25, 96.67)
    assert published["MoViNet-A2, optical flow"] == (95.59, 99.83)
    assert [row.published for row in by_scene.rows] == [(48.52, 91.44), (54.03, 95.83)]
    assert sum(not row.run for row in by_subject.rows) == 9


ROW = ("tables", 0, "rows", 1)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("titel",), "x", "titel"),
        (("prepare",), None, "prepare"),
        (("seeds",), 0, "seeds"),
        (("tables",), {}, "tables"),
        ((*ROW, "publishd"), [1, 2], "tables[0].rows[1].publishd"),
        ((*ROW, "published"), [1], "tables[0].rows[1].published"),
        ((*ROW, "name"), "base", "tables[0]: rows: found 'base'"),
        ((*ROW, "weights"), "K500", "tables[0].rows[1].weights: found 'K500'"),
        ((*ROW, "config"), "no.yaml", "tables[0].rows[1].config"),
        ((*ROW, "split"), {"test": 0}, "tables[0].rows[1].split.test: found 0"),
        ((*ROW, "rarest"), 2, "tables[0].rows[1].rarest: found 2"),
        (("tables", 0, "findings", 0, "beats"), "fast", "tables[0]: findings: found 'fast'"),
        (("tables", 0, "findings", 0, "not_worse_than"), "slow", "tables[0].findings[0]"),
        (("demo", "data", "clips"), [1, 2], "demo.data.clips"),
        (("demo", "data", "layout"), "ssv2", "demo.data.layout: found 'ssv2'"),
        (("demo", "pretrained", "K400"), "study", "demo.pretrained.K400: found study"),
        (("figures",), {"confusion": {"table": 1, "rows": ["theirs"]}}, "figures.confusion.rows: found 'theirs'"),
        (("figures",), {"confusion": {"table": 3, "rows": ["base"]}}, "figures.confusion.table: found 3"),
    ],
)
def test_errors_name_file_key_and_value(
    write_study: Callable[[dict], Path], path: tuple[str | int, ...], value: Any, named: str
) -> None:
    given = content()
    section = given
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = value
    file = write_study(given)
    with pytest.raises(StudyError, match=re.escape(f"{file}: {named}")):
        read_study(file)


def test_an_unknown_study_is_reported_with_the_known_ones() -> None:
    with pytest.raises(StudyError, match="hmdb_simp"):
        find_study("hmdb")
