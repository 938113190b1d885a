"""Training and evaluation in several processes give the results of one process."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode

from tests.conftest import load_command
from tests.processes import Outcome, Ranks
from timesformer.engine import trainer
from timesformer.models.baselines import TimmModel
from timesformer.runtime.ranks import dist_info

pytestmark = pytest.mark.slow
TWO_NODES = {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
Run = Callable[..., list[Outcome]]


@pytest.fixture
def run(ranks: Ranks, tiny_command: list[str]) -> Run:
    """run(number, output, *options): `tiny_command` in so many processes, without dropout."""
    tool = load_command("train")

    def run_processes(number: int, output: Path, *options: object, code: int = 0, **variables: str) -> list[Outcome]:
        fixed = ["MODEL.DROPOUT_RATE", 0.0, "TIMESFORMER.DROP_PATH_RATE", 0.0, "TENSORBOARD.ENABLE", False]
        arguments = [*tiny_command, *map(str, [*fixed, "OUTPUT_DIR", output, *options])]

        def work(rank: int) -> int:
            sys.argv = ["run_net.py", *arguments]
            return tool.main()

        ended = ranks(number, work, **variables)
        assert [end.code for end in ended] == [code] * number, ended
        return ended

    return run_processes


def results(output: Path) -> dict:
    return json.loads((output / "results.json").read_text())


def assert_same_training(one: Path, other: Path) -> None:
    """Losses and weights are equal to 1e-5."""
    paths = [output / "metrics.jsonl" for output in (one, other)]
    expected, found = ([json.loads(line) for line in path.read_text().splitlines()] for path in paths)
    assert [(line["kind"], line["epoch"]) for line in found] == [(line["kind"], line["epoch"]) for line in expected]
    assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in expected], rel=0, abs=1e-5)
    paths = [output / "checkpoints/checkpoint_epoch_00002.pyth" for output in (one, other)]
    weights = [dict(torch.load(path, weights_only=True)["model_state"]) for path in paths]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-5)


@pytest.mark.numerical
@pytest.mark.parametrize(
    ("of_one", "worlds"), [(8, [(2, 8, {}), (4, 8, {})]), (4, [(2, 2, TWO_NODES)])], ids=["processes", "nodes"]
)
def test_several_processes_train_like_one(run: Run, tmp_path: Path, of_one: int, worlds: list) -> None:
    # Steps of 8 clips: at once in several processes, or accumulated on two nodes.
    options = ["GLOBAL_BATCH_SIZE", 8, "TRAIN.BATCH_SIZE"]
    run(1, tmp_path / "1", *options, of_one)
    for number, batch_size, variables in worlds:
        output = tmp_path / f"processes{number}"
        assert {ended.err for ended in run(number, output, *options, batch_size, **variables)} == {""}
        assert_same_training(tmp_path / "1", output)
        assert results(output)["top1"] == results(tmp_path / "1")["top1"]
        assert results(output)["loss"] == pytest.approx(results(tmp_path / "1")["loss"], abs=1e-5)


@pytest.mark.numerical
def test_batch_norms_of_several_processes_are_those_of_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded, forward = tmp_path / "padded", TimmModel.forward

    def forward_and_record(model: TimmModel, clip: torch.Tensor) -> torch.Tensor:
        if not clip.is_meta and clip.std() == 0:  # a padding clip
            with padded.open("a") as file:
                file.write("training\n" if model.training else "evaluation\n")
        return forward(model, clip)

    monkeypatch.setattr(TimmModel, "forward", forward_and_record)
    options = ["MODEL.MODEL_NAME", "timm/test_resnet", "SOLVER.BASE_LR", 1e-30, "TEST.ENABLE", False]
    options += ["SOLVER.MAX_EPOCH", 1, "TRAIN.BATCH_SIZE", 5, "GLOBAL_BATCH_SIZE", 5]  # the last of 12 clips are 2
    statistics = []
    for number in (1, 3):
        run(number, tmp_path / str(number), *options)
        for name in ("checkpoint_epoch_00001", "best"):
            state = torch.load(tmp_path / f"{number}/checkpoints/{name}.pyth", weights_only=True)["model_state"]
            statistics.append(next(value for key, value in state.items() if key.endswith("running_mean")))
    assert padded.read_text().split() == ["evaluation"]
    assert statistics[0].abs().max() > 0.01
    rounding = 5 * 2 * 8 * 8 * torch.finfo(torch.float32).eps  # of means over 5 clips of 2 x 8 x 8 values
    for found in statistics[1:]:
        torch.testing.assert_close(found, statistics[0], rtol=rounding, atol=rounding * statistics[0].abs().max())


@pytest.mark.numerical
@pytest.mark.parametrize("options", ["MODEL.LORA_RANK 2", "MODEL.FREEZE backbone MODEL.UNFREEZE_EPOCH 1"])
def test_light_fine_tuning_in_two_processes(run: Run, tiny_checkpoint: Path, tmp_path: Path, options: str) -> None:
    start = ["TRAIN.FINETUNE", True, "TRAIN.CHECKPOINT_FILE_PATH", tiny_checkpoint, *options.split()]
    for number in (1, 2):  # steps of two batches
        run(number, tmp_path / str(number), *start, "GLOBAL_BATCH_SIZE", 8, "TRAIN.BATCH_SIZE", 4)
    assert_same_training(tmp_path / "1", tmp_path / "2")


def test_signal_to_one_process_stops_all_and_another_number_resumes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_step = trainer.seed_step

    def seed_and_kill(cfg: CfgNode, epoch: int, index: int) -> None:
        seed_step(cfg, epoch, index)
        if dist_info().rank == 1 and (epoch, index) == (1, 1):
            os.kill(os.getpid(), signal.SIGUSR1)

    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    options = ["TEST.ENABLE", False, "TRAIN.BATCH_SIZE", 3, "GLOBAL_BATCH_SIZE", 3]
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "seed_step", seed_and_kill)
        run(2, stopped, *options, code=75)
    # All know of the signal one step later.
    assert (stopped / "checkpoints/checkpoint_epoch_00001_iteration_00000003.pyth").exists()
    run(3, stopped, *options)
    run(2, whole, *options)
    assert_same_training(whole, stopped)


@pytest.mark.numerical
def test_three_processes_evaluate_like_one(run: Run, tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data")
    shutil.copytree(data / "test/walk/test0", data / "test/walk/test2")
    for frame in (data / "test/wave/test0").iterdir():
        frame.write_bytes(b"")
    options = ["DATA.PATH_TO_DATA_DIR", data, "TRAIN.ENABLE", False, "TEST.CHECKPOINT_FILE_PATH", tiny_checkpoint]
    for number in (1, 3):
        views = ["TEST.NUM_ENSEMBLE_VIEWS", 2, "TEST.SAVE_RESULTS_PATH", "scores.npz"]
        run(number, tmp_path / str(number), *options, *views)
    one, three = results(tmp_path / "1"), results(tmp_path / "3")
    assert three["num_videos"] == 7
    assert all(one[key] == three[key] for key in ("top1", "mean_class_top1", "per_class", "unreadable"))
    assert three["loss"] == pytest.approx(one["loss"], abs=1e-6)
    temperatures = [found["metrics"]["calibration"]["temperature"] for found in (one, three)]
    assert temperatures[1] == pytest.approx(temperatures[0], rel=1e-3)
    scores = [np.load(tmp_path / name / "scores.npz") for name in "13"]
    assert [*scores[1]["names"]] == [*scores[0]["names"]]
    np.testing.assert_allclose(scores[1]["scores"], scores[0]["scores"], rtol=0, atol=1e-5)
