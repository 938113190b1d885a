"""What a test records of its checkpoint and data, and where its results go."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fvcore.common.config import CfgNode

from tests.conftest import Outcome
from timesformer.datasets import catalog
from timesformer.datasets.records import DatasetSplit
from timesformer.engine.results import validation_top1

RunNet = Callable[..., Outcome]
REPORT = ["TEST.REPORT", "True", "TENSORBOARD.ENABLE", "False"]


@pytest.fixture
def run(run_net: RunNet, tiny_command: list[str], run_once: Callable[..., Path]) -> Path:
    """A copy of OUTPUT_DIR after four epochs and the test of the best."""
    options = ["SOLVER.MAX_EPOCH", "4", "SOLVER.BASE_LR", "0.05", "OUTPUT_DIR"]
    return run_once("results", lambda output: run_net(*tiny_command, *options, str(output)))


@pytest.fixture
def test_again(run: Path, run_net: RunNet) -> Callable[..., None]:
    """test_again(options): tests the run with further options."""
    command = ["--cfg", str(run / "config.yaml"), "TRAIN.ENABLE", "False", "OUTPUT_DIR", str(run)]

    def test(*options: object) -> None:
        assert run_net(*command, *map(str, options)).code == 0

    return test


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
def test_results_describe_the_tested_checkpoint(run: Path, test_again: Callable[..., None], tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    top1 = {int(line["epoch"]): line["top1"] for line in lines if line["kind"] == "val_epoch"}
    assert results(run)["val_top1"] == pytest.approx(max(top1.values()))
    second, last = (run / "checkpoints" / f"checkpoint_epoch_0000{epoch}.pyth" for epoch in (2, 4))
    seconds, total = (torch.load(path)["progress"]["seconds"] for path in (second, last))
    alone = shutil.copy(second, tmp_path / "alone.pyth")
    for path, expected in ((second, (4, pytest.approx(total, abs=1e-3))), (alone, (None, None))):
        test_again("TEST.CHECKPOINT_FILE_PATH", path, "OUTPUT_DIR", tmp_path / path.stem)
        found = results(tmp_path / path.stem)
        assert (found["checkpoint_epochs"], found["val_top1"]) == (2, pytest.approx(top1[2]))
        assert found["train_seconds"] == pytest.approx(seconds, abs=1e-3)
        assert (found["total_epochs"], found["total_train_seconds"]) == expected


@pytest.mark.parametrize(
    ("changed", "expected"), [({}, 40.0), ({"validated": 2}, None), ({"iteration": 5}, None), ({"ema_state": {}}, None)]
)
def test_validation_accuracy_is_that_of_the_same_weights(changed: dict[str, Any], expected: float | None) -> None:
    progress = {"epoch": 3, "validated": 3, "iteration": 0, "last_top1": 40.0, "best_top1": 60.0}
    assert validation_top1({"progress": progress | changed, **changed}) == expected


@pytest.mark.slow
def test_another_test_goes_to_a_folder_of_its_own(run: Path, test_again: Callable[..., None]) -> None:
    test_again(*REPORT)  # the same test replaces its results
    before = contents(run)
    assert set(before) == {"results.json", "predictions.csv", "report.html", "report_frames.zip"}
    views, last = ["TEST.NUM_ENSEMBLE_VIEWS", "2"], run / "checkpoints" / "checkpoint_epoch_00004.pyth"
    test_again(*REPORT, *views)
    test_again(*views)  # again
    test_again(*views, "DATA.ENSEMBLE_METHOD", "max")
    test_again(*views, "TEST.CHECKPOINT_FILE_PATH", last)
    assert contents(run) == before
    assert set(contents(run / "test_2x1")) == set(before)
    assert sorted(path.name for path in run.glob("test_*")) == ["test_2x1", "test_2x1_2", "test_2x1_3"]
    assert results(run / "test_2x1_2")["config"]["DATA"]["ENSEMBLE_METHOD"] == "max"
    assert results(run / "test_2x1_3")["checkpoint"] == str(last)


@pytest.mark.slow
def test_moved_data_are_the_same_test_and_other_videos_are_not(
    run: Path, test_again: Callable[..., None], tiny_data: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data")
    test_again("DATA.PATH_TO_DATA_DIR", data, "TEST.BATCH_SIZE", 3)
    assert list(run.glob("test_*")) == []
    assert results(run)["config"]["TEST"]["BATCH_SIZE"] == 3
    shutil.rmtree(data / "test" / "walk" / "test0")
    shutil.rmtree(data / "train")  # a test does not need them, nor the weights that training started from
    before, start = contents(run), ["TIMESFORMER.PRETRAINED_MODEL", "none", "TRAIN.CHECKPOINT_FILE_PATH", "none"]
    test_again("DATA.PATH_TO_DATA_DIR", data, *REPORT, *start)
    assert contents(run) == before
    found = results(run / "test_1x1")
    assert found["num_videos"] == 5
    assert found["class_counts"] == {"train": None, "val": [2, 2, 2], "test": [2, 1, 2]}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["uniform", "dense"])
def test_another_sampler_than_in_training_is_one_warning(
    tiny_command: list[str], tiny_checkpoint: Path, run_net: RunNet, tmp_path: Path, sampler: str
) -> None:
    content = torch.load(tiny_checkpoint, weights_only=True)
    saved = yaml.safe_load(content["cfg"])
    del saved["DATA"]["SAMPLER_WINDOW"], saved["DATA"]["TARGET_FPS"]  # which versions without dense did not have
    saved["TRAIN"]["DATASET"] = saved["TEST"]["DATASET"] = "folder"
    torch.save({**content, "cfg": yaml.safe_dump(saved)}, tmp_path / "old.pyth")
    options = ["TRAIN.ENABLE", "False", "TEST.DATASET", "folder", "TEST.CHECKPOINT_FILE_PATH", tmp_path / "old.pyth"]
    options += ["DATA.SAMPLER", {"dense": ""}.get(sampler, sampler), "OUTPUT_DIR", tmp_path / "out"]
    done = run_net(*tiny_command, *map(str, options))
    assert done.code == 0
    warnings = [line for line in (done.out + done.err).splitlines() if "DATA.SAMPLER" in line]
    assert ["uniform" in line and "dense" in line for line in warnings] == [True] * (sampler == "dense")


@pytest.mark.slow
def test_earlier_results_are_moved_aside(run: Path, test_again: Callable[..., None], run_net: RunNet) -> None:
    before, scores = contents(run), run.parent / "scores.npz"
    for number in (3, 2):
        test_again("TEST.NUM_ENSEMBLE_VIEWS", number, "TEST.SAVE_RESULTS_PATH", scores)
    assert (run.parent / "previous_1" / "scores.npz").read_bytes() != scores.read_bytes()
    (run / "checkpoints" / "best.pyth").unlink()  # tests the newest
    command = ["--cfg", str(run / "config.yaml"), "OUTPUT_DIR", str(run)]
    assert run_net(*command, "SOLVER.MAX_EPOCH", "5").code == 0
    assert contents(run / "previous_1") == before
    assert results(run)["checkpoint_epochs"] == 5
    assert run_net(*command, "TRAIN.AUTO_RESUME", "False", "SOLVER.MAX_EPOCH", "1").code == 0
    assert results(run / "previous_2" / "test_3x1")["num_views"] == 3
    assert not (run / "test_3x1").exists()
