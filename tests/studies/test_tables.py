"""The page of a study and the verdicts on its findings."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup
from scipy.stats import binomtest

from tests.studies.conftest import content, finish
from timesformer.studies.outcomes import Verdict, judge
from timesformer.studies.plan import Choices, Plan
from timesformer.studies.study import Finding, Study, read_study
from timesformer.studies.tables import DEMO, Picture, move_other_tables, write_tables

BEATS, NOT_WORSE = Finding(row="base", beats="slow"), Finding(row="base", not_worse_than="slow")


@pytest.fixture
def plan(study: Study, choices: Choices) -> Plan:
    """With three finished cells and their page."""
    plan = Plan(study, choices)
    first, second = plan.tables[0].rows[:2]
    for cell, top1, majority in zip((*first.cells, second.cells[0]), (90.0, 94.0, 80.0), (60, 70, 80), strict=True):
        finish(cell, top1, metrics={"chance": 50.0, "majority": majority})
    write_tables(plan)
    return plan


def test_page_shows_published_results_beside_ours(plan: Plan) -> None:  # our top-5 of two classes is left out
    lines = (plan.folder / "tables.md").read_text().splitlines()
    assert "| base | 0.01 | - | 93.6 | 99.2 | 92.0 ± 2.8 | - | 2 | 0:01:00 | 300 |" in lines
    assert "| slow | 0.001 | - | 80.0 | - | 80.0 | - | 1 of 2 | 0:01:00 | 300 |" in lines
    assert "| theirs | - | 4.9 | 50.96 | 86.51 | as published | - | - | - | - |" in lines
    cell = "| table 1, base, seed 2 | 94.00 | - | 93.00 | 0:01:00 | 0:00:01 |"
    assert any(line.startswith(cell) for line in lines)
    assert any(line.startswith("* base beats slow: undecided (92.0 and 80.0; +12.0 points") for line in lines)
    assert DEMO not in lines
    html = (plan.folder / "tables.html").read_text()
    for text in (html, "\n".join(lines)):
        assert "chance 50.0, most frequent class 65.0 (base); chance 50.0, most frequent class 80.0 (slow)" in text
        assert "chance 50.0, most frequent class 65.0." in text  # of the second table


def test_a_row_may_show_another_classifier(write_study: Callable[[dict], Path], choices: Choices) -> None:
    given = content()
    given["tables"][1]["rows"].append({"name": "k-NN", "reference": "k-NN"})
    plan = Plan(read_study(write_study(given)), choices)
    for cell, top1 in zip(plan.tables[1].rows[1].cells, (70.0, 74.0), strict=True):
        reference = [{"method": "k-NN", "parameter": "k", "value": 5, "val_top1": 71.0, "top1": top1}]
        finish(cell, 90.0, reference=reference)
    write_tables(plan)
    lines = (plan.folder / "tables.md").read_text().splitlines()
    assert any(line.startswith("| K400 | - | - | 90.0 ± 0.0 |") for line in lines)
    assert any(line.startswith("| k-NN | - | - | 72.0 ± 2.8 | - | 2 |") for line in lines)


def test_csv_has_a_line_for_each_row(plan: Plan) -> None:
    with (plan.folder / "tables.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["base", "slow", "theirs", "K400"]
    assert (rows[0]["top1_mean"], rows[0]["top1_std"], rows[0]["seeds"]) == ("92.0000", "2.8284", "2")
    assert (rows[1]["published_top5"], rows[1]["top1_std"]) == ("", "")
    assert rows[3]["folders"] == rows[0]["folders"]
    assert [row["majority"] for row in rows] == ["65.0000", "80.0000", "", "65.0000"]


def test_demo_pages_are_marked(study: Study, tmp_path: Path) -> None:
    plan = Plan(study, Choices(tmp_path / "out", tmp_path, is_demo=True))
    write_tables(plan)
    for name in ("tables.md", "tables.html"):
        text = (plan.folder / name).read_text()
        assert DEMO in text
        assert "Tiny (demo)" in text
        assert "base beats slow: not known yet" in text


def test_rows_that_are_not_in_the_demo_have_no_cells(write_study: Callable[[dict], Path], tmp_path: Path) -> None:
    given = content()
    given["tables"][0]["rows"][1] |= {"in_demo": False, "note": "two changes."}
    plan = Plan(read_study(write_study(given)), Choices(tmp_path / "out", tmp_path, is_demo=True))
    assert [len(row.cells) for row in plan.tables[0].rows] == [1, 0, 0]
    write_tables(plan)
    text = (plan.folder / "tables.md").read_text()
    assert "not in the demo" in text
    assert "slow: two changes." in text


def test_tables_of_other_cells_are_moved(study: Study, choices: Choices, plan: Plan) -> None:
    (plan.folder / "figures").mkdir()
    before = (plan.folder / "tables.csv").read_text()
    assert move_other_tables(plan) is None
    other = Plan(study, replace(choices, options=("SOLVER.MAX_EPOCH", "7")))
    assert move_other_tables(other) == plan.folder / "previous_1"
    assert (plan.folder / "previous_1" / "tables.csv").read_text() == before
    assert sorted(path.name for path in plan.folder.iterdir()) == ["previous_1"]
    assert move_other_tables(other) is None


def test_text_is_escaped(write_study: Callable[[dict], Path], choices: Choices) -> None:
    given = content()
    given["note"], given["tables"][1]["rows"][0]["name"] = "<script>", "a|<b>"
    plan = Plan(read_study(write_study(given)), choices)
    plan.folder.mkdir(parents=True)
    write_tables(plan, [Picture("1 & 2", plan.folder / "picture.png", Markup("<svg></svg>"))])
    html = (plan.folder / "tables.html").read_text()
    assert "&lt;script&gt;" in html
    assert ">a|&lt;b&gt;</td>" in html
    assert "<svg></svg><figcaption>1 &amp; 2</figcaption>" in html
    markdown = (plan.folder / "tables.md").read_text()
    assert "| a/<b> |" in markdown
    assert "![1 & 2](picture.png)" in markdown


def test_class_counts_of_processes_are_shown(
    write_study: Callable[[dict], Path], choices: Choices, tiny_data: Path
) -> None:
    given = content()
    given["tables"] = [{"title": "classes", "processes": [1, 12], "rows": [{"name": "all"}]}]
    options = ("MODEL.NUM_CLASSES", "3", "TRAIN.BATCH_SIZE", "12")
    plan = Plan(read_study(write_study(given)), replace(choices, data=tiny_data, options=options))
    assert plan.cells == ()
    write_tables(plan)
    lines = (plan.folder / "tables.md").read_text().splitlines()
    assert "| all | 1 | 12 | 4 to 4 | 0.0 | 0 of 3 |" in lines
    assert "| all | 12 | 1 | 0 to 1 | 66.7 | 2 of 3 |" in lines


def judged(
    study: Study, choices: Choices, base: Sequence[int], slow: Sequence[int], finding: Finding = BEATS, total: int = 100
) -> Verdict:
    """The verdict on runs with these numbers of correct predictions, one for each seed; `total` videos for base."""
    table = Plan(study, choices).tables[0]
    for row, counts, videos in zip(table.rows, (base, slow), (total, 100), strict=False):
        for cell, count in zip(row.cells, counts, strict=False):
            finish(cell, 0.0, (np.arange(videos) < count).tolist())
    return judge(finding, table)


def test_rows_on_the_same_videos_are_compared_by_a_paired_test(study: Study, choices: Choices) -> None:
    """90 and 84 of 100 videos: unpaired, p = 0.2; but 6 videos differ, all of them one way."""
    verdict = judged(study, choices, [90], [84])
    assert verdict.holds is True
    assert f"p = {binomtest(6, 6).pvalue:.4f}" in verdict.text  # 2 * 0.5**6


def test_the_folds_of_a_seed_are_one_paired_test(write_study: Callable[[dict], Path], choices: Choices) -> None:
    """3 of 100 videos differ in each fold: 6 differ in both together, all of them one way."""
    verdict = judged(read_study(write_study(content() | {"folds": 2})), replace(choices, seeds=1), [90, 80], [87, 77])
    assert verdict.holds is True
    assert f"p = {binomtest(6, 6).pvalue:.4f}" in verdict.text
    assert "200 videos" in verdict.text


def test_a_difference_that_varies_between_seeds_is_undecided(study: Study, choices: Choices) -> None:
    """The mean is 8 points apart, with a standard error of the videos of 3.5."""
    verdict = judged(study, choices, [90, 80], [70, 84])
    assert verdict.holds is None
    assert "85.0 and 77.0; +8.0 points" in verdict.text


def test_rows_on_different_videos_are_compared_as_independent(study: Study, choices: Choices) -> None:
    verdict = judged(study, choices, [45], [84], total=50)
    assert verdict.holds is None
    assert "unpaired" in verdict.text


@pytest.mark.parametrize(
    ("finding", "base", "slow", "holds"),
    [
        (BEATS, 60, 90, False),
        (NOT_WORSE, 86, 90, None),  # 4 videos differ, all of them one way: p = 0.125
        (NOT_WORSE, 90, 86, None),
        (NOT_WORSE, 70, 90, False),
    ],
)
def test_only_a_significant_difference_decides(
    study: Study, choices: Choices, finding: Finding, base: int, slow: int, holds: bool | None
) -> None:
    assert judged(study, choices, [base], [slow], finding).holds is holds
