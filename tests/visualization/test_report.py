"""The report of a run: that it needs nothing else, says what the files say, and stands what they lack."""

import csv
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import load_tool
from timesformer.config import get_cfg, load_config
from timesformer.datasets.clips import ClipDataset, SampledClip
from timesformer.errors import UserError
from timesformer.visualization import charts, report
from timesformer.visualization.confusions import count_confusions, most_confused, order_by_similarity
from timesformer.visualization.examples import (
    least_confident_correct,
    load_clips,
    most_confident_errors,
    read_strips,
    strip,
    write_strips,
)
from timesformer.visualization.report import write_report
from timesformer.visualization.run_files import Predictions

ROOT = Path(__file__).resolve().parents[2]
MakeRun = Callable[..., Path]
RunNet = Callable[..., Any]


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its text, and the rows of each of its sections."""

    VOID = ("meta", "img", "input", "br")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._section = ""
        self.feed(self.source)
        assert self._open == [], "elements that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = dict(attrs).get("id") or ""
        if tag == "tr":
            self.rows.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self.rows[self._section][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data
            if "tr" in self._open and self.rows[self._section][-1]:
                self.rows[self._section][-1][-1] += data.strip()


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("report")


@pytest.fixture(autouse=True)
def charts_left_out(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the charts out of pages, as they take most of the time, but in tests that ask for `charts_drawn`."""
    if "charts_drawn" not in request.fixturenames:
        monkeypatch.setattr(charts, "svg", lambda figure: "<svg></svg>")


@pytest.fixture
def charts_drawn() -> None:
    """Has the charts drawn."""


def page_of(folder: Path) -> Page:
    return Page(write_report([folder], folder / "report.html"))


# ---------------------------------------------------------------- what it says


def test_the_page_says_what_the_files_say(make_run: MakeRun, charts_drawn: None) -> None:
    folder = make_run("five", 5, unreadable=2, options={"SOLVER.MAX_EPOCH": 3})
    results, page = json.loads((folder / "results.json").read_text()), page_of(folder)
    assert f"{results['top1']:.2f}" in page.text
    right = sum(row["correct"] for row in results["per_class"])
    assert f"{right} of 60 test videos are recognised" in page.text
    header, *rows = page.rows["classes"]
    assert header[:6] == ["class", "top-1 (%)", "right", "test", "train", "val"]
    listed = {row[0]: row for row in rows}
    for number, row in enumerate(results["per_class"][:-1]):
        of_page = listed[row["class"]]
        figures = [f"{row['top1']:.1f}", str(row["correct"]), str(row["num_videos"]), str(7 + number), "–"]
        assert of_page[1:6] == figures
    accuracies = [float(row[1]) for row in rows[:-1]]
    assert accuracies == sorted(accuracies)
    assert rows[-1][:2] == ["class4", "–"]  # the class without videos is last
    assert [row[0] for row in page.rows["unreadable"][1:]] == ["v000", "v001"]
    assert ["SOLVER.MAX_EPOCH", "3", "300"] in page.rows["configuration"]
    assert "torch" in {row[0] for row in page.rows["versions"]}
    assert {"loss", "accuracy (%)"} <= set(re.findall(r">([^<]*)</text>", page.source.lower()))


def edited(folder: Path, **figures: Any) -> Path:
    """The folder of a run, whose results.json was changed; None takes a figure out."""
    results = json.loads((folder / "results.json").read_text()) | figures
    kept = {name: value for name, value in results.items() if value is not None}
    (folder / "results.json").write_text(json.dumps(kept))
    return folder


def test_times_of_the_run_and_of_the_checkpoint_are_told_apart(make_run: MakeRun) -> None:
    page = page_of(make_run("timed", 3))
    assert ["training", "1:02:05 (532.1 s for each of 7 epochs)"] in page.rows["timing"]
    assert ["training up to the tested checkpoint", "0:01:05 (21.7 s for each of 3 epochs)"] in page.rows["timing"]
    assert "1:02:05hours, minutes, seconds; 7 epochs" in re.sub(r"\s*\n\s*", "", page.text)
    old = page_of(edited(make_run("old", 3), total_train_seconds=None, total_epochs=None))
    assert old.rows["timing"][0][0] == "training up to the tested checkpoint"
    assert "training up to the tested checkpoint0:01:05" in re.sub(r"\s*\n\s*", "", old.text)


