"""Several official splits in one command: each like a run of its own, none repeated, and the mean of their results."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import Outcome
from timesformer.config import get_cfg
from timesformer.engine.repeats import summarize

RunNet = Callable[..., Outcome]


@pytest.fixture(scope="module")
def hmdb51(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small HMDB51: 2 classes of 9 clips of 2 frames, 3 of each class in a test split. Not to be changed."""
    root, random = tmp_path_factory.mktemp("hmdb51"), np.random.default_rng(0)
    (root / "testTrainMulti_7030_splits").mkdir()
    for label in ("catch", "wave"):
        for clip in range(9):
            folder = root / label / f"film{clip}"
            folder.mkdir(parents=True)
            for frame in range(2):
                Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{frame}.jpg")
        for split in (1, 2, 3):
            lines = [f"film{clip}.avi {2 if clip // 3 == split - 1 else 1}\n" for clip in range(9)]
            (root / "testTrainMulti_7030_splits" / f"{label}_test_split{split}.txt").write_text("".join(lines))
    return root


@pytest.fixture
def command(tiny_command: list[str], hmdb51: Path, tmp_path: Path) -> list[str]:
    """Arguments of run_net.py without --splits; OUTPUT_DIR is `out`."""
    data = ["TRAIN.DATASET", "hmdb51", "TEST.DATASET", "hmdb51", "DATA.PATH_TO_DATA_DIR", str(hmdb51)]
    options = ["MODEL.NUM_CLASSES", "2", "TENSORBOARD.ENABLE", "False", "OUTPUT_DIR", str(tmp_path / "out")]
    return [*tiny_command, *data, *options]


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("series") / "out"


@pytest.fixture
def finished(series: Path, command: list[str], run_net: RunNet, tmp_path: Path) -> Path:
    """A copy of OUTPUT_DIR after --splits 1 2 3."""
    if not series.exists():
        assert run_net("--splits", "1", "2", "3", *command, "OUTPUT_DIR", str(series)).code == 0
    return Path(shutil.copytree(series, tmp_path / "out"))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "checkpoint_epoch_00002.pyth", weights_only=True)["model_state"]


def assert_same_weights(one: Path, other: Path, atol: float = 0) -> None:
    torch.testing.assert_close(dict(weights(one)), dict(weights(other)), rtol=0, atol=atol)


def as_after_one_epoch(run: Path) -> None:
    (run / "results.json").unlink()
    (run / "checkpoints" / "checkpoint_epoch_00002.pyth").unlink()


@pytest.mark.slow
def test_splits_are_like_runs_of_their_own(finished: Path, command: list[str], run_net: RunNet, tmp_path: Path) -> None:
    summary, runs = read(finished / "splits.json"), [read(finished / f"split_{n}" / "results.json") for n in (1, 2, 3)]
    assert [(row["split"], row["num_videos"]) for row in summary["splits"]] == [(1, 6), (2, 6), (3, 6)]
    assert [run["config"]["DATA"]["SPLIT"] for run in runs] == [1, 2, 3]
    for name in ("top1", "top5"):
        column = [run[name] for run in runs]
        assert [row[name] for row in summary["splits"]] == column
        assert summary["mean"][name] == pytest.approx(np.mean(column), abs=1e-3)
        assert summary["std"][name] == pytest.approx(np.std(column, ddof=1), abs=1e-3)
    alone, predictions = tmp_path / "alone", [(finished / f"split_{n}" / "predictions.csv").read_text() for n in (1, 2)]
    assert run_net(*command, "DATA.SPLIT", "2", "OUTPUT_DIR", str(alone)).code == 0
    assert_same_weights(finished / "split_2", alone)
    assert predictions[0] != predictions[1] == (alone / "predictions.csv").read_text()


@pytest.mark.slow
def test_finished_splits_are_not_repeated(finished: Path, command: list[str], run_net: RunNet, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(finished.rglob("*.pyth"))}
    summary = read(finished / "splits.json")
    as_after_one_epoch(finished / "split_3")
    # Only a split that starts needs its initial weights.
    options = ["LOG_PERIOD", "2", "TIMESFORMER.PRETRAINED_MODEL", str(tmp_path / "none.pth")]
    done = run_net("--splits", "2", "3", *command, *options[:2])
    assert done.code == 0, done.err
    assert done.out.count("training TimeSformer") == 1
    assert read(finished / "splits.json")["splits"] == summary["splits"][1:]
    changed = [path for path, content in before.items() if path.read_bytes() != content]
    assert {path.parents[1].name for path in changed} <= {"split_3"}
    as_after_one_epoch(finished / "split_2")
    shutil.rmtree(finished / "split_3")
    refused = run_net("--splits", "2", "3", *command, *options)
    assert refused.code == 2
    assert "TIMESFORMER.PRETRAINED_MODEL" in refused.err
    assert not (finished / "split_2/results.json").exists()
    assert run_net("--splits", "2", *command, *options).code == 0


