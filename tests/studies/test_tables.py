"""The tables of a study."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from tests.studies.conftest import finish
from timesformer.studies.cells import Choices
from timesformer.studies.outcomes import Verdict, judge
from timesformer.studies.pages import Page, Section, as_html, as_markdown
from timesformer.studies.reproduction import plan
from timesformer.studies.study import Finding, Study
from timesformer.studies.tables import DEMO, keep_other_tables, write_tables


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


def judged(study: Study, choices: Choices, base: list[np.ndarray], slow: list[np.ndarray]) -> Verdict:
    """The finding "base beats slow" of runs with these correct predictions, of one seed each."""
    table = plan(study, choices).tables[0]
    for row, runs in zip(table.rows, (base, slow), strict=False):
        for cell, right in zip(row.cells, runs, strict=False):
            finish(cell, 0.0, right.tolist())
    return judge(table.findings[0], table)


def test_rows_on_the_same_videos_are_compared_by_a_paired_test(study: Study, choices: Choices) -> None:
    """90 and 84 of 100 videos: unpaired, p = 0.2; but 6 videos are all that differs, and all one way."""
    base, slow = np.arange(100) < 90, np.arange(100) < 84
    verdict = judged(study, choices, [base], [slow])
    assert verdict.holds is True
    assert f"p = {binomtest(6, 6).pvalue:.4f}" in verdict.text  # 2 * 0.5**6
    assert "McNemar's exact test on 100 videos" in verdict.text


def test_a_difference_that_other_seeds_may_turn_around_decides_nothing(study: Study, choices: Choices) -> None:
    """90 and 70, 80 and 84 of 100: the mean is 8 points apart, with a standard error of the videos of 3.5."""
    base, slow = ([np.arange(100) < number for number in numbers] for numbers in ((90, 80), (70, 84)))
    verdict = judged(study, choices, base, slow)
    assert verdict.holds is None
    assert "85.0 and 77.0; +8.0 points" in verdict.text
    assert "2 seeds and 100 videos" in verdict.text


def test_a_significant_difference_the_other_way_refutes(study: Study, choices: Choices) -> None:
    better, worse = np.arange(100) < 60, np.arange(100) < 90
    assert judged(study, choices, [better], [worse]).holds is False


def test_not_worse_than_is_refuted_only_by_a_significant_difference(study: Study, choices: Choices) -> None:
    table = plan(study, choices).tables[0]
    for row, number in zip(table.rows, (86, 90), strict=False):
        finish(row.cells[0], 0.0, [video < number for video in range(100)])
    verdict = judge(Finding("base", "slow", beats=False), table)
    assert verdict.holds is None  # 4 videos, all one way: p = 0.125
    assert "not refuted" in verdict.text
    assert judge(Finding("slow", "base", beats=False), table).holds is None
    finish(table.rows[0].cells[0], 0.0, [video < 70 for video in range(100)])
    assert judge(Finding("base", "slow", beats=False), table).holds is False


def test_rows_on_other_videos_are_compared_as_independent(study: Study, choices: Choices) -> None:
    small, large = np.arange(50) < 45, np.arange(100) < 84
    verdict = judged(study, choices, [small], [large])
    assert verdict.holds is None
    assert "unpaired" in verdict.text


def test_a_table_says_by_which_test_its_findings_are_judged(written: Path) -> None:
    text = (written / "tables.md").read_text()
    assert "* base beats slow: undecided (92.0 and 80.0; +12.0 points" in text  # seeds 90 and 94 against one of 80


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


def test_tables_of_other_cells_are_kept_aside(study: Study, choices: Choices, written: Path) -> None:
    (written / "figures").mkdir()
    before = (written / "tables.csv").read_text()
    assert keep_other_tables(written, plan(study, choices).tables) is None
    others = plan(study, replace(choices, options=("SOLVER.MAX_EPOCH", "7"))).tables
    assert keep_other_tables(written, others) == written / "previous_1"
    assert (written / "previous_1" / "tables.csv").read_text() == before
    assert sorted(path.name for path in written.iterdir()) == ["previous_1"]
    assert keep_other_tables(written, others) is None


def test_text_of_a_page_cannot_become_markup() -> None:
    page = Page("a < b", ["<script>"], [Section("t", header=["", "x"], rows=[["a|b", "<b>"]], points=["1 & 2"])])
    assert "| a/b | <b> |" in as_markdown(page)
    html = as_html(page)
    assert "<script>" not in html
    assert "<td class=n>&lt;b&gt;</td>" in html
    assert "<li>1 &amp; 2</li>" in html
