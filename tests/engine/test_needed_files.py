"""A run needs the files that it reads, and no others: when it resumes, and when it only tests."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import Outcome

RunNet = Callable[..., Outcome]
STARTS = {
    "TIMESFORMER.PRETRAINED_MODEL": [],
    "TRAIN.CHECKPOINT_FILE_PATH": ["TRAIN.FINETUNE", "True", "MODEL.FREEZE", "backbone"],
}


def weights_after(folder: Path, epoch: int) -> dict[str, torch.Tensor]:
    path = folder / f"checkpoints/checkpoint_epoch_{epoch:05d}.pyth"
    return torch.load(path, weights_only=True)["model_state"]


def back_to_the_first_epoch(folder: Path, target: Path) -> Path:
    """A copy of a finished run of two epochs as it was after the first."""
    shutil.copytree(folder, target)
    (target / "checkpoints/checkpoint_epoch_00002.pyth").unlink()
    (target / "results.json").unlink()
    return target


@pytest.mark.parametrize("key", STARTS)
def test_a_run_resumes_without_the_weights_that_it_started_from(
    run_net: RunNet, tiny_command: list[str], tiny_checkpoint: Path, tmp_path: Path, key: str
) -> None:
    start = Path(shutil.copy(tiny_checkpoint, tmp_path / "start.pyth"))
    options = [*tiny_command, "TENSORBOARD.ENABLE", "False", key, str(start), *STARTS[key]]
    assert run_net(*options, "OUTPUT_DIR", str(tmp_path / "whole")).code == 0
    resumed, moved = (back_to_the_first_epoch(tmp_path / "whole", tmp_path / name) for name in ("resumed", "moved"))
    start.rename(tmp_path / "elsewhere.pyth")
    assert run_net(*options, "OUTPUT_DIR", str(resumed)).code == 0

    options[options.index(str(start))] = str(tmp_path / "elsewhere.pyth")
    assert run_net(*options, "OUTPUT_DIR", str(moved)).code == 0
    assert f"{key} was {start}, is {tmp_path / 'elsewhere.pyth'}" in (moved / "run.log").read_text()

    expected = weights_after(tmp_path / "whole", 2)
    for folder in (resumed, moved):
        assert not (folder / "previous_1").exists()
        found = weights_after(folder, 2)
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("key", STARTS)
def test_a_run_that_starts_is_refused_without_them(
    run_net: RunNet, tiny_command: list[str], tiny_checkpoint: Path, tmp_path: Path, key: str
) -> None:
    options = [*tiny_command, key, str(tmp_path / "none.pyth"), *STARTS[key], "OUTPUT_DIR", str(tmp_path / "out")]
    folder = tmp_path / "out/checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(tiny_checkpoint, folder / "best.pyth")  # from which no run resumes
    refused = run_net(*options)
    assert refused.code == 2
    assert f"{key} is" in refused.err
    (folder / "checkpoint_epoch_00001.pyth").write_bytes(b"damaged")
    refused = run_net(*options)
    assert refused.code == 2  # for want of a checkpoint to resume from, or of weights to start from
    assert sorted(path.name for path in folder.iterdir()) == ["best.pyth", "checkpoint_epoch_00001.pyth"]
    shutil.rmtree(folder)
    assert run_net(*options, "TRAIN.AUTO_RESUME", "False").code == 2


def test_a_baseline_resumes_without_the_weights_of_its_library(
    run_net: RunNet, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm")
    options = [
        *tiny_command,
        "MODEL.MODEL_NAME",
        "timm/test_vit",
        "TENSORBOARD.ENABLE",
        "False",
        "TEST.ENABLE",
        "False",
    ]
    options += ["DATA.TRAIN_CROP_SIZE", "32", "DATA.TEST_CROP_SIZE", "32", "DATA.TRAIN_JITTER_SCALES", "[32, 32]"]
    options += ["OUTPUT_DIR", str(tmp_path / "out")]
    assert run_net(*options, "SOLVER.MAX_EPOCH", "1").code == 0

    def fetch(*arguments: object) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr("timesformer.models.baselines._fetch", fetch)
    assert run_net(*options, "MODEL.PRETRAINED", "True").code == 0
    assert weights_after(tmp_path / "out", 2)


@pytest.mark.parametrize("clips", ["removed", "emptied"])
def test_a_test_alone_needs_neither_training_clips_nor_the_weights_that_training_started_from(
    run_net: RunNet, tiny_command: list[str], tiny_data: Path, tmp_path: Path, clips: str
) -> None:
    trained = ["TENSORBOARD.ENABLE", "False", "OUTPUT_DIR", str(tmp_path / "trained")]
    assert run_net(*tiny_command, *trained, "SOLVER.MAX_EPOCH", "1").code == 0
    data = shutil.copytree(tiny_data, tmp_path / "data")
    for split in ("train", "val"):
        for label in (data / split).iterdir():
            shutil.rmtree(label)
            if clips == "emptied":
                label.mkdir()
        if clips == "removed":
            (data / split).rmdir()
    options = [*tiny_command, "DATA.PATH_TO_DATA_DIR", str(data), "TRAIN.ENABLE", "False", "TEST.REPORT", "True"]
    options += ["TIMESFORMER.PRETRAINED_MODEL", str(tmp_path / "none.pth"), "TRAIN.FINETUNE", "True"]
    options += ["TRAIN.CHECKPOINT_FILE_PATH", str(tmp_path / "none.pyth"), "OUTPUT_DIR", str(tmp_path / "out")]
    done = run_net(*options, "TEST.CHECKPOINT_FILE_PATH", str(tmp_path / "trained/checkpoints/best.pyth"))
    assert done.code == 0, done.err
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("trained", "out")]
    for key in ("top1", "top5", "loss", "per_class", "val_top1"):
        assert results[0][key] == results[1][key], key
    assert results[1]["class_counts"] == {"train": None, "val": None, "test": [2, 2, 2]}
    assert (tmp_path / "out/report.html").is_file()


def test_a_test_alone_needs_the_checkpoint_that_it_tests(
    run_net: RunNet, tiny_command: list[str], tmp_path: Path
) -> None:
    options = [*tiny_command, "TRAIN.ENABLE", "False", "OUTPUT_DIR", str(tmp_path / "out")]
    for key in ("TRAIN.CHECKPOINT_FILE_PATH", "TEST.CHECKPOINT_FILE_PATH"):
        refused = run_net(*options, key, str(tmp_path / "none.pyth"))
        assert refused.code == 2
        assert f"{key} is" in refused.err


def test_weights_that_were_never_validated_have_no_validation_accuracy(
    run_net: RunNet, tiny_command: list[str], tmp_path: Path
) -> None:
    options = [*tiny_command, "TENSORBOARD.ENABLE", "False", "OUTPUT_DIR"]
    done = run_net(*options, str(tmp_path / "run"), "TRAIN.EVAL_PERIOD", "2", "TEST.ENABLE", "False")
    assert done.code == 0
    first = tmp_path / "run/checkpoints/checkpoint_epoch_00001.pyth"
    assert torch.load(first, weights_only=True)["progress"]["best_top1"] is None
    tested = [*options, str(tmp_path / "test"), "TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", str(first)]
    assert run_net(*tested, "TEST.REPORT", "True").code == 0
    assert json.loads((tmp_path / "test/results.json").read_text())["val_top1"] is None
    assert "-1.00" not in (tmp_path / "test/run.log").read_text()
    assert "validation top-1" not in (tmp_path / "test/report.html").read_text()