@pytest.mark.slow
def test_test_options_test_again_and_others_are_refused(finished: Path, command: list[str], run_net: RunNet) -> None:
    before, tested = read(finished / "splits.json"), read(finished / "split_2" / "results.json")
    done = run_net("--splits", "1", "2", *command, "TEST.NUM_SPATIAL_CROPS", "3")
    assert (done.code, done.out.count("nothing left to train")) == (0, 2)
    assert read(finished / "split_2" / "results.json")["num_views"] == 3
    assert read(finished / "split_2" / "previous_1" / "results.json") == tested
    assert read(finished / "previous_1" / "splits.json") == before
    test_only = ["TRAIN.ENABLE", "False", "TEST.NUM_ENSEMBLE_VIEWS", "5"]
    assert run_net("--splits", "2", *command, *test_only).code == 0
    assert read(finished / "split_2" / "results.json")["num_views"] == 5
    assert [row["split"] for row in read(finished / "splits.json")["splits"]] == [2]
    refused = run_net("--splits", "1", "2", "3", *command, "SOLVER.BASE_LR", "0.02")
    assert refused.code == 2
    assert "SOLVER.BASE_LR was 0.01, is 0.02" in refused.err


@pytest.mark.slow
def test_another_split_is_refused_on_resume_and_a_warning_in_a_test(
    finished: Path, command: list[str], run_net: RunNet, tmp_path: Path
) -> None:
    options = ["OUTPUT_DIR", str(finished / "split_1"), "DATA.SPLIT", "2"]
    refused = run_net(*command, *options, "SOLVER.MAX_EPOCH", "3")
    assert refused.code == 2
    assert "DATA.SPLIT was 1, is 2" in refused.err
    best = str(finished / "split_1" / "checkpoints" / "best.pyth")
    options = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", best, "OUTPUT_DIR", str(tmp_path / "other")]
    tested = run_net(*command, *options, "DATA.SPLIT", "2")
    assert tested.code == 0
    assert "DATA.SPLIT was 1, is 2" in tested.out


@pytest.mark.parametrize(
    ("splits", "options", "named"),
    [
        ("1 2 3", "TRAIN.DATASET hmdb_simp TEST.DATASET hmdb_simp", "TEST.DATASET"),
        ("1 2 3", "TEST.DATASET ucf101", "TEST.DATASET"),
        ("1 2 4", "", "--splits is 1 2 4"),
        ("1 1", "", "--splits is 1 1"),
        ("1 2 3", "TEST.ENABLE False", "TEST.ENABLE"),
        ("1 2 3", "TEST.CHECKPOINT_FILE_PATH {file}", "TEST.CHECKPOINT_FILE_PATH"),
        ("1 2 3", "DATA.SPLITS_DIR {lists}", "DATA.SPLIT 3"),
    ],
)
def test_invalid_splits_are_refused_before_anything_runs(
    hmdb51: Path, command: list[str], run_net: RunNet, tmp_path: Path, splits: str, options: str, named: str
) -> None:
    lists = shutil.copytree(hmdb51 / "testTrainMulti_7030_splits", tmp_path / "lists")
    (lists / "wave_test_split3.txt").unlink()
    (tmp_path / "file").touch()
    options = options.format(lists=lists, file=tmp_path / "file")
    refused = run_net("--splits", *splits.split(), *command, *options.split())
    assert refused.code == 2
    assert named in refused.err
    assert not list(tmp_path.glob("out/split_*"))


def test_mean_and_standard_deviation() -> None:
    first = {"top1": 50.0, "top5": 100.0, "val_top1": None, "num_videos": 6}
    one = summarize(get_cfg(), {2: first})
    assert (one["mean"], one["std"]) == ({"top1": 50.0, "top5": 100.0}, {"top1": None, "top5": None})
    two = summarize(get_cfg(), {1: first, 3: first | {"top1": 54.0, "num_videos": 7}})
    assert (two["mean"]["top1"], two["std"]["top1"]) == (52.0, 2.8284)