def test_speed_is_that_of_all_processes(make_run: MakeRun) -> None:
    assert ["training speed of all processes, median", "9.0 clips/s"] in page_of(make_run("fast", 3)).rows["timing"]


@pytest.mark.parametrize(
    ("version", "checkpoint", "value", "shown"),
    [
        (2, "checkpoint_epoch_00002.pyth", 61.25, True),
        (2, "checkpoint_epoch_00002.pyth", None, False),
        (1, "best.pyth", 61.25, True),
        (1, "best.pyth", -1.0, False),
        (1, "checkpoint_epoch_00002.pyth", 61.25, False),  # the best of the run, and not of this checkpoint
    ],
)
def test_validation_accuracy_is_that_of_the_tested_checkpoint(
    make_run: MakeRun, tmp_path: Path, version: int, checkpoint: str, value: float | None, shown: bool
) -> None:
    figures = {"schema_version": version, "checkpoint": f"checkpoints/{checkpoint}", "val_top1": value}
    folder = edited(make_run("validated", 3), **figures)
    assert ("of the checkpoint that was tested" in page_of(folder).text) == shown
    page = Page(write_report([folder, make_run("other", 3)], tmp_path / "c.html"))
    column = page.rows["results"][0].index("validation top-1")
    assert page.rows["results"][1][column] == ("61.25" if shown else "–")


