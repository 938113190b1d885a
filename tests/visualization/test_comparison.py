"""The page that compares runs: which run it calls better, and why."""

import csv
import json
import re
from pathlib import Path

import pytest

from tests.visualization.conftest import MakeRun
from tests.visualization.test_report import Page, no_charts  # noqa: F401, the fixture
from timesformer.visualization.report import write_report


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def highlighted(page: Page) -> list[str]:
    return re.findall(r'<b class="best">([^<]*)</b>', page.source)


def spoil(folder: Path, videos: int) -> Path:
    """Makes the first correct predictions of a run incorrect."""
    header, *rows = csv.reader((folder / "predictions.csv").read_text().splitlines())
    for row in [row for row in rows if row[1] == row[2]][:videos]:
        row[2], row[4] = row[4], row[2]
    with (folder / "predictions.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    top1 = 100 * sum(row[1] == row[2] for row in rows) / len(rows)
    (folder / "results.json").write_text(json.dumps(results_of(folder) | {"top1": top1}))
    return folder


def test_results_options_classes_and_pairs(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("one", 4, seed=1), make_run("other", 4, seed=2, options={"SOLVER.BASE_LR": 0.5})]
    page, (one, other) = Page(write_report(runs, tmp_path / "c.html")), map(results_of, runs)
    assert page.column("results", "top-1") == [f"{one['top1']:.2f}", f"{other['top1']:.2f}"]
    assert page.rows["options"] == [["option", "one", "other"], ["SOLVER.BASE_LR", "0.1", "0.5"]]
    ranges = [float(row[-1]) for row in page.rows["classes"][1:-1]]
    classes = zip(one["per_class"][:-1], other["per_class"][:-1], strict=True)  # the last one has no videos
    differences = [abs(a["top1"] - b["top1"]) for a, b in classes]
    assert ranges == pytest.approx(sorted(differences, reverse=True), abs=0.06)
    both, first, second, neither = (int(cell) for cell in page.rows["pairs"][1][2:6])
    assert both + first + second + neither == 60
    assert both + first == sum(row["correct"] for row in one["per_class"])
    assert both + second == sum(row["correct"] for row in other["per_class"])


def test_significantly_best_run_is_highlighted(make_run: MakeRun, tmp_path: Path) -> None:
    # 12 of the same predictions are spoiled: McNemar's p is 2 * 0.5**12; of 3 pairs, Holm's is 2 times that.
    runs = [spoil(make_run(name, 3, seed=1), videos) for name, videos in (("low", 12), ("best", 0), ("lower", 14))]
    page = Page(write_report(runs, tmp_path / "c.html"))
    assert highlighted(page) == [f"{results_of(runs[1])['top1']:.2f}"]
    cells = {tuple(row[:2]): row for row in page.rows["pairs"][1:]}[("low", "best")]
    assert cells[3:5] == ["0", "12"]
    assert (float(cells[8]), float(cells[9])) == pytest.approx((2 * 0.5**12, 2 * 2 * 0.5**12), abs=1e-4)


def test_p_values_are_adjusted_for_number_of_pairs(make_run: MakeRun, tmp_path: Path) -> None:
    folders = [make_run(f"r{number}", 3, seed=1) for number in range(7)]
    runs = [spoil(folder, 7 * (number > 0)) for number, folder in enumerate(folders)]  # p = 0.0156 each, of 21 pairs
    assert highlighted(Page(write_report(runs[:2], tmp_path / "two.html")))
    page = Page(write_report(runs, tmp_path / "seven.html"))
    assert highlighted(page) == []
    assert "pairs" not in page.rows  # of more than 6 runs


@pytest.mark.parametrize("other", [{"classes": 3, "videos": 30}, {"classes": 8}])
def test_runs_on_different_videos_are_not_ranked(make_run: MakeRun, tmp_path: Path, other: dict[str, int]) -> None:
    page = Page(write_report([make_run("a", 3), make_run("b", **other)], tmp_path / "c.html"))
    assert "highest" not in page.text
    assert highlighted(page) == []
