"""The tables of a study."""

import csv
from pathlib import Path

import pytest

from tests.studies.conftest import finish
from timesformer.studies.cells import Choices
from timesformer.studies.pages import Page, Section, as_html, as_markdown
from timesformer.studies.reproduction import plan
from timesformer.studies.study import Study
from timesformer.studies.tables import DEMO, write_tables


@pytest.fixture
def written(study: Study, choices: Choices, tmp_path: Path) -> Path:
    planned = plan(study, choices)
    first, second = planned.tables[0].rows[:2]
    finish(first.cells[0], 90.0)
    finish(first.cells[1], 94.0)
    finish(second.cells[0], 80.0)
    write_tables(study, planned.tables, tmp_path / "page", False, choices.data)
    return tmp_path / "page"


def test_published_figures_stand_beside_mean_and_spread_of_ours(written: Path) -> None:
    lines = (written / "tables.md").read_text().splitlines()
    assert "| base | 0.01 | - | 93.6 | 99.2 | 92.0 ± 2.8 | 100.0 ± 0.0 | 2 | 0:01:00 | 300 |" in lines
    assert "| slow | 0.001 | - | 80.0 | - | 80.0 | 100.0 | 1 of 2 | 0:01:00 | 300 |" in lines
    assert "| theirs | - | 4.9 | 50.96 | 86.51 | as published | - | - | - | - |" in lines
    assert any(
        line.startswith("| table 1, base, seed 2 | 94.00 | 100.00 | 93.00 | 0:01:00 | 0:00:01 |") for line in lines
    )
    assert DEMO not in lines


def test_findings_are_judged_by_their_standard_error(written: Path) -> None:
    text = (written / "tables.md").read_text()
    assert "* base beats slow: holds (92.0 and 80.0, a difference of +12.0 with a standard error of 4.8)" in text


def test_the_demo_says_that_it_is_one(study: Study, choices: Choices, tmp_path: Path) -> None:
    write_tables(study, plan(study, choices).tables, tmp_path / "page", True, choices.data)
    for name in ("tables.md", "tables.html"):
        text = (tmp_path / "page" / name).read_text()
        assert DEMO in text
        assert "Tiny (demo)" in text
        assert "base beats slow: not known yet" in text


def test_the_csv_has_a_line_for_each_row(written: Path) -> None:
    with (written / "tables.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["base", "slow", "theirs", "K400"]
    assert (rows[0]["top1_mean"], rows[0]["top1_std"], rows[0]["seeds"]) == ("92.0000", "2.8284", "2")
    assert (rows[1]["published_top5"], rows[1]["top1_std"]) == ("", "")
    assert rows[3]["folders"] == rows[0]["folders"]


def test_text_of_a_page_cannot_become_markup() -> None:
    page = Page("a < b", ["<script>"], [Section("t", header=["", "x"], rows=[["a|b", "<b>"]], points=["1 & 2"])])
    assert "| a/b | <b> |" in as_markdown(page)
    html = as_html(page)
    assert "<script>" not in html
    assert "<td class=n>&lt;b&gt;</td>" in html
    assert "<li>1 &amp; 2</li>" in html
