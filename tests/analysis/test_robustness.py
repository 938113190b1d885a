"""tools/robustness.py: accuracies, files, resuming, errors."""

import csv
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import Outcome, load_command
from timesformer.analysis.corruptions import CORRUPTIONS
from timesformer.analysis.robustness import corrupt, means

Tool = Callable[..., tuple[int, str]]


@pytest.fixture
def robustness(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> Tool:
    """robustness(arguments): exit code, and log with errors; results are in tmp_path/robust."""
    caplog.set_level(logging.INFO, "timesformer")

    def run(*arguments: str) -> tuple[int, str]:
        caplog.clear()
        files = ["--checkpoint", str(tiny_checkpoint), "--output", str(tmp_path / "robust")]
        monkeypatch.setattr("sys.argv", ["robustness.py", *files, *arguments])
        code = load_command("robustness").main()
        return code, caplog.text + capsys.readouterr().err

    return run


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "robust/robustness.json").read_text())


@pytest.mark.slow
def test_accuracies_and_files(
    robustness: Tool,
    run_net: Callable[..., Outcome],
    tiny_command: list[str],
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ["TEST.NUM_SPATIAL_CROPS", "3", "TEST.NUM_ENSEMBLE_VIEWS", "2"]
    code, log = robustness("--corruptions", "frames,jpeg", "--severities", "1,5", *options)
    assert code == 0, log
    test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(tiny_checkpoint), "TEST.MEASURE_ORDER", "True"]
    assert run_net(*tiny_command, *test, *options, "OUTPUT_DIR", str(tmp_path / "test")).code == 0
    tested, found = json.loads((tmp_path / "test/results.json").read_text()), read(tmp_path)
    assert (found["clean"]["top1"], found["clean"]["loss"]) == (tested["top1"], pytest.approx(tested["loss"], rel=1e-5))
    assert found["clean"]["correct"] == sum(row["correct"] for row in tested["per_class"])
    trivial = {name: tested["metrics"][name] for name in ("chance", "majority")}
    assert {name: round(found[name], 4) for name in trivial} == trivial
    assert list(found["corruptions"]) == ["jpeg", "dropped_frames", "shuffled_frames", "reversed_frames"]
    by_severity = {name: entry["severities"] for name, entry in found["corruptions"].items()}
    # TEST.MEASURE_ORDER shuffles batches on the device, not clips in the workers.
    assert by_severity["shuffled_frames"]["5"]["top1"] == tested["shuffled"]["top1"]
    assert by_severity["jpeg"]["5"]["value"] == 5
    rows = list(csv.DictReader((tmp_path / "robust/robustness.csv").open()))
    assert [(row["corruption"], row["severity"]) for row in rows[:3]] == [("clean", "0"), ("jpeg", "1"), ("jpeg", "5")]
    corrupted = np.array([float(row["top1"]) for row in rows[1:]])
    assert found["mean_corruption_top1"] == pytest.approx(corrupted.mean(), abs=1e-4)
    with Image.open(tmp_path / "robust/robustness_examples/jpeg.jpg") as image:
        assert image.size == (6 * 16, 16)
    page = (tmp_path / "robust/robustness.html").read_text()
    assert "reversed frames" in page
    assert f"most frequent class {trivial['majority']:.1f}" in page
    assert page.count("<svg") == 2
    assert re.findall(r'<th class="n">(\d)</th>', page) == ["1", "5"]
    monkeypatch.setattr("sys.argv", ["report.py", str(tmp_path / "robust"), "--figures", str(tmp_path / "figures")])
    assert load_command("report").main() == 0
    table = list(csv.DictReader((tmp_path / "figures/corruptions.csv").open()))
    assert np.array([[float(row["1"]), float(row["5"])] for row in table]).ravel().tolist() == corrupted.tolist()
    names = {path.stem for path in (tmp_path / "figures").glob("*.pdf")}
    assert names > {"frames_jpeg", "frames_top_1_of_clean"}


@pytest.mark.slow
def test_resuming(robustness: Tool, tmp_path: Path) -> None:
    arguments = ["--corruptions", "slower,low_contrast", "--severities", "2,4"]
    assert robustness(*arguments)[0] == 0
    complete = read(tmp_path)
    partial = read(tmp_path)
    loss = partial["corruptions"]["slower"]["severities"].pop("4")["loss"]
    partial["corruptions"]["slower"]["severities"]["2"]["loss"] = 123.0
    (tmp_path / "robust/robustness.json").write_text(json.dumps(partial))
    code, log = robustness(*arguments)
    resumed = read(tmp_path)["corruptions"]["slower"]["severities"]
    assert (code, resumed["2"]["loss"], resumed["4"]["loss"]) == (0, 123.0, loss)
    assert "3 of 4" in log
    code, log = robustness(*arguments, "DATA.TEST_SAMPLER", "random")
    assert (code, "robustness.json" in log, "DATA.TEST_SAMPLER" in log) == (2, True, True)
    assert read(tmp_path)["corruptions"]["slower"]["severities"]["2"]["loss"] == 123.0
    assert robustness("--overwrite", "--corruptions", "slower", "DATA.TEST_SAMPLER", "random")[0] == 0
    assert list(read(tmp_path)["corruptions"]) == ["slower"]
    (tmp_path / "robust/robustness.json").write_text("{")
    assert robustness(*arguments)[0] == 2
    assert complete["clean"]["unreadable"] == 0


def test_clips_in_bgr_are_corrupted_alike() -> None:
    clip = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 4, 16, 20), np.uint8))
    for name in ("jpeg", "gaussian_noise", "shuffled_frames"):
        corruption, key = CORRUPTIONS[name], (0, 1, 2)
        value = corruption.values[-1]
        bgr = corrupt(clip.flip(0), corruption, value, key, is_bgr=True)
        assert torch.equal(bgr.flip(0), corrupt(clip, corruption, value, key))
        assert not torch.equal(corrupt(clip, corruption, value, (0, 2, 2)), corrupt(clip, corruption, value, key)) or (
            name == "jpeg"
        )


def test_means() -> None:
    def entry(group: str, *accuracies: float) -> dict[str, Any]:
        return {"group": group, "severities": {str(n): {"top1": top1} for n, top1 in enumerate(accuracies)}}

    entries = {"a": entry("x", 10, 30), "b": entry("x", 40), "c": entry("y", 60, 60, 60)}
    found = means({"clean": {"top1": 80}, "corruptions": entries})
    assert found["mean_top1"] == {"a": 20, "b": 40, "c": 60}
    assert found["group_top1"] == {"x": 30, "y": 60}
    assert (found["mean_corruption_top1"], found["relative"]) == (40, 50)
    assert means({"clean": None, "corruptions": {}})["mean_corruption_top1"] is None
