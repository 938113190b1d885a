"""Training and evaluation in several processes give the results of one process."""

import csv
import importlib.util
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode

from tests.conftest import load_tool
from tests.processes import Ranks
from timesformer.engine import trainer
from timesformer.engine.trainer import Trainer
from timesformer.models.baselines import TimmModel
from timesformer.runtime.ranks import dist_info

pytestmark = pytest.mark.slow
OPTIONS = ["MODEL.DROPOUT_RATE", "0.0", "TIMESFORMER.DROP_PATH_RATE", "0.0", "TENSORBOARD.ENABLE", "False"]
UNTESTED = [*OPTIONS, "TEST.ENABLE", "False"]
TWO_NODES = {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}


def run_net(*arguments: object) -> Callable[[int], int]:
    """`python tools/run_net.py arguments`, for `ranks`."""
    tool = load_tool("run_net")

    def run(rank: int) -> int:
        sys.argv = ["run_net.py", *map(str, arguments)]
        return tool.main()

    return run


def codes(ended: Iterable[Any]) -> list[int]:
    return [end.code for end in ended]


def curve(output: Path) -> list[tuple[str, float, float]]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(line["kind"], line["epoch"], line["loss"]) for line in lines]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(output / "checkpoints/checkpoint_epoch_00002.pyth", weights_only=True)["model_state"])


def assert_same_training(one: Path, other: Path, atol: float = 1e-5) -> None:
    """Losses and weights are equal to `atol`."""
    assert [line[:2] for line in curve(other)] == [line[:2] for line in curve(one)]
    assert [line[2] for line in curve(other)] == pytest.approx([line[2] for line in curve(one)], rel=0, abs=atol)
    torch.testing.assert_close(weights(other), weights(one), rtol=0, atol=atol)


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int, epoch: int, iteration: int) -> None:
    """Sends a signal to rank 1 at the start of a step."""
    seed_step = trainer.seed_step

    def seed_and_kill(cfg: CfgNode, now: int, index: int) -> None:
        seed_step(cfg, now, index)
        if dist_info().rank == 1 and (now, index) == (epoch, iteration):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(trainer, "seed_step", seed_and_kill)


@pytest.mark.numerical
def test_two_and_four_processes_train_like_one(ranks: Ranks, tiny_command: list[str], tmp_path: Path) -> None:
    options = [*tiny_command, *OPTIONS, "TRAIN.BATCH_SIZE", "8", "GLOBAL_BATCH_SIZE", "8", "OUTPUT_DIR"]
    for number in (1, 2, 4):
        for ended in ranks(number, run_net(*options, tmp_path / str(number))):
            assert (ended.code, ended.err) == (0, "")
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in "124"]
    for name, found in zip("24", results[1:], strict=True):
        assert_same_training(tmp_path / "1", tmp_path / name)
        assert found["top1"] == results[0]["top1"]
        assert found["loss"] == pytest.approx(results[0]["loss"], abs=1e-5)
    names = {path.name for path in (tmp_path / "1").iterdir()}
    assert {path.name for path in (tmp_path / "4").iterdir()} == names | {"log"}


def test_two_nodes_with_accumulation_train_like_one(ranks: Ranks, tiny_command: list[str], tmp_path: Path) -> None:
    options = [*tiny_command, *UNTESTED, "GLOBAL_BATCH_SIZE", "8", "TRAIN.BATCH_SIZE"]
    assert codes(ranks(1, run_net(*options, 4, "OUTPUT_DIR", tmp_path / "one"))) == [0]
    assert codes(ranks(2, run_net(*options, 2, "OUTPUT_DIR", tmp_path / "two"), **TWO_NODES)) == [0, 0]
    assert_same_training(tmp_path / "one", tmp_path / "two")


def test_another_number_of_processes_resumes(ranks: Ranks, tiny_command: list[str], tmp_path: Path) -> None:
    options = [*tiny_command, *UNTESTED, "TRAIN.BATCH_SIZE", "4", "GLOBAL_BATCH_SIZE", "4", "OUTPUT_DIR", tmp_path]
    assert codes(ranks(2, run_net(*options, "SOLVER.MAX_EPOCH", "1"))) == [0, 0]
    assert codes(ranks(3, run_net(*options))) == [0, 0, 0]
    assert "NUM_GPUS was" not in (tmp_path / "run.log").read_text()
    assert [line[1] for line in curve(tmp_path) if line[0] == "val_epoch"] == [1, 2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 75)])
