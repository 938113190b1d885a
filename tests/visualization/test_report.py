"""The report of a run: complete, self-contained, and tolerant of missing files."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from tests.conftest import load_tool
from tests.visualization.conftest import MakeRun
from timesformer.config import get_cfg
from timesformer.visualization import report, run_charts
from timesformer.visualization.report import write_report
from timesformer.visualization.run_files import read_run

RunNet = Callable[..., Any]
CallTool = Callable[..., int]


class Page(HTMLParser):
    """The elements and the text of a page, and the rows of the tables of each section."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sections: list[str] = []
        self.text = ""
        self.rows: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self.feed(self.source)
        assert self._open == [], "elements that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "br"):
            self._open.append(tag)
        if tag == "section":
            self.sections.append(dict(attrs).get("id", ""))
        if tag == "tr":
            self.rows.setdefault(self.sections[-1], []).append([])
        if tag in ("td", "th"):
            self.rows[self.sections[-1]][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data
            if "td" in self._open or "th" in self._open:
                self.rows[self.sections[-1]][-1][-1] += data.strip()

    def attributes(self, *names: str) -> list[str]:
        """The values of these attributes in all elements."""
        return [value for _, attributes in self.elements for name in names if (value := attributes.get(name))]

    def column(self, section: str, title: str) -> list[str]:
        header, *rows = self.rows[section]
        return [row[header.index(title)] for row in rows]


@pytest.fixture
def call_tool(monkeypatch: pytest.MonkeyPatch) -> CallTool:
    """call_tool(*arguments): the exit code of tools/report.py."""
    tool: ModuleType = load_tool("report")

    def call(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["report.py", *map(str, arguments)])
        return tool.main()

    return call


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


@pytest.mark.parametrize(
    ("version", "checkpoint", "expected"),
    [
        (2, "checkpoint_epoch_00002.pyth", 70.0),
        (1, "best.pyth", 70.0),
        (1, "checkpoint_epoch_00002.pyth", None),  # the best value of the run, not of this checkpoint
    ],
)
def test_validation_accuracy_is_of_tested_checkpoint(
    make_run: MakeRun, version: int, checkpoint: str, expected: float | None
) -> None:
    folder = make_run("validated", 3)
    results = json.loads((folder / "results.json").read_text())
    results |= {"schema_version": version, "checkpoint": f"checkpoints/{checkpoint}"}
    (folder / "results.json").write_text(json.dumps(results))
    assert read_run(folder).metric("val_top1") == expected


def test_page_fetches_nothing(make_run: MakeRun) -> None:
    page = page_of(make_run("closed", 3))
    addresses = page.attributes("src", "href", "xlink:href", "srcset", "action")
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"url\((?!#)|@import", page.source)
    assert any(content.startswith("default-src 'none'") for content in page.attributes("content"))


def test_names_are_escaped(make_run: MakeRun) -> None:
    names = ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$x_1$ & {{ 7*7 }}", "a", "b"]
    folder = make_run("names", names)
    text = (folder / "predictions.csv").read_bytes().replace(b"v0", b"caf\xe9v0")
    (folder / "predictions.csv").write_bytes(text)
    page = page_of(folder)
    assert "caf\\udce9v0" in page.text  # not UTF-8
    assert page.source.count("<script>") == 1
    assert not page.attributes("onerror")
    assert "{{ 7*7 }}" in page.text
    (data,) = re.findall(r'<script type="application/json" id="matrix-data">(.*?)</script>', page.source)
    assert json.loads(data)["names"] == names


def test_run_without_test(make_run: MakeRun) -> None:
    folder = make_run("trained", 4)
    (folder / "results.json").unlink()
    (folder / "config.yaml").write_text("SOLVER:\n  MAX_EPOCH: 3\n")
    page = page_of(folder)
    assert "results.json" in page.text
    assert ["SOLVER.MAX_EPOCH", "3", "300"] in page.rows["configuration"]
    assert page.sections == ["", "training", "unreadable", "timing", "configuration"]


def test_training_metrics(make_run: MakeRun) -> None:
    """Ties of the best accuracy go to the lowest loss; missing losses and a torn last line are skipped."""
    folder = make_run("tied", 2)
    rows = [{"kind": "val_epoch", "epoch": n, "top1": 40.0, "loss": loss} for n, loss in ((1, 0.9), (2, 0.5), (3, 0.7))]
    rows.append({"kind": "train_step", "epoch": 3, "loss": None})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "train_st')
    text = page_of(folder).text
    assert "after epoch 2." in text
    assert "not finite" in text


def test_results_of_older_version(make_run: MakeRun) -> None:
    folder = make_run("old", 3)
    results = json.loads((folder / "results.json").read_text())
    kept = {name: results[name] for name in ("schema_version", "top1", "num_videos", "class_names")}
    kept["per_class"] = [{key: row[key] for key in ("class", "top1")} for row in results["per_class"]]
    (folder / "results.json").write_text(json.dumps(kept))
    for name in ("predictions.csv", "metrics.jsonl"):
        (folder / name).unlink()
    page = page_of(folder)
    assert "predictions.csv" in page.text
    assert f"{results['top1']:.2f}" in page.text
    assert len(page.rows["classes"]) == 4
    assert "training" not in page.sections


@pytest.mark.parametrize(("text", "named"), [(None, "metrics.jsonl"), ("{", "results.json")])
def test_folder_without_results_is_refused(
    tmp_path: Path, call_tool: CallTool, capsys: pytest.CaptureFixture[str], text: str | None, named: str
) -> None:
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    assert call_tool(tmp_path) == 2
    assert named in capsys.readouterr().err
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


def test_splits_are_compared(make_run: MakeRun, call_tool: CallTool, tmp_path: Path) -> None:
    for split in (1, 2):
        shutil.copytree(make_run("split", 3, seed=split, options={"DATA.SPLIT": split}), tmp_path / f"split_{split}")
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    report.compare_after_splits(cfg, [1, 2])
    page = Page(tmp_path / "report.html")
    assert [row[0] for row in page.rows["results"][1:3]] == ["split_1", "split_2"]
    assert "±" in page.rows["results"][3][2]
    assert page.rows["options"][1] == ["DATA.SPLIT", "1", "2"]
    assert call_tool(tmp_path, "--output", tmp_path / "again.html") == 0
    assert (tmp_path / "again.html").read_text() == (tmp_path / "report.html").read_text()


def test_runs_with_equal_folder_names_are_named_by_parents(make_run: MakeRun, tmp_path: Path) -> None:
    seeds = [make_run("seed", 3, seed=seed, options={"RNG_SEED": seed}) for seed in (1, 2)]
    top1 = [json.loads((folder / "results.json").read_text())["top1"] for folder in seeds]
    page = Page(write_report(seeds, tmp_path / "seeds.html"))
    assert page.rows["results"][-1][2] == f"{np.mean(top1):.2f} ± {np.std(top1, ddof=1):.2f}"
    assert len({row[0] for row in page.rows["results"][1:3]}) == 2
    other = make_run("rate", 3, options={"SOLVER.BASE_LR": 0.5})
    assert "±" not in Page(write_report([*seeds, other], tmp_path / "mixed.html")).text
