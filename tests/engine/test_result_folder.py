"""What a test leaves of checkpoints and of the results of other tests, by the commands that a user gives."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from timesformer.config import load_config
from timesformer.engine import evaluate
from timesformer.engine.results import validation_top1
from timesformer.engine.trainer import train

RunNet = Callable[..., Any]
REPORT = ["TEST.REPORT", "True", "TENSORBOARD.ENABLE", "False"]


@pytest.fixture(scope="module")
def trained(tiny_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUTPUT_DIR after four epochs of training and the test of the best. Not to be changed."""
    output = tmp_path_factory.mktemp("trained") / "run"
    options = ["SOLVER.MAX_EPOCH", "4", "SOLVER.BASE_LR", "0.05", "TRAIN.CHECKPOINT_PERIOD", "1"]
    cfg = load_config(tiny_command[1], [*tiny_command[2:], *options, "OUTPUT_DIR", str(output)])
    train(cfg)
    evaluate.test(cfg)
    return output


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(trained, tmp_path / "run")


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    names = ("results.json", "predictions.csv", "report.html", "report_frames.zip")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


def validations(folder: Path) -> dict[int, float]:
    """Top-1 of the validation after each epoch."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {int(line["epoch"]): line["top1"] for line in lines if line["kind"] == "val_epoch"}


# ---------------------------------------------------------------- what is said of the checkpoint


def test_validation_accuracy_is_of_the_checkpoint_that_is_tested(
    trained: Path, run_net: RunNet, tiny_command: list[str], tmp_path: Path
) -> None:
    measured = validations(trained)
    for epoch, top1 in measured.items():
        path = trained / "checkpoints" / f"checkpoint_epoch_{epoch:05d}.pyth"
        options = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(path)]
        assert run_net(*tiny_command, *options, "OUTPUT_DIR", str(tmp_path / str(epoch))).code == 0
        found = results(tmp_path / str(epoch))
        assert (found["checkpoint_epochs"], found["val_top1"]) == (epoch, pytest.approx(top1))
    assert results(trained)["val_top1"] == pytest.approx(max(measured.values()))


def test_the_time_of_training_is_that_of_all_epochs(
    trained: Path, run_net: RunNet, tiny_command: list[str], tmp_path: Path
) -> None:
    second, last = (trained / "checkpoints" / f"checkpoint_epoch_0000{epoch}.pyth" for epoch in (2, 4))
    options = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(second), "OUTPUT_DIR", str(tmp_path)]
    assert run_net(*tiny_command, *options).code == 0
    found = results(tmp_path)
    until_then, in_all = (torch.load(path, weights_only=True)["progress"]["seconds"] for path in (second, last))
    assert (found["checkpoint_epochs"], found["total_epochs"]) == (2, 4)
    assert found["train_seconds"] == pytest.approx(until_then, abs=1e-3)
    assert found["total_train_seconds"] == pytest.approx(in_all, abs=1e-3)


def test_of_a_checkpoint_away_from_its_run_the_time_of_the_run_is_not_known(
    trained: Path, run_net: RunNet, tiny_command: list[str], tmp_path: Path
) -> None:
    alone = shutil.copy(trained / "checkpoints" / "best.pyth", tmp_path / "best.pyth")
    options = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(alone), "OUTPUT_DIR", str(tmp_path / "out")]
    assert run_net(*tiny_command, *options).code == 0
    found = results(tmp_path / "out")
    assert (found["total_train_seconds"], found["total_epochs"]) == (None, None)
    assert found["train_seconds"] == results(trained)["train_seconds"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, None),
        ({"progress": {"epoch": 3, "validated": 3, "iteration": 0, "last_top1": 40.0, "best_top1": 60.0}}, 40.0),
        ({"progress": {"epoch": 3, "validated": 2, "iteration": 0, "last_top1": 40.0, "best_top1": 60.0}}, None),
        ({"progress": {"epoch": 3, "validated": 3, "iteration": 5, "last_top1": 40.0, "best_top1": 60.0}}, None),
        ({"progress": {"epoch": 3, "validated": 3, "best_epoch": 3, "best_top1": 60.0}}, 60.0),
        ({"progress": {"epoch": 3, "validated": 3, "best_epoch": 2, "best_top1": 60.0}}, None),
        ({"progress": {"epoch": 0, "validated": 0, "best_epoch": 0, "best_top1": -1.0}}, None),
        ({"progress": {"epoch": 3, "validated": 3, "last_top1": 40.0}, "ema_state": {}}, None),
    ],
)
def test_only_a_validation_of_the_same_weights_counts(content: dict[str, Any], expected: float | None) -> None:
    assert validation_top1(content) == expected


# ---------------------------------------------------------------- results of another test


def test_another_test_of_a_run_leaves_its_results_and_its_report(
    run: Path, run_net: RunNet, tiny_command: list[str]
) -> None:
    again = ["--cfg", str(run / "config.yaml"), "TRAIN.ENABLE", "False", "OUTPUT_DIR", str(run), *REPORT]
    assert run_net(*again).code == 0  # the same test: it replaces its own results
    before = contents(run)
    assert set(before) == {"results.json", "predictions.csv", "report.html", "report_frames.zip"}
    views = ["TEST.NUM_ENSEMBLE_VIEWS", "2", "TEST.NUM_SPATIAL_CROPS", "3"]
    done = run_net(*again, *views)
    assert done.code == 0
    assert contents(run) == before
    assert str(run / "test_2x3") in done.out
    assert set(contents(run / "test_2x3")) == set(before)
    assert (results(run)["num_views"], results(run / "test_2x3")["num_views"]) == (1, 6)
    assert run_net(*again, *views).code == 0  # that test again
    assert run_net(*again, *views, "DATA.ENSEMBLE_METHOD", "max").code == 0
    last = str(run / "checkpoints" / "checkpoint_epoch_00004.pyth")
    assert run_net(*again, *views, "TEST.CHECKPOINT_FILE_PATH", last).code == 0
    assert contents(run) == before
    assert sorted(path.parent.name for path in run.glob("test_*/results.json")) == [
        "test_2x3",
        "test_2x3_2",
        "test_2x3_3",
    ]
    assert results(run / "test_2x3_2")["config"]["DATA"]["ENSEMBLE_METHOD"] == "max"
    assert results(run / "test_2x3_3")["checkpoint"] == last


def test_the_same_test_from_another_place_is_no_other(
    run: Path, run_net: RunNet, tiny_command: list[str], tiny_data: Path, tmp_path: Path
) -> None:
    data, moved = shutil.copytree(tiny_data, tmp_path / "data"), run.rename(tmp_path / "moved")
    options = ["TRAIN.ENABLE", "False", "DATA.PATH_TO_DATA_DIR", str(data), "TEST.BATCH_SIZE", "3"]
    assert run_net("--cfg", str(moved / "config.yaml"), *options, "OUTPUT_DIR", str(moved)).code == 0
    assert list(moved.glob("test_*")) == []
    assert results(moved)["config"]["TEST"]["BATCH_SIZE"] == 3


def test_other_videos_are_another_test(run: Path, run_net: RunNet, tiny_data: Path, tmp_path: Path) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data")
    shutil.rmtree(data / "test" / "walk" / "test0")
    before = contents(run)
    options = ["TRAIN.ENABLE", "False", "DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(run)]
    assert run_net("--cfg", str(run / "config.yaml"), *options).code == 0
    assert contents(run) == before
    assert results(run / "test_1x1")["num_videos"] == 5


def test_a_run_that_trains_on_keeps_its_earlier_results_aside(run: Path, run_net: RunNet) -> None:
    before = contents(run)
    (run / "checkpoints" / "best.pyth").unlink()  # the newest is tested
    done = run_net("--cfg", str(run / "config.yaml"), "OUTPUT_DIR", str(run), "SOLVER.MAX_EPOCH", "5")
    assert done.code == 0, done.err
    assert contents(run / "previous_1") == before
    assert str(run / "previous_1") in done.out
    assert results(run)["checkpoint_epochs"] == 5


def test_damaged_results_make_room(run: Path, run_net: RunNet) -> None:
    (run / "results.json").write_text('{"top1": ')
    options = ["--cfg", str(run / "config.yaml"), "TRAIN.ENABLE", "False", "OUTPUT_DIR", str(run)]
    assert run_net(*options).code == 0
    assert (run / "previous_1" / "results.json").read_text() == '{"top1": '
    assert results(run)["num_videos"] == 6


def test_scores_of_another_test_that_lie_elsewhere_are_kept(run: Path, run_net: RunNet, tmp_path: Path) -> None:
    scores = tmp_path / "scores.npz"
    again = ["--cfg", str(run / "config.yaml"), "TRAIN.ENABLE", "False", "OUTPUT_DIR", str(run)]
    again += ["TEST.SAVE_RESULTS_PATH", str(scores)]
    (run / "results.json").unlink()
    assert run_net(*again).code == 0
    before = scores.read_bytes()
    assert run_net(*again, "TEST.NUM_ENSEMBLE_VIEWS", "3").code == 0
    assert (tmp_path / "previous_1" / "scores.npz").read_bytes() == before
    assert scores.read_bytes() != before


def test_a_new_run_in_the_folder_sets_further_tests_aside_too(run: Path, run_net: RunNet) -> None:
    again = ["--cfg", str(run / "config.yaml"), "OUTPUT_DIR", str(run)]
    assert run_net(*again, "TRAIN.ENABLE", "False", "TEST.NUM_ENSEMBLE_VIEWS", "3").code == 0
    assert run_net(*again, "TRAIN.AUTO_RESUME", "False", "SOLVER.MAX_EPOCH", "1").code == 0
    assert results(run / "previous_1" / "test_3x1")["num_views"] == 3
    assert not (run / "test_3x1").exists()
