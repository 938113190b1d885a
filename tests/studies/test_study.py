"""Reading the files of studies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.studies.conftest import content
from timesformer.studies.cells import Choices, problems_of
from timesformer.studies.reproduction import plan
from timesformer.studies.study import FOLDER, StudyError, find_study, read_study

SHIPPED = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("is_demo", [False, True], ids=["real", "demo"])
def test_a_shipped_study_has_sound_cells(path: Path, is_demo: bool, tmp_path: Path) -> None:
    study = read_study(path)
    (tmp_path / "w.pyth").touch()
    weights = dict.fromkeys(study.pretrained, str(tmp_path / "w.pyth"))
    options = ("NUM_GPUS", "0", *(("DATA.TEST_SCENES", "street") if study.name == "muwiges" else ()))
    planned = plan(study, Choices(tmp_path / "out", tmp_path, is_demo, 1, options, weights))
    assert planned.cells
    for cell in planned.cells:
        problems = {problem.split()[0] for problem in problems_of(cell, check_gpus=False)}
        assert problems <= {"DATA.SPLITS_DIR", *(["DATA.PATH_TO_DATA_DIR"] if is_demo else [])}, cell.name  # to be made


def test_the_published_figures_of_the_hmdb_simp_study_are_those_of_its_report() -> None:
    tables = read_study(find_study("hmdb_simp")).tables
    assert [[row.published for row in table.rows] for table in tables[:5]] == [
        [(93.6, 99.2), (92.0, 98.4), (90.4, 97.6), (93.6, 98.4), (17.6, 47.2), (89.6, 96.8)],
        [(93.6, 99.2), (93.6, 98.4), (84.8, 96.8)],
        [(93.6, 99.2), (92.8, 99.2), (91.2, 100)],
        [(93.6, 99.2), (88.8, 99.2)],
        [(93.6, 99.2), (85.83, 97.64)],
    ]


def test_the_published_figures_of_the_gesture_study_are_those_of_its_table() -> None:
    by_subject, by_scene = read_study(find_study("muwiges")).tables
    published = {row.name: row.published for row in by_subject.rows}
    assert published["TimeSformer"] == (50.96, 86.51)
    assert published["LightTimeSformer"] == (66.25, 96.67)
    assert published["MoViNet-A2, optical flow"] == (95.59, 99.83)
    assert [row.published for row in by_scene.rows] == [(48.52, 91.44), (54.03, 95.83)]
    assert sum(row.setting is None for row in by_subject.rows) == 9


def changed(*path: str | int, value: Any) -> dict:
    given = content()
    place = given
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (changed("titel", value="x"), "titel: is no key here; the nearest is title"),
        (changed("tables", 0, "rows", 1, "publishd", value=[1, 2]), r"tables\[0\].rows\[1\].publishd: is no key here"),
        (changed("tables", 0, "rows", 1, "published", value=[1]), r"rows\[1\].published: found \[1\], expected"),
        (changed("tables", 0, "rows", 1, "name", value="base"), "'base' is the name of several rows"),
        (changed("tables", 0, "findings", 0, "beats", value="fast"), r"findings\[0\]: 'fast' is no row of the table"),
        (changed("tables", 0, "rows", 1, "weights", value="K500"), "weights: 'K500' is not in pretrained"),
        (changed("tables", 0, "rows", 1, "config", value="no.yaml"), r"rows\[1\].config: .*no.yaml not found"),
        (changed("tables", 0, "rows", 1, "rarest", value=2), r"rows\[1\].rarest: found 2, expected a share"),
        (changed("demo", "data", "clips", value=[1, 2]), r"demo.data.clips: found \[1, 2\], expected clips of a class"),
        (changed("demo", "data", "layout", value="ssv2"), "demo.data.layout: found 'ssv2', expected one of hmdb_simp"),
        (
            changed("figures", value={"confusion": {"table": 1, "rows": ["theirs"]}}),
            "'theirs' is no row of table 1 that",
        ),
        (changed("seeds", value=0), "seeds: found 0, expected a whole number from 1"),
        (changed("tables", value={}), "tables: found {}, expected a list"),
    ],
)
def test_a_mistake_is_told_with_file_and_key(write_study: Callable[[dict], Path], given: dict, said: str) -> None:
    path = write_study(given)
    with pytest.raises(StudyError, match=f"{path}: .*{said}"):
        read_study(path)


def test_a_missing_key_and_a_missing_study_are_told(write_study: Callable[[dict], Path]) -> None:
    given = content()
    del given["prepare"]
    with pytest.raises(StudyError, match="prepare: is missing"):
        read_study(write_study(given))
    with pytest.raises(StudyError, match=r"no study 'hmdb': expected a file, or one of .*hmdb_simp"):
        find_study("hmdb")
