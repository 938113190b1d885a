"""Interrupted runs, and the same command again."""

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import parent_process
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader

from tests.conftest import Outcome, load_command
from tests.engine.training import assert_same_checkpoint
from tests.processes import Ranks
from timesformer.datasets import clips
from timesformer.datasets.decoding.open import VideoReader, open_video
from timesformer.engine import trainer
from timesformer.engine.checkpoint import is_undamaged
from timesformer.engine.evaluate import evaluate
from timesformer.engine.meters import Throughput
from timesformer.engine.trainer import Trainer
from timesformer.inference.classifier import load_model
from timesformer.metrics.evaluation import Evaluation

pytestmark = pytest.mark.slow
Run = Callable[..., Outcome]
LAST = "checkpoints/checkpoint_epoch_00002.pyth"


def lines_of(output: Path, kind: str = "") -> list[dict]:
    """The complete lines of metrics.jsonl, of one kind if given, without measured times."""
    file, timed = output / "metrics.jsonl", ("clips_per_second", "data_share", "eta_seconds", "run_eta_seconds")
    text = file.read_text() if file.exists() else ""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    lines = [line for line in lines if kind in ("", line["kind"])]
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def checkpoints_of(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").glob("*.pyth"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the log and the lock."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("run.log", "run.lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def run(run_net: Callable[..., Outcome], tiny_command: list[str]) -> Run:
    """run(output, *options): `tiny_command` with these options."""
    torch.set_num_threads(1)  # like other processes, so that sums are rounded the same way
    return lambda output, *options: run_net(*tiny_command, *map(str, options), "OUTPUT_DIR", str(output))


@pytest.fixture
def finished(run: Run, run_once: Callable[..., Path]) -> Path:
    """A copy of the folder of a finished run."""
    return run_once("resume", run)


RANDOM = """
    SOLVER.OPTIMIZING_METHOD adamw SOLVER.BASE_LR 0.001 SOLVER.MAX_EPOCH 4 EMA.ENABLED True GLOBAL_BATCH_SIZE 4
    LOG_PERIOD 2 TRAIN.CHECKPOINT_PERIOD 2 TENSORBOARD.ENABLE False TIMESFORMER.DEPTH 2 TIMESFORMER.DROP_PATH_RATE 0.5
    TIMESFORMER.DROP_RATE 0.1 MODEL.DROPOUT_RATE 0.5 DATA.BALANCE oversample MIXUP.ENABLED True MIXUP.MODE elem
    DATA.MAX_UNREADABLE_FRACTION 0.5
"""
"""Options of a run with randomness in every place, gradient accumulation, and 12 optimizer steps."""


def kill_soon(output: Path, seen: Callable[[Path], list], delay: float) -> None:
    """Kills this process some time after a new checkpoint or line of metrics."""
    before = seen(output)
    while seen(output) == before:
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("workers", "precision"), [(0, "off"), (1, "bf16")])
def test_killed_run_ends_bit_for_bit_like_an_uninterrupted_one(
    run: Run, ranks: Ranks, tiny_data: Path, tmp_path: Path, workers: int, precision: str
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data")
    shutil.rmtree(data / "train" / "catch" / "train0")  # a smaller class
    for frame in (data / "train" / "wave" / "train1").iterdir():  # an unreadable clip
        frame.write_bytes(b"no image")
    options = ["DATA.PATH_TO_DATA_DIR", data, *RANDOM.split(), "TRAIN.MIXED_PRECISION", precision]
    often = [*options, "TRAIN.CHECKPOINT_MINUTES", "0.00001", "DATA_LOADER.NUM_WORKERS", workers]
    output, whole, killed = tmp_path / "killed", tmp_path / "whole", 0

    def train_until_killed(rank: int) -> int:
        # The first one, after the first checkpoint, is in the middle of an epoch, however fast the machine is.
        seen, delay = lines_of if killed % 2 else checkpoints_of, random.Random(killed).uniform(0.0, 0.2) * (killed > 0)
        threading.Thread(target=kill_soon, args=(output, seen, delay), daemon=True).start()
        return run(output, *often).code

    for _ in range(6):
        killed += ranks(1, train_until_killed)[0].code == -signal.SIGKILL
    assert killed > 1, "the run ended before it was killed often"
    (output / "checkpoints" / "checkpoint_epoch_00004.pyth.partial").write_bytes(b"half a file")
    assert run(output, *often).code == 0
    assert run(whole, *options).code == 0
    assert "iterations of 4" in (output / "run.log").read_text()  # it resumed mid-epoch
    assert not list(output.rglob("*.partial"))
    for name in ("checkpoint_epoch_00004.pyth", "best.pyth"):
        assert_same_checkpoint(output / "checkpoints" / name, whole / "checkpoints" / name)
    assert lines_of(output) == lines_of(whole)
    for name in ("predictions.csv", "unreadable.csv"):
        assert (output / name).read_bytes() == (whole / name).read_bytes()


def stop_after(patch: pytest.MonkeyPatch, epoch: int, batches: int, number: int) -> None:
    """Sends a signal after so many batches of an epoch."""
    log_step = Trainer.log_step

    def log_and_stop(self: Trainer, throughput: Throughput) -> None:
        log_step(self, throughput)
        if (self.progress.epoch, throughput.done) == (epoch, batches):
            signal.raise_signal(number)

    patch.setattr(Trainer, "log_step", log_and_stop)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_signal_stops_after_the_optimizer_step(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    options = ["TRAIN.BATCH_SIZE", 1, "TRAIN.CHECKPOINT_PERIOD", 10]  # steps of two batches
    with monkeypatch.context() as patch:
        stop_after(patch, epoch=1, batches=3, number=number)
        assert run(tmp_path, *options).code == code
    newest = "checkpoint_epoch_00001_iteration_00000004.pyth"
    assert newest in checkpoints_of(tmp_path)
    assert run(tmp_path, *options).code == 0
    assert newest not in checkpoints_of(tmp_path)
    steps = [line["epoch"] for line in lines_of(tmp_path, "train_step")]
    assert steps == pytest.approx([number / 12 for number in range(1, 25)], abs=1e-6)


def test_run_from_shards_resumes_mid_epoch_with_the_same_losses(
    run: Run, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = tmp_path / "shards"
    write = ["shards", "folder", str(tiny_data), "--output", str(shards), "--max-size", "0.02"]
    assert load_command("prepare").main(write) == 0
    folder = ["TRAIN.DATASET", "folder", "TEST.DATASET", "folder", "DATA.PATH_TO_DATA_DIR", shards]
    options = [*RANDOM.split(), *folder]
    with monkeypatch.context() as patch:
        stop_after(patch, epoch=1, batches=4, number=signal.SIGTERM)
        assert run(tmp_path / "stopped", *options).code == 143
    assert "checkpoint_epoch_00001_iteration_00000004.pyth" in checkpoints_of(tmp_path / "stopped")
    assert run(tmp_path / "stopped", *options).code == 0
    assert run(tmp_path / "whole", *options).code == 0
    assert lines_of(tmp_path / "stopped") == lines_of(tmp_path / "whole")
    last = "checkpoints/checkpoint_epoch_00004.pyth"
    assert_same_checkpoint(tmp_path / "stopped" / last, tmp_path / "whole" / last)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_a_run_whose_worker_hangs_and_saves_it(
    run: Run, ranks: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    output = tmp_path / "out"

    def open_or_hang(path: str, **known: float) -> VideoReader:
        if lines_of(output, "val_epoch"):  # in the second epoch
            os.kill(parent_process().pid, number)
            threading.Event().wait()
        return open_video(path, **known)

    options = ["TRAIN.CHECKPOINT_PERIOD", 10, "DATA_LOADER.NUM_WORKERS", 1, "DATA.DECODE_TIMEOUT", 0]
    with monkeypatch.context() as patch:
        patch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)  # patience with hanging workers
        patch.setattr(clips, "open_video", open_or_hang)
        (stopped,) = ranks(1, lambda _: run(output, *options).code)
    assert stopped.code == 128 + number, stopped.err
    assert checkpoints_of(output) == ["best.pyth", "checkpoint_epoch_00001.pyth"]
    assert run(output, *options).code == 0
    assert [line["epoch"] for line in lines_of(output, "train_epoch")] == [1, 2]


def test_other_batches_resume_at_the_step_that_skips_no_clip(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, epoch=0, batches=5, number=signal.SIGTERM)  # of 2 clips
        assert run(tmp_path).code == 143
    assert run(tmp_path, "TRAIN.BATCH_SIZE", 1, "GLOBAL_BATCH_SIZE", 4).code == 0
    steps = [line["epoch"] for line in lines_of(tmp_path, "train_step")]
    assert steps[:8] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 9 / 12, 10 / 12, 11 / 12, 1], abs=1e-6)


def test_interrupted_validation_comes_first_on_resume(
    run: Run, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> Evaluation:
        signal.raise_signal(signal.SIGUSR2)
        return evaluate(*arguments)

    output, options = tmp_path / "stopped", ["TRAIN.CHECKPOINT_PERIOD", 2]
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate", interrupt)
        assert run(output, *options).code == 75
    assert checkpoints_of(output) == ["checkpoint_epoch_00001.pyth"]
    assert run(output, *options).code == 0
    assert lines_of(output) == lines_of(finished)
    assert_same_checkpoint(output / LAST, finished / LAST)
    assert load_model(finished / LAST, "cpu").clip_seconds == pytest.approx(3 / 30)  # frames, DATA.TARGET_FPS


def test_early_stopping_survives_a_restart(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, died = {1: 1.0, 2: 0.9, 3: 0.95, 4: 0.9, 5: 0.5}, []

    def scripted(model: nn.Module, loader: DataLoader, cfg: CfgNode, description: str) -> Evaluation:
        found = evaluate(model, loader, cfg, description)
        epoch = int(lines_of(tmp_path, "train_epoch")[-1]["epoch"])
        if epoch == 4 and not died:
            died.append(epoch)
            raise MemoryError
        return dataclasses.replace(found, loss=losses[epoch], scores=torch.zeros_like(found.scores))

    monkeypatch.setattr(trainer, "evaluate", scripted)
    options = ["SOLVER.MAX_EPOCH", 8, "TRAIN.EARLY_STOP_PATIENCE", 2, "TRAIN.CHECKPOINT_PERIOD", 3]
    assert [run(tmp_path, *options).code for _ in range(3)] == [1, 0, 0]
    assert [line["epoch"] for line in lines_of(tmp_path, "val_epoch")] == [1, 2, 3, 4]
    assert json.loads((tmp_path / "results.json").read_text())["checkpoint_epochs"] == 2
    assert lines_of(tmp_path, "train_epoch")[-1]["epoch"] == 4


@pytest.mark.parametrize(
    ("options", "damaged", "named"),
    [
        ("MODEL.FREEZE backbone", "", "MODEL.FREEZE"),
        ("SOLVER.LAYER_DECAY 0.5", "", "SOLVER.LAYER_DECAY"),
        ("DATA.NUM_FRAMES 3", "", "DATA.NUM_FRAMES"),
        ("SOLVER.OPTIMIZING_METHOD adamw", "", "SOLVER.OPTIMIZING_METHOD"),
        ("DATA.PATH_TO_DATA_DIR {renamed}", "", "jump"),
        ("", "checkpoint_*.pyth", "checkpoint_epoch_00002.pyth"),
        ("", "best.pyth", "best.pyth"),
    ],
)
def test_unusable_checkpoints_are_an_error_that_changes_nothing(
    finished: Path, run: Run, tiny_data: Path, tmp_path: Path, options: str, damaged: str, named: str
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "renamed")
    for split in data.iterdir():
        (split / "walk").rename(split / "jump")
    for path in (finished / "checkpoints").glob(damaged or "none"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    before, options = contents(finished), options.format(renamed=data).split()
    refused = run(finished, *options)
    assert refused.code == 2
    assert named in refused.err
    assert contents(finished) == before
    if named == "DATA.NUM_FRAMES":  # a new run may start from a checkpoint of the one that it moves aside
        best = finished / "checkpoints" / "best.pyth"
        options += ["TRAIN.FINETUNE", "True", "TRAIN.CHECKPOINT_FILE_PATH", best]
        assert run(finished, *options, "TRAIN.AUTO_RESUME", False).code == 0
        assert contents(finished / "previous_1") == before


def test_full_disk_is_a_warning_for_timed_checkpoints_only(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    end_epoch, ended = Trainer.end_epoch, []

    def end_epoch_and_change_limit(self: Trainer) -> None:
        end_epoch(self)
        ended.append(checkpoints_of(tmp_path))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if len(ended) == 1 else 20_000, hard))

    options = ["TRAIN.CHECKPOINT_MINUTES", "0.00001", "TENSORBOARD.ENABLE", False]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)  # it would be cut, too
        patch.setattr(Trainer, "end_epoch", end_epoch_and_change_limit)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # files end there, as on a full disk
        try:
            stopped = run(tmp_path, *options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    saved = ["checkpoint_epoch_00001.pyth", *(f"checkpoint_epoch_00001_iteration_0000000{n}.pyth" for n in (4, 5))]
    assert ended == [[], ["best.pyth", *saved]]
    assert stopped.code == 2
    assert "checkpoint_epoch_00002.pyth" in stopped.err
    assert all(is_undamaged(tmp_path / "checkpoints" / name) for name in saved)
    assert run(tmp_path, *options).code == 0


@pytest.mark.parametrize("key", ["TIMESFORMER.PRETRAINED_MODEL", "TRAIN.CHECKPOINT_FILE_PATH"])
def test_initial_weights_are_not_needed_to_resume(run: Run, tiny_checkpoint: Path, tmp_path: Path, key: str) -> None:
    weights, output = Path(shutil.copy(tiny_checkpoint, tmp_path / "start.pyth")), tmp_path / "whole"
    options = ["TENSORBOARD.ENABLE", False, "TRAIN.FINETUNE", True, "MODEL.FREEZE", "backbone", key, weights]
    assert run(output, *options).code == 0
    resumed = Path(shutil.copytree(output, tmp_path / "resumed"))
    (resumed / LAST).unlink()
    weights.unlink()
    assert run(resumed, *options).code == 0
    assert not (resumed / "previous_1").exists()
    assert_same_checkpoint(resumed / LAST, output / LAST)