def test_signal_to_one_process_stops_all_after_the_same_step(
    ranks: Ranks, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    options = [*tiny_command, "TENSORBOARD.ENABLE", "False", "TEST.ENABLE", "False", "OUTPUT_DIR"]
    with monkeypatch.context() as patch:
        kill_at(patch, number, epoch=1, iteration=1)
        assert codes(ranks(2, run_net(*options, tmp_path / "stopped"))) == [code, code]
    names = {path.name for path in (tmp_path / "stopped/checkpoints").iterdir()}
    assert "checkpoint_epoch_00001_iteration_00000003.pyth" in names  # all know of the signal one step later
    for name in ("stopped", "whole"):
        assert codes(ranks(2, run_net(*options, tmp_path / name))) == [0, 0]
    assert_same_training(tmp_path / "stopped", tmp_path / "whole", atol=0)


def test_signal_to_one_process_in_validation(
    ranks: Ranks, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = trainer.evaluate

    def kill_and_evaluate(*arguments: object) -> object:
        if dist_info().rank == 1:
            os.kill(os.getpid(), signal.SIGUSR2)
        return evaluate(*arguments)

    work = run_net(*tiny_command, *UNTESTED, "OUTPUT_DIR", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate", kill_and_evaluate)
        assert codes(ranks(2, work)) == [75, 75]
    assert [line[0] for line in curve(tmp_path)] == ["train_step"] * 6 + ["train_epoch"]
    assert codes(ranks(2, work)) == [0, 0]
    assert [line[1] for line in curve(tmp_path) if line[0] == "val_epoch"] == [1, 2]


def test_compiled_processes_train_and_resume(
    ranks: Ranks, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of torch.compile but generating and compiling C++.
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="aot_eager"))
    options = [*tiny_command, *UNTESTED, "TRAIN.BATCH_SIZE", "4", "GLOBAL_BATCH_SIZE", "4", "OUTPUT_DIR"]
    run = run_net(*options, tmp_path / "compiled", "TRAIN.COMPILE", "True")

    def run_and_count(rank: int) -> int:
        code = run(rank)
        print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        return code

    with monkeypatch.context() as patch:
        kill_at(patch, signal.SIGTERM, epoch=1, iteration=0)
        stopped = ranks(2, run_and_count)
    resumed = ranks(2, run_and_count)
    assert codes([*stopped, *resumed]) == [143, 143, 0, 0]
    assert [ended.out.split()[-1] for ended in (*stopped, *resumed)] == ["1"] * 4
    assert "checkpoint_epoch_00001_iteration_00000002.pyth" in (tmp_path / "compiled" / "run.log").read_text()
    assert codes(ranks(2, run_net(*options, tmp_path / "plain"))) == [0, 0]
    assert_same_training(tmp_path / "plain", tmp_path / "compiled")


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("victim", [0, 1])
def test_failure_in_training_is_reported_by_its_process(
    ranks: Ranks, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: int
) -> None:
    seed_step = trainer.seed_step
    monkeypatch.setattr(trainer, "seed_step", lambda *a: 1 / 0 if dist_info().rank == victim else seed_step(*a))
    ended = ranks(2, run_net(*tiny_command, "OUTPUT_DIR", tmp_path))
    assert codes(ended) == [1, 1]
    assert ended[victim].err.splitlines()[-1].startswith("ZeroDivisionError")
    assert ended[1 - victim].err == ""


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_batch_norm_statistics_are_those_of_all_clips_without_padding(
    ranks: Ranks, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*tiny_command, *UNTESTED, "MODEL.MODEL_NAME", "timm/test_resnet", "TRAIN.BATCH_SIZE", "5"]
    options += ["DATA.TRAIN_CROP_SIZE", "48", "DATA.TEST_CROP_SIZE", "48", "DATA.TRAIN_JITTER_SCALES", "[48, 48]"]
    options += [
        "SOLVER.BASE_LR",
        "1e-12",
        "SOLVER.WEIGHT_DECAY",
        "0.0",
        "GLOBAL_BATCH_SIZE",
        "5",
        "SOLVER.MAX_EPOCH",
        "1",
    ]
    validate, forward = Trainer.validate, TimmModel.forward

    def save_and_validate(self: Trainer) -> None:
        torch.save(self.model.state_dict(), tmp_path / f"{dist_info().world_size}_{dist_info().rank}.pt")
        validate(self)

    def forward_and_print(model: TimmModel, clip: torch.Tensor) -> torch.Tensor:
        if not clip.is_meta and clip.std() == 0:
            print("padding", model.training)
        return forward(model, clip)

    monkeypatch.setattr(Trainer, "validate", save_and_validate)
    monkeypatch.setattr(TimmModel, "forward", forward_and_print)
    assert codes(ranks(1, run_net(*options, "OUTPUT_DIR", tmp_path / "one"))) == [0]
    ended = ranks(3, run_net(*options, "OUTPUT_DIR", tmp_path / "three"))
    assert codes(ended) == [0, 0, 0]
    padding = [[line for line in end.out.splitlines() if "padding" in line] for end in ended]
    assert padding == [["padding False"], [], []]  # the last batch has 2 clips
    one, *three = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1_0", "3_0", "3_1", "3_2"))
    for state in three:
        torch.testing.assert_close(state, three[0], rtol=0, atol=0)
    name = "model.conv1.1.running_mean"  # of the first norm, whose inputs do not depend on other norms
    torch.testing.assert_close(three[0][name], one[name], rtol=1e-5, atol=1e-6)


@pytest.mark.numerical
def test_three_processes_evaluate_like_one(
    ranks: Ranks, tiny_command: list[str], tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data")
    shutil.copytree(data / "test/walk/test0", data / "test/walk/test2")
    for frame in (data / "test/wave/test0").iterdir():
        frame.write_bytes(b"")
    options = [*tiny_command, "DATA.PATH_TO_DATA_DIR", data, "TEST.BATCH_SIZE", "4", "TEST.NUM_ENSEMBLE_VIEWS", "2"]
    options += ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", tiny_checkpoint, "OUTPUT_DIR"]
    for number in (1, 3):
        for ended in ranks(number, run_net(*options, tmp_path / str(number))):
            assert (ended.code, ended.err) == (0, "")
    one, three = (json.loads((tmp_path / name / "results.json").read_text()) for name in "13")
    assert three["num_videos"] == 7
    assert all(one[key] == three[key] for key in ("top1", "top5", "per_class", "unreadable"))
    expected, found = (list(csv.DictReader((tmp_path / name / "predictions.csv").open())) for name in "13")
    numbers = [
        [float(row.pop(f"probability_{n}") or 0) for row in rows for n in (1, 2, 3)] for rows in (expected, found)
    ]
    assert found == expected
    assert numbers[1] == pytest.approx(numbers[0], abs=2e-6)


@pytest.mark.usefixtures("unhurried")
def test_unreadable_clips_are_counted_over_all_processes(
    ranks: Ranks, tiny_command: list[str], tiny_data: Path, tmp_path: Path
) -> None:
    data, broken = shutil.copytree(tiny_data, tmp_path / "data"), ["catch/train0", "walk/train1", "wave/train2"]
    for name in broken:
        for frame in (data / "train" / name).iterdir():
            frame.write_bytes(b"")
    options = [*tiny_command, *UNTESTED, "DATA.PATH_TO_DATA_DIR", data, "SOLVER.MAX_EPOCH", "1"]
    for limit, code in (("0.25", 0), ("0.2", 2)):
        output = tmp_path / limit
        work = run_net(*options, "DATA.MAX_UNREADABLE_FRACTION", limit, "OUTPUT_DIR", output)
        ended = ranks(3, work, **TWO_NODES)
        assert codes(ended) == [code] * 3
        with (output / "unreadable.csv").open() as file:
            assert sorted(row["name"] for row in csv.DictReader(file)) == broken
    assert "3 of 12" in ended[0].err
    assert ended[1].err == ended[2].err == ""
