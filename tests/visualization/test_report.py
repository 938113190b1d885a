"""The report of a run: complete, self-contained, and tolerant of missing files."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from tests.visualization.conftest import CallTool, MakeRun
from timesformer.config import get_cfg
from timesformer.visualization import report, run_charts
from timesformer.visualization.report import write_report
from timesformer.visualization.run_files import read_run

RunNet = Callable[..., Any]


class Page(HTMLParser):
    """The elements and the text of a page, and the rows of the tables of each section."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[dict[str, str | None]] = []
        self.sections: list[str] = []
        self.text = ""
        self.rows: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self.feed(self.source)
        assert self._open == [], "elements that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(dict(attrs))
        self._open.extend([tag] if tag not in ("meta", "img", "input", "br") else [])
        if tag == "section":
            self.sections.append(dict(attrs).get("id", ""))
        elif tag == "tr":
            self.rows.setdefault(self.sections[-1], []).append([])
        elif tag in ("td", "th"):
            self.rows[self.sections[-1]][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data
            if "td" in self._open or "th" in self._open:
                self.rows[self.sections[-1]][-1][-1] += data.strip()

    def attributes(self, *names: str) -> list[str]:
        """The values of these attributes in all elements."""
        return [value for attributes in self.elements for name in names if (value := attributes.get(name))]

    def column(self, section: str, title: str) -> list[str]:
        header, *rows = self.rows[section]
        return [row[header.index(title)] for row in rows]


@pytest.fixture(autouse=True)
def no_charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws no charts, which take most of the time, except in slow tests."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(run_charts, "svg", lambda figure: "<svg></svg>")


def page_of(folder: Path) -> Page:
    return Page(write_report([folder], folder / "report.html"))


@pytest.mark.slow
def test_page_shows_results(make_run: MakeRun) -> None:
    folder = make_run("five", 5, unreadable=2, options={"SOLVER.MAX_EPOCH": 3})
    results, page = json.loads((folder / "results.json").read_text()), page_of(folder)
    assert f"{results['top1']:.2f}" in page.text
    assert f"{sum(row['correct'] for row in results['per_class'])} of 60 test videos" in page.text
    header, *rows = page.rows["classes"]
    assert header[:6] == ["class", "top-1 (%)", "correct", "test", "train", "val"]
    listed = {row[0]: row for row in rows}
    for number, row in enumerate(results["per_class"][:-1]):
        expected = [f"{row['top1']:.1f}", str(row["correct"]), str(row["num_videos"]), str(7 + number), "–"]
        assert listed[row["class"]][1:6] == expected
    accuracies = [float(row[1]) for row in rows[:-1]]
    assert accuracies == sorted(accuracies)
    assert rows[-1][:2] == ["class4", "–"]  # the class without videos is last
    assert "top-5" not in page.text  # of five classes or fewer
    assert page.column("unreadable", "video") == ["v000", "v001"]
    assert ["SOLVER.MAX_EPOCH", "3", "300"] in page.rows["configuration"]
    assert "torch" in {row[0] for row in page.rows["versions"]}
    total, tested, speed = page.rows["timing"][:3]
    assert total == ["training", "1:02:05 (7 epochs, 532.1 s each)"]
    assert tested == ["training up to the tested checkpoint", "0:01:05 (3 epochs, 21.7 s each)"]
    assert speed == ["training speed of all processes, median", "9.0 clips/s"]
    assert {"loss", "accuracy (%)"} <= set(re.findall(r">([^<]*)</text>", page.source.lower()))


def test_validation_accuracy_of_older_run_is_of_tested_checkpoint(make_run: MakeRun) -> None:
    folder = make_run("validated", 3)
    results = json.loads((folder / "results.json").read_text())
    for checkpoint, expected in (("best.pyth", 70.0), ("checkpoint_epoch_00002.pyth", None)):
        results |= {"schema_version": 1, "checkpoint": f"checkpoints/{checkpoint}"}
        (folder / "results.json").write_text(json.dumps(results))
        assert read_run(folder).metric("val_top1") == expected


@pytest.mark.parametrize(
    ("features", "text"),
    [(False, "The best validation top-1 is 80.00 %, after epoch 2."), (True, "after the last epoch is 60.00 %;")],
)
def test_validation_of_the_tested_weights_is_named(make_run: MakeRun, features: bool, text: str) -> None:
    """Heads on cached features are those of the last epoch, other weights those of the best one."""
    folder = make_run(f"epochs_{features}", 3, epochs=0, options={"FEATURES.ENABLED": features})
    lines = [{"kind": "val_epoch", "epoch": n, "top1": top1, "loss": 1.0} for n, top1 in ((1, 40), (2, 80), (3, 60))]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(folder)
    assert text in page.text
    assert ("80.00" in page.text) is not features


@pytest.mark.parametrize("classes", [5, 6])
def test_files_of_earlier_versions_have_a_top5_of_few_classes(make_run: MakeRun, classes: int) -> None:
    """They are read without it."""
    folder = make_run(f"top5_{classes}", classes)
    results = json.loads((folder / "results.json").read_text())
    assert results["top5"] == 100
    shuffled = {"top1": 50.0, "top5": 100.0, "difference": 1.0}
    (folder / "results.json").write_text(json.dumps(results | {"shuffled": shuffled}))
    run = read_run(folder)
    expected = [None, {"top1": 50.0, "difference": 1.0}, []] if classes == 5 else [100, shuffled, [99.0] * 3]
    assert [run.metric("top5"), run.shuffled, run.series("val_epoch", "top5")[1]] == expected


def test_table_of_classifiers_names_the_head(make_run: MakeRun) -> None:
    folder = make_run("reference", 3, options={"MODEL.HEAD": "temporal"})
    results = json.loads((folder / "results.json").read_text())
    rows = [{"method": "k-NN", "parameter": "k", "value": 5, "val_top1": 50.0, "top1": 40.0}]
    grid = [{"lr": 0.1, "weight_decay": 0.0, "val_top1": 70.0, "val_loss": 1.0}]
    (folder / "results.json").write_text(json.dumps(results | {"reference": rows, "grid": grid}))
    assert [row[0] for row in page_of(folder).rows["heads"][1:3]] == ["temporal head", "k-NN (k 5)"]


@pytest.mark.parametrize(
    ("only_original", "only_shuffled", "same", "text"),
    [
        (20, 1, 39, "uses the order"),
        (12, 6, 40, "The difference is not significant. In order compared with shuffled: +10.0 points"),
        (1, 20, 39, "more accurate with shuffled frames"),
        (0, 0, 58, "does not use"),
    ],
)
def test_gain_from_frame_order(make_run: MakeRun, only_original: int, only_shuffled: int, same: int, text: str) -> None:
    folder = make_run(f"order{only_original}_{only_shuffled}", 3, unreadable=2)
    results = json.loads((folder / "results.json").read_text())
    counts = {"only_original": only_original, "only_shuffled": only_shuffled, "same_prediction": same}
    metrics = {"top1": 12.34, "difference": 100 * (only_original - only_shuffled) / 60, "correct_by_class": [3, 6, 0]}
    (folder / "results.json").write_text(json.dumps(results | {"shuffled": counts | metrics}))
    page = page_of(folder)
    assert "12.34" in page.text
    assert text in page.text
    assert page.rows["frame-order"][2] == ["shuffled", "12.3"]
    assert sorted(page.column("classes", "shuffled (%)")) == ["10.0", "20.0", "–"]


def test_note_about_other_frame_order(make_run: MakeRun) -> None:
    folder = make_run("averaged", 3, options={"TEST.FRAME_ORDER": "averaged"})
    page = page_of(folder)
    assert "averaged frames" in page.text
    assert "frame-order" not in page.sections


def test_names_are_escaped(make_run: MakeRun) -> None:
    names = ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$x_1$ & {{ 7*7 }}", "a", "b"]
    folder = make_run("names", names)
    text = (folder / "predictions.csv").read_bytes().replace(b"v0", b"caf\xe9v0")
    (folder / "predictions.csv").write_bytes(text)
    page = page_of(folder)
    assert "caf\\udce9v0" in page.text  # not UTF-8
    assert page.source.count("<script>") == 1
    assert not page.attributes("onerror")
    assert all(address.startswith(("data:", "#")) for address in page.attributes("src", "href", "xlink:href", "action"))
    assert not re.search(r"url\((?!#)|@import", page.source)
    assert "{{ 7*7 }}" in page.text
    (data,) = re.findall(r'<script type="application/json" id="matrix-data">(.*?)</script>', page.source)
    assert json.loads(data)["names"] == names


def test_missing_files_and_results_of_older_version(make_run: MakeRun) -> None:
    folder = make_run("old", 3)
    results = json.loads((folder / "results.json").read_text())
    kept = {name: results[name] for name in ("schema_version", "top1", "num_videos", "class_names")}
    kept["per_class"] = [{key: row[key] for key in ("class", "top1")} for row in results["per_class"]]
    (folder / "results.json").write_text(json.dumps(kept))
    (folder / "predictions.csv").unlink()
    page = page_of(folder)
    assert "predictions.csv" in page.text
    assert f"{results['top1']:.2f}" in page.text
    assert len(page.rows["classes"]) == 4
    (folder / "metrics.jsonl").write_text('{"kind": "val_epoch", "epoch": 2, "top1": 4.0, "loss": 0.5}\n{"kind": "tr')
    (folder / "results.json").unlink()
    page = page_of(folder)
    assert "results.json" in page.text
    assert "training" in page.sections


def test_folder_without_results_is_refused(
    tmp_path: Path, call_tool: CallTool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call_tool(tmp_path) == 2
    (tmp_path / "results.json").write_text("{")
    assert call_tool(tmp_path) == 2
    assert "results.json" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_pages_of_other_runs_are_not_overwritten(
    make_run: MakeRun, call_tool: CallTool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    runs, path = [make_run(name, 3) for name in ("one & <two>", "other", "third")], tmp_path / "new" / "c.html"
    assert call_tool(*runs[:2], "--output", path) == 0
    before = path.read_text()
    assert call_tool(*runs, "--output", path) == 2
    assert str(path) in capsys.readouterr().err
    assert path.read_text() == before
    assert call_tool(*runs, "--output", path, "--overwrite") == 0
    assert path.read_text() != before


@pytest.mark.slow
def test_test_writes_report_whose_frames_outlive_the_videos(
    run_net: RunNet, tiny_command: list[str], tiny_data: Path, call_tool: CallTool, tmp_path: Path
) -> None:
    data, output = shutil.copytree(tiny_data, tmp_path / "data"), tmp_path / "out"
    options = ["TEST.REPORT", "True", "TENSORBOARD.ENABLE", "False", "SOLVER.MAX_EPOCH", "1"]
    done = run_net(*tiny_command, *options, "DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(output))
    assert done.code == 0, done.err
    page = Page(output / "report.html")
    pictures = page.attributes("src")
    assert len(pictures) == 6  # all six test videos are examples
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in pictures)
    shutil.rmtree(data)
    shutil.copytree(output, tmp_path / "elsewhere")
    assert call_tool(tmp_path / "elsewhere", "--output", tmp_path / "again.html") == 0
    assert Page(tmp_path / "again.html").attributes("src") == pictures


@pytest.mark.parametrize("step", ["write_report", "load_clips"])
def test_failure_of_report_is_a_warning(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    monkeypatch.setattr(report, step, Mock(side_effect=ZeroDivisionError))
    cfg, folder = get_cfg(), make_run("failing", 3)
    cfg.TENSORBOARD.ENABLE = False
    report.report_after_test(cfg, folder)
    assert "ZeroDivisionError" in caplog.text
    assert (folder / "report.html").is_file() == (step == "load_clips")


def test_splits_are_compared(make_run: MakeRun, tmp_path: Path) -> None:
    top1 = []
    for split in (1, 2):
        folder = make_run("split", 3, seed=split, options={"DATA.SPLIT": split})
        top1.append(json.loads((folder / "results.json").read_text())["top1"])
        shutil.copytree(folder, tmp_path / f"split_{split}")
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    report.compare_runs(cfg, [tmp_path / f"split_{split}" for split in (1, 2)])
    page = Page(tmp_path / "report.html")
    assert [row[0] for row in page.rows["results"][1:3]] == ["split_1", "split_2"]
    assert page.rows["results"][3][2] == f"{np.mean(top1):.2f} ± {np.std(top1, ddof=1):.2f}"
    assert [row[0] for row in page.rows["repeats"][1:3]] == ["split 1", "split 2"]
    low, high = ttest_1samp(top1, 0).confidence_interval(0.95)
    assert page.rows["repeats"][4][1] == f"{max(0, low):.1f} to {min(100, high):.1f}"
