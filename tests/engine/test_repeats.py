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
from timesformer.config import load_config
from timesformer.models import build_model

RunNet = Callable[..., Outcome]
LAST = "checkpoints/checkpoint_epoch_00002.pyth"


@pytest.fixture(scope="module")
def hmdb51(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small HMDB51: 2 classes of 9 clips of 2 frames, 3 of each class in a test split. Not to be changed."""
    root, random = tmp_path_factory.mktemp("hmdb51"), np.random.default_rng(0)
    (root / "testTrainMulti_7030_splits").mkdir()
    for label in ("catch", "wave"):
        for clip, frame in np.ndindex(9, 2):
            image = root / label / f"film{clip}" / f"{frame}.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(image)
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


@pytest.fixture
def finished(command: list[str], run_net: RunNet, run_once: Callable[..., Path]) -> Path:
    """A copy of OUTPUT_DIR after --splits 1 2 3."""
    return run_once("splits", lambda output: run_net("--splits", *"123", *command, "OUTPUT_DIR", str(output)))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


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
    weights = [dict(torch.load(run / LAST)["model_state"]) for run in (finished / "split_2", alone)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    assert predictions[0] != predictions[1] == (alone / "predictions.csv").read_text()


@pytest.mark.slow
def test_splits_share_cached_features(command: list[str], run_net: RunNet, hmdb51: Path, tmp_path: Path) -> None:
    torch.save(build_model(load_config(command[1], command[2:])).state_dict(), tmp_path / "weights.pyth")
    options = "MODEL.FREEZE backbone FEATURES.ENABLED True FEATURES.NUM_VIEWS 1 SOLVER.OPTIMIZING_METHOD adamw"
    weights = f"TRAIN.FINETUNE True TRAIN.CHECKPOINT_FILE_PATH {tmp_path}/weights.pyth"
    given = f"{options} {weights} FEATURES.CACHE_DIR {tmp_path}/cache".split()
    assert run_net("--splits", "1", "2", "3", *command, *given).code == 0
    files = [(path.parent, path.read_text().splitlines()[1:]) for path in tmp_path.glob("cache/*/*.jsonl")]
    rows = [(folder, json.loads(line)["key"]) for folder, lines in files for line in lines]
    assert len(set(rows)) == len(rows) <= 2 * len([*hmdb51.glob("*/film*")])  # augmented, and for evaluation
    runs = [read(tmp_path / "out" / f"split_{n}" / "results.json") for n in (1, 2, 3)]
    assert all(run["grid"] for run in runs)


@pytest.mark.slow
def test_finished_splits_are_not_repeated(finished: Path, command: list[str], run_net: RunNet) -> None:
    before = {path: path.read_bytes() for path in sorted(finished.rglob("*.pyth"))}
    summary = read(finished / "splits.json")
    for name in ("results.json", LAST):  # as after one epoch
        (finished / "split_3" / name).unlink()
    done = run_net("--splits", "2", "3", *command)
    assert done.code == 0, done.err
    assert done.out.count("training TimeSformer") == 1
    assert read(finished / "splits.json")["splits"] == summary["splits"][1:]
    changed = [path for path, content in before.items() if path.read_bytes() != content]
    assert {path.parents[1].name for path in changed} <= {"split_3"}


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
    summary = read(finished / "splits.json")
    assert [row["split"] for row in summary["splits"]] == [2]
    assert summary["std"] == {"top1": None, "top5": None}
    refused = run_net("--splits", "1", "2", "3", *command, "SOLVER.BASE_LR", "0.02")
    assert refused.code == 2
    assert "SOLVER.BASE_LR" in refused.err
    refused = run_net(*command, "OUTPUT_DIR", str(finished / "split_1"), "DATA.SPLIT", "2", "SOLVER.MAX_EPOCH", "3")
    assert refused.code == 2
    assert "DATA.SPLIT" in refused.err


@pytest.mark.parametrize(
    ("splits", "options", "named"),
    [
        ("1 2 3", "TEST.DATASET ucf101", "TEST.DATASET"),
        ("1 2 4", "", "--splits"),
        ("1 2 3", "TEST.ENABLE False", "TEST.ENABLE"),
        ("1 2 3", "DATA.SPLITS_DIR {lists}", "DATA.SPLIT 3"),
    ],
)
def test_invalid_splits_are_refused_before_anything_runs(
    hmdb51: Path, command: list[str], run_net: RunNet, tmp_path: Path, splits: str, options: str, named: str
) -> None:
    lists = shutil.copytree(hmdb51 / "testTrainMulti_7030_splits", tmp_path / "lists")
    (lists / "wave_test_split3.txt").unlink()
    refused = run_net("--splits", *splits.split(), *command, *options.format(lists=lists).split())
    assert refused.code == 2
    assert named in refused.err
    assert not list(tmp_path.glob("out/split_*"))