def test_the_page_fetches_nothing_and_forbids_it(make_run: MakeRun) -> None:
    page = page_of(make_run("closed", 3))
    addresses = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action") and value
    ]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"url\((?!#)|@import", page.source)
    (policy,) = [a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'")


def test_names_cannot_become_part_of_the_page(make_run: MakeRun, charts_drawn: None) -> None:
    evil = [
        "</script><script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "$x_1$ & {{ 7*7 }}",
        "plain",
        "rest",
    ]
    page = page_of(make_run("evil", evil))
    assert page.source.count("<script>") == 1
    assert not [attributes for tag, attributes in page.elements if tag == "img" and "onerror" in attributes]
    assert "{{ 7*7 }}" in page.text
    (data,) = re.findall(r'<script type="application/json" id="confusions">(.*?)</script>', page.source)
    assert json.loads(data)["names"] == evil


def test_names_that_are_no_utf8_are_shown_with_escapes(make_run: MakeRun) -> None:
    folder = make_run("bytes", 3)
    text = (folder / "predictions.csv").read_bytes().replace(b"v0", b"caf\xe9v0")
    (folder / "predictions.csv").write_bytes(text)
    assert "caf\\udce9v0" in page_of(folder).text


# ---------------------------------------------------------------- what may be missing


@pytest.mark.parametrize("classes", [1, 2, 400])
def test_few_and_many_classes(make_run: MakeRun, classes: int) -> None:
    page = page_of(make_run("size", classes, videos=800))
    assert len(page.rows["classes"]) == classes + 1


def test_a_test_without_training_has_no_curves(make_run: MakeRun) -> None:
    folder = make_run("tested", 4)
    (folder / "metrics.jsonl").unlink()
    page = page_of(folder)
    assert "curves" not in [attributes.get("id") for tag, attributes in page.elements if tag == "section"]
    assert "classes" in page.rows


def test_training_without_a_test_has_curves_alone(make_run: MakeRun) -> None:
    folder = make_run("trained", 4)
    (folder / "results.json").unlink()
    (folder / "config.yaml").write_text("SOLVER:\n  MAX_EPOCH: 3\n")
    page = page_of(folder)
    assert "has not been tested" in page.text
    assert "best validation top-1" in page.text
    assert "every clip could be read" not in page.text
    assert "Versions" not in page.text
    assert ["SOLVER.MAX_EPOCH", "3", "300"] in page.rows["configuration"]
    assert "classes" not in page.rows


def test_of_equal_validation_accuracies_that_of_the_lowest_loss_is_the_best(make_run: MakeRun) -> None:
    folder = make_run("tied", 2)
    losses = [0.9, 0.5, 0.7]
    rows = [{"kind": "val_epoch", "epoch": n, "top1": 40.0, "loss": loss} for n, loss in enumerate(losses, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "40.00 %, after epoch 2." in page_of(folder).text


def test_losses_that_are_not_finite_interrupt_the_line(make_run: MakeRun, charts_drawn: None) -> None:
    folder = make_run("broken", 3)
    lines = (folder / "metrics.jsonl").read_text().replace('"loss": 1.0', '"loss": null')
    (folder / "metrics.jsonl").write_text(lines + '{"kind": "train_st')
    assert "1 of the losses are not finite" in page_of(folder).text


def test_what_older_runs_lack_is_left_out(make_run: MakeRun) -> None:
    folder = make_run("old", 3)
    results = json.loads((folder / "results.json").read_text())
    kept = {name: results[name] for name in ("schema_version", "top1", "num_videos", "class_names")}
    kept["per_class"] = [{key: row[key] for key in ("class", "top1")} for row in results["per_class"]]
    (folder / "results.json").write_text(json.dumps(kept))
    (folder / "predictions.csv").unlink()
    page = page_of(folder)
    assert "predictions.csv is missing" in page.text
    assert f"{results['top1']:.2f}" in page.text
    assert len(page.rows["classes"]) == 4


def test_predictions_of_other_classes_are_not_mixed_in(make_run: MakeRun) -> None:
    folder = make_run("mixed", 3)
    results = json.loads((folder / "results.json").read_text())
    results["class_names"] = ["a", "b", "c"]
    (folder / "results.json").write_text(json.dumps(results))
    assert "'class0' is no class of results.json" in page_of(folder).text


def test_a_test_in_which_nothing_could_be_read(make_run: MakeRun) -> None:
    page = page_of(make_run("unread", 3, videos=10, unreadable=10))
    assert "0 of 10 test videos are recognised" in page.text
    assert "examples" not in [attributes.get("id") for tag, attributes in page.elements if tag == "section"]
    assert len(page.rows["unreadable"]) == 11


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "neither results.json nor metrics.jsonl"),
        ("{", "damaged"),
        ("[]", "expected an object"),
        ('{"class_names": 3}', "class_names is 3, expected a list"),
    ],
)
def test_a_folder_without_legible_results_is_refused(
    tmp_path: Path, tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    monkeypatch.setattr("sys.argv", ["report.py", str(tmp_path)])
    assert tool.main() == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


# ---------------------------------------------------------------- confusions and examples


def predictions(labels: list[int], predicted: list[int], confidence: list[float]) -> Predictions:
    return Predictions(
        [f"v{number}" for number in range(len(labels))],
        np.array(labels),
        np.array(predicted)[:, None],
        np.array(confidence)[:, None],
        [""] * len(labels),
    )


def test_confusions_are_counted_without_the_unreadable() -> None:
    counts = count_confusions(predictions([0, 0, 0, 1, 1], [0, 1, 1, 0, -1], [0.5] * 5), 3)
    assert counts.tolist() == [[1, 2, 0], [1, 0, 0], [0, 0, 0]]
    first, second = most_confused(counts)
    assert (first.true, first.predicted, first.count, first.total, first.back) == (0, 1, 2, 3, 1)
    assert (second.true, second.predicted, second.back, second.share) == (1, 0, 2, 100.0)


def test_classes_that_are_confused_come_side_by_side() -> None:
    counts = np.eye(6, dtype=int) * 10
    for one, other in ((0, 3), (1, 4), (2, 5)):
        counts[one, other] = counts[other, one] = 8
    order = order_by_similarity(counts)
    assert sorted(order) == list(range(6))
    assert {frozenset(order[start : start + 2]) for start in (0, 2, 4)} == {
        frozenset(pair) for pair in ((0, 3), (1, 4), (2, 5))
    }


def test_examples_are_the_surest_mistakes_and_the_least_sure_hits() -> None:
    made = predictions([0, 0, 1, 1, 1, 0], [0, 1, 0, 1, -1, 0], [0.9, 0.6, 0.8, 0.4, np.nan, np.nan])
    assert most_confident_errors(made) == [2, 1]
    assert least_confident_correct(made) == [3, 0, 5]
    assert most_confident_errors(made, among=made.labels == 0) == [1]


def test_strips_hold_frames_evenly_spaced_and_come_back_from_their_file(tmp_path: Path) -> None:
    frames = np.stack([np.full((20, 30, 3), 15 * number, np.uint8) for number in range(16)])
    clip = SampledClip(torch.zeros(3, 16, 20, 30), frames, tuple(range(16)), tuple(n / 10 for n in range(16)), 0)
    made = strip(clip)
    assert (made.sampled, made.numbers[0], made.numbers[-1], len(made.numbers)) == (16, 0, 15, 8)
    assert made.times[-1] == 1.5
    write_strips(tmp_path / "frames.zip", {"a": made, "b/c\udce9": made})
    assert read_strips(tmp_path / "frames.zip") == {"a": made, "b/c\udce9": made}
    assert zipfile.ZipFile(tmp_path / "frames.zip").testzip() is None
    (tmp_path / "frames.zip").write_bytes(b"PK torn")
    assert read_strips(tmp_path / "frames.zip") == {}
    assert read_strips(tmp_path / "absent.zip") == {}


def test_examples_show_the_clip_that_the_test_scored(tiny_command: list[str]) -> None:
    options = ["DATA.REVERSE_INPUT_CHANNEL", "True", "TEST.NUM_SPATIAL_CROPS", "3", "TEST.NUM_ENSEMBLE_VIEWS", "2"]
    cfg = load_config(tiny_command[1], [*tiny_command[2:], *options])
    ((name, clip),) = load_clips(cfg, ["walk/test1", "absent"])
    dataset = ClipDataset(cfg, "test")
    number = list(dataset.records.names).index(name)
    scored = dataset[number * 6 + 1]["clip"]  # of the first of two clips, the crop in the middle
    assert torch.equal(clip.clip, scored)
    assert np.array_equal(clip.frames, scored.flip(0).permute(1, 2, 3, 0).numpy())


# ---------------------------------------------------------------- several runs


def test_runs_are_compared_in_one_page(
    make_run: MakeRun, tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    one, other = make_run("one", 4, seed=1), make_run("other", 4, seed=2, options={"SOLVER.BASE_LR": 0.5})
    monkeypatch.setattr("sys.argv", ["report.py", str(one), str(other), "--output", str(tmp_path / "new" / "c.html")])
    assert tool.main() == 0, capsys.readouterr().err
    page = Page(tmp_path / "new" / "c.html")
    results = [json.loads((folder / "results.json").read_text()) for folder in (one, other)]
    assert [row[2] for row in page.rows["results"][1:]] == [f"{result['top1']:.2f}" for result in results]
    assert page.rows["differing"] == [["option", "one", "other"], ["SOLVER.BASE_LR", "0.1", "0.5"]]
    spreads = [float(row[-1]) for row in page.rows["classes"][1:-1]]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] == max(
        round(abs(a["top1"] - b["top1"]), 1)
        for a, b in zip(results[0]["per_class"][:-1], results[1]["per_class"][:-1], strict=True)
    )
    both, first, second, neither = (int(cell) for cell in page.rows["agreements"][1][2:6])
    assert both + first + second + neither == 60
    assert both + first == sum(row["correct"] for row in results[0]["per_class"])
    assert both + second == sum(row["correct"] for row in results[1]["per_class"])


def test_a_page_of_other_runs_is_not_replaced_unasked(
    make_run: MakeRun, tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    runs = [str(make_run(name, 3)) for name in ("one & <two>", "other", "third")]
    path = tmp_path / "c.html"

    def call(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["report.py", *arguments, "--output", str(path)])
        return tool.main()

    assert call(*runs[:2]) == 0
    before = path.read_text()
    assert call(*runs[:2]) == 0  # of the same runs
    assert call(*runs) == 2
    assert str(path) in capsys.readouterr().err
    assert path.read_text() == before
    assert call(*runs, "--overwrite") == 0
    assert path.read_text() != before
    path.write_text("mine")
    assert call(*runs) == 2
    assert path.read_text() == "mine"


def test_all_runs_that_share_the_best_accuracy_are_named(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [
        make_run(name, 3, seed=1, options={"SOLVER.BASE_LR": rate})
        for name, rate in zip("abc", (1.0, 2.0, 3.0), strict=True)
    ]
    assert "a, b and c share the highest test top-1" in Page(write_report(runs, tmp_path / "c.html")).text


def blue(page: Page) -> list[str]:
    """What the page highlights as best."""
    return re.findall(r'<b class="best">([^<]*)</b>', page.source)


def spoil(folder: Path, videos: int) -> Path:
    """The folder of a run, of whose predictions the first correct ones are made incorrect."""
    results = json.loads((folder / "results.json").read_text())
    header, *rows = csv.reader((folder / "predictions.csv").read_text().splitlines())
    for row in [row for row in rows if row[1] == row[2]][:videos]:
        row[2], row[4] = row[4], row[2]
    with (folder / "predictions.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    results["top1"] = 100 * sum(row[1] == row[2] for row in rows) / len(rows)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_a_run_is_highlighted_where_the_paired_test_says_it_is_better(make_run: MakeRun, tmp_path: Path) -> None:
    # Of the same predictions, 12 were spoiled: McNemar's p is 2 * 0.5**12; of 3 pairs, Holm's is 3 times that.
    runs = [spoil(make_run(name, 3, seed=1), videos) for name, videos in (("low", 12), ("best", 0), ("lower", 14))]
    page = Page(write_report(runs, tmp_path / "c.html"))
    top1 = [json.loads((folder / "results.json").read_text())["top1"] for folder in runs]
    assert blue(page) == [f"{top1[1]:.2f}"]
    assert "best has the highest test top-1" in page.text
    assert "best is significantly better than each other run." in page.text
    cells = {tuple(row[:2]): row for row in page.rows["agreements"][1:]}[("low", "best")]
    assert cells[3:5] == ["0", "12"]
    assert (float(cells[8]), float(cells[9])) == pytest.approx((2 * 0.5**12, 2 * 2 * 0.5**12), abs=1e-4)


def test_no_run_is_highlighted_where_the_difference_may_be_chance(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [spoil(make_run(name, 3, seed=1), videos) for name, videos in (("a", 0), ("b", 4))]  # p = 2 * 0.5**4
    page = Page(write_report(runs, tmp_path / "c.html"))
    assert blue(page) == []
    assert "The difference from b is not significant." in page.text


def test_a_difference_that_one_test_alone_would_find_is_not_enough_among_many(
    make_run: MakeRun, tmp_path: Path
) -> None:
    folders = [make_run(f"r{number}", 3, seed=1) for number in range(7)]
    runs = [spoil(folder, 7 * (number > 0)) for number, folder in enumerate(folders)]  # p = 0.0156 each, of 21 pairs
    assert blue(Page(write_report(runs[:2], tmp_path / "two.html")))
    page = Page(write_report(runs, tmp_path / "seven.html"))
    assert blue(page) == []
    assert "not listed" in page.text


def test_seeds_have_a_mean_and_other_runs_do_not(make_run: MakeRun, tmp_path: Path) -> None:
    seeds = [make_run("seed", 3, seed=seed, options={"RNG_SEED": seed}) for seed in (1, 2)]
    top1 = [json.loads((folder / "results.json").read_text())["top1"] for folder in seeds]
    page = Page(write_report(seeds, tmp_path / "seeds.html"))
    assert page.rows["results"][-1][2] == f"{np.mean(top1):.2f} ± {np.std(top1, ddof=1):.2f}"
    assert len({row[0] for row in page.rows["results"][1:3]}) == 2  # folders of one name are told apart
    other = make_run("rate", 3, options={"SOLVER.BASE_LR": 0.5})
    assert "±" not in Page(write_report([*seeds, other], tmp_path / "mixed.html")).text


def test_an_option_that_an_older_run_does_not_know_was_as_it_is_by_default(make_run: MakeRun, tmp_path: Path) -> None:
    new, old = make_run("new", 3), make_run("old", 3)
    results = json.loads((old / "results.json").read_text())
    del results["config"]["TEST"]["REPORT"]
    (old / "results.json").write_text(json.dumps(results))
    assert "None." in Page(write_report([new, old], tmp_path / "c.html")).text


def test_runs_of_other_videos_are_not_compared_video_by_video(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("large", 3), make_run("small", 3, videos=30)]
    page = Page(write_report(runs, tmp_path / "c.html"))
    assert "not tested on the same videos" in page.text


# ---------------------------------------------------------------- after a test


def test_every_test_leaves_a_report_with_frames_that_outlive_the_videos(
    run_net: RunNet, tiny_command: list[str], tiny_data: Path, tool: ModuleType, tmp_path: Path, monkeypatch: Any
) -> None:
    data, output = shutil.copytree(tiny_data, tmp_path / "data"), tmp_path / "out"
    options = ["TEST.REPORT", "True", "TENSORBOARD.ENABLE", "False", "SOLVER.MAX_EPOCH", "1"]
    done = run_net(*tiny_command, *options, "DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(output))
    assert done.code == 0, done.err
    assert f"report: {output / 'report.html'}" in done.out
    page = Page(output / "report.html")
    pictures = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert len(pictures) == 6  # the six test videos are all among the examples
    assert all(picture.startswith("data:image/jpeg;base64,") for picture in pictures)
    shutil.rmtree(data)
    shutil.copytree(output, tmp_path / "elsewhere")
    monkeypatch.setattr(
        "sys.argv", ["report.py", str(tmp_path / "elsewhere"), "--output", str(tmp_path / "again.html")]
    )
    assert tool.main() == 0
    assert [a["src"] for tag, a in Page(tmp_path / "again.html").elements if tag == "img"] == pictures


@pytest.mark.parametrize("step", ["write_report", "load_clips"])
def test_a_report_that_fails_costs_a_run_nothing(
    run_net: RunNet, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a fault of the report")

    monkeypatch.setattr(report, step, fail)
    options = ["TEST.REPORT", "True", "TENSORBOARD.ENABLE", "False", "SOLVER.MAX_EPOCH", "1"]
    done = run_net(*tiny_command, *options, "OUTPUT_DIR", str(tmp_path))
    assert done.code == 0
    assert "could not be made, the results are whole: a fault of the report" in done.out
    assert (tmp_path / "results.json").is_file()
    assert (tmp_path / "report.html").is_file() == (step == "load_clips")


def test_a_page_that_cannot_be_written_is_explained(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output"):
        write_report([make_run("full", 3)], tmp_path / "file" / "report.html")


def test_runs_of_splits_are_compared_beside_their_own_reports(
    make_run: MakeRun, tool: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for split in (1, 2):
        shutil.copytree(make_run("split", 3, seed=split, options={"DATA.SPLIT": split}), tmp_path / f"split_{split}")
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    report.compare_after_splits(cfg, [1, 2])
    page = Page(tmp_path / "report.html")
    assert [row[0] for row in page.rows["results"][1:3]] == ["split_1", "split_2"]
    assert "±" in page.rows["results"][3][2]
    assert page.rows["differing"][1] == ["DATA.SPLIT", "1", "2"]
    monkeypatch.setattr("sys.argv", ["report.py", str(tmp_path), "--output", str(tmp_path / "again.html")])
    assert tool.main() == 0
    assert (tmp_path / "again.html").read_text() == (tmp_path / "report.html").read_text()
    monkeypatch.setattr("sys.argv", ["report.py", str(tmp_path / "split_1" / "results.json")])
    assert tool.main() == 0
    assert (tmp_path / "split_1" / "report.html").is_file()
    report.compare_after_splits(cfg, [1, 2, 3])  # a split that is missing is a warning


def test_accuracies_on_different_videos_are_not_ranked(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("a", 3), make_run("b", 8)]
    page = Page(write_report(runs, tmp_path / "c.html"))
    assert "They were tested on different videos, so no accuracy here is better than another." in page.text
    assert "highest" not in page.text
    assert blue(page) == []
