"""What a test records of its checkpoint and data, and where its results go."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode

from tests.conftest import Outcome
from timesformer.datasets import catalog
from timesformer.datasets.records import DatasetSplit
from timesformer.engine.results import validation_top1

RunNet = Callable[..., Outcome]
REPORT = ["TEST.REPORT", "True", "TENSORBOARD.ENABLE", "False"]


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained") / "run"


@pytest.fixture
def run(trained_run: Path, run_net: RunNet, tiny_command: list[str], tmp_path: Path) -> Path:
    """A copy of OUTPUT_DIR after four epochs and the test of the best."""
    if not trained_run.exists():
        options = ["SOLVER.MAX_EPOCH", "4", "SOLVER.BASE_LR", "0.05", "OUTPUT_DIR", str(trained_run)]
        assert run_net(*tiny_command, *options).code == 0
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


@pytest.fixture
def test_again(run: Path, run_net: RunNet) -> Callable[..., Outcome]:
    """test_again(options): tests the run with further options."""
    command = ["--cfg", str(run / "config.yaml"), "TRAIN.ENABLE", "False", "OUTPUT_DIR", str(run)]
    return lambda *options: run_net(*command, *map(str, options))


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    names = ("results.json", "predictions.csv", "report.html", "report_frames.zip")
    return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}


@pytest.mark.slow
def test_each_split_is_found_once_per_run(
    run_net: RunNet, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, found = catalog.DATASET_REGISTRY.get, Counter()

    def count_finds(name: str) -> Callable[[CfgNode, str], DatasetSplit]:
        def find(cfg: CfgNode, split: str) -> DatasetSplit:
            found[split] += 1
            return get(name)(cfg, split)

        return find

    monkeypatch.setattr(catalog.DATASET_REGISTRY, "get", count_finds)
    options = ["SOLVER.MAX_EPOCH", "1", "TEST.REPORT", "True", "TENSORBOARD.EMBEDDINGS", "2"]
    assert run_net(*tiny_command, *options, "OUTPUT_DIR", str(tmp_path)).code == 0
    assert (tmp_path / "report.html").exists()
    assert found == {"train": 1, "val": 1, "test": 1}


@pytest.mark.slow
def test_results_describe_the_tested_checkpoint(run: Path, run_net: RunNet, tiny_command: list[str]) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    top1 = {int(line["epoch"]): line["top1"] for line in lines if line["kind"] == "val_epoch"}
    assert results(run)["val_top1"] == pytest.approx(max(top1.values()))
    second, last = (run / "checkpoints" / f"checkpoint_epoch_0000{epoch}.pyth" for epoch in (2, 4))
    seconds = [torch.load(path, weights_only=True)["progress"]["seconds"] for path in (second, last)]
    alone = shutil.copy(second, run.parent / "alone.pyth")
    for path, total_epochs, total_seconds in ((second, 4, seconds[1]), (alone, None, None)):
        output = run.parent / f"{Path(path).stem}_out"
        options = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(path), "OUTPUT_DIR", str(output)]
        assert run_net(*tiny_command, *options).code == 0
        found = results(output)
        assert (found["checkpoint_epochs"], found["val_top1"]) == (2, pytest.approx(top1[2]))
        assert found["train_seconds"] == pytest.approx(seconds[0], abs=1e-3)
        assert (found["total_epochs"], found["total_train_seconds"]) == (
            total_epochs,
            total_seconds and pytest.approx(total_seconds, abs=1e-3),
        )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, None),
        ({"progress": {"epoch": 3, "validated": 3, "iteration": 0, "last_top1": 40.0, "best_top1": 60.0}}, 40.0),
        ({"progress": {"epoch": 3, "validated": 2, "iteration": 0, "last_top1": 40.0}}, None),
        ({"progress": {"epoch": 3, "validated": 3, "iteration": 5, "last_top1": 40.0}}, None),
        ({"progress": {"epoch": 3, "validated": 3, "last_top1": 40.0}, "ema_state": {}}, None),
    ],
)
def test_validation_accuracy_is_that_of_the_same_weights(content: dict[str, Any], expected: float | None) -> None:
    assert validation_top1(content) == expected


@pytest.mark.slow
def test_another_test_goes_to_a_folder_of_its_own(run: Path, test_again: Callable[..., Outcome]) -> None:
    assert test_again(*REPORT).code == 0  # the same test replaces its results
    before = contents(run)
    assert set(before) == {"results.json", "predictions.csv", "report.html", "report_frames.zip"}
    views, last = ["TEST.NUM_ENSEMBLE_VIEWS", "2"], run / "checkpoints" / "checkpoint_epoch_00004.pyth"
    assert test_again(*REPORT, *views).code == 0
    assert test_again(*views).code == 0  # again
    assert test_again(*views, "DATA.ENSEMBLE_METHOD", "max").code == 0
    assert test_again(*views, "TEST.CHECKPOINT_FILE_PATH", last).code == 0
    assert contents(run) == before
    assert set(contents(run / "test_2x1")) == set(before)
    tests = {path.parent.name: results(path.parent) for path in run.glob("test_*/results.json")}
    assert set(tests) == {"test_2x1", "test_2x1_2", "test_2x1_3"}
    assert tests["test_2x1_2"]["config"]["DATA"]["ENSEMBLE_METHOD"] == "max"
    assert tests["test_2x1_3"]["checkpoint"] == str(last)


@pytest.mark.slow
def test_moved_data_are_the_same_test_and_other_videos_are_not(
    run: Path, test_again: Callable[..., Outcome], tiny_data: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data")
    assert test_again("DATA.PATH_TO_DATA_DIR", data, "TEST.BATCH_SIZE", 3).code == 0
    assert list(run.glob("test_*")) == []
    assert results(run)["config"]["TEST"]["BATCH_SIZE"] == 3
    shutil.rmtree(data / "test" / "walk" / "test0")
    shutil.rmtree(data / "train")  # a test does not need them
    before = contents(run)
    assert test_again("DATA.PATH_TO_DATA_DIR", data, *REPORT).code == 0
    assert contents(run) == before
    found = results(run / "test_1x1")
    assert found["num_videos"] == 5
    assert found["class_counts"] == {"train": None, "val": [2, 2, 2], "test": [2, 1, 2]}


@pytest.mark.slow
def test_training_moves_earlier_results_aside(run: Path, test_again: Callable[..., Outcome], run_net: RunNet) -> None:
    before = contents(run)
    assert test_again("TEST.NUM_ENSEMBLE_VIEWS", 3).code == 0
    (run / "checkpoints" / "best.pyth").unlink()  # tests the newest
    command = ["--cfg", str(run / "config.yaml"), "OUTPUT_DIR", str(run)]
    assert run_net(*command, "SOLVER.MAX_EPOCH", "5").code == 0
    assert contents(run / "previous_1") == before
    assert results(run)["checkpoint_epochs"] == 5
    assert run_net(*command, "TRAIN.AUTO_RESUME", "False", "SOLVER.MAX_EPOCH", "1").code == 0
    assert results(run / "previous_2" / "test_3x1")["num_views"] == 3
    assert not (run / "test_3x1").exists()


@pytest.mark.slow
def test_damaged_results_and_other_scores_are_moved_aside(
    run: Path, test_again: Callable[..., Outcome], tmp_path: Path
) -> None:
    (run / "results.json").write_text('{"top1": ')
    scores = tmp_path / "scores.npz"
    assert test_again("TEST.SAVE_RESULTS_PATH", scores).code == 0
    assert (run / "previous_1" / "results.json").read_text() == '{"top1": '
    before = scores.read_bytes()
    assert test_again("TEST.SAVE_RESULTS_PATH", scores, "TEST.NUM_ENSEMBLE_VIEWS", 3).code == 0
    assert (tmp_path / "previous_1" / "scores.npz").read_bytes() == before != scores.read_bytes()


@pytest.mark.parametrize("key", ["TRAIN.CHECKPOINT_FILE_PATH", "TEST.CHECKPOINT_FILE_PATH"])
def test_missing_checkpoint_is_an_error(run_net: RunNet, tiny_command: list[str], tmp_path: Path, key: str) -> None:
    options = ["TRAIN.ENABLE", "False", key, str(tmp_path / "none.pyth"), "OUTPUT_DIR", str(tmp_path / "out")]
    refused = run_net(*tiny_command, *options)
    assert refused.code == 2
    assert key in refused.err
