"""Interrupted runs, and the same command again."""

import dataclasses
import importlib.util
import json
import multiprocessing
import os
import random
import resource
import runpy
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader

from tests.conftest import Outcome
from tests.patience import PATIENCE
from timesformer.engine import trainer
from timesformer.engine.checkpoint import is_undamaged
from timesformer.engine.evaluate import evaluate
from timesformer.engine.meters import Throughput
from timesformer.engine.results import Evaluation
from timesformer.engine.trainer import Trainer

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
KILLS = 6
RunNet = Callable[..., Outcome]
Run = Callable[..., Outcome]


class Process:
    """A run in a process of its own, the leader of a process group like one that a terminal or scheduler starts."""

    def __init__(self, arguments: list[str], stderr: Path, main: Callable | None = None) -> None:
        self._stderr = stderr
        self.process = forkserver().Process(target=main or run_as_leader, args=(arguments, stderr))
        self.process.start()

    def wait(self) -> int:
        """Its exit code, -N after signal N."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, "waited too long"
        return self.process.exitcode

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.is_alive(), f"the run ended: {self.stderr}"
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.002)

    @property
    def stderr(self) -> str:
        return self._stderr.read_text() if self._stderr.exists() else ""


@cache
def forkserver() -> ForkServerContext:
    """Starts processes that need not import torch each time."""
    context = multiprocessing.get_context("forkserver")
    modules = ["conftest", "timm.data.mixup", "timesformer.engine.trainer", "torch.utils.tensorboard"]
    context.set_forkserver_preload(modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}", prepend=os.pathsep)
        ensure_running()
    return context


def run_as_leader(arguments: list[str], stderr: Path) -> None:
    """`python tools/run_net.py arguments`."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # the server may have been started with it blocked
    multiprocessing.set_start_method("fork", force=True)  # of DataLoader workers, as outside a forkserver
    torch.set_num_threads(1)
    for number, path in ((1, os.devnull), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["run_net.py", *arguments]
    runpy.run_path(str(ROOT / "tools" / "run_net.py"), run_name="__main__")


def hang_in_a_step(arguments: list[str], stderr: Path) -> None:
    """`run_as_leader`, but the second epoch's first step hangs, after creating the file of the last argument."""
    seed_step = trainer.seed_step

    def seed_or_hang(cfg: CfgNode, epoch: int, iteration: int) -> None:
        seed_step(cfg, epoch, iteration)
        if epoch == 1:
            Path(arguments[-1]).touch()
            threading.Event().wait()

    trainer.seed_step = seed_or_hang
    run_as_leader(arguments[:-1], stderr)


def hang_in_a_worker(arguments: list[str], stderr: Path) -> None:
    """`run_as_leader`, but the worker hangs in the second epoch, after creating the file of the last argument."""
    from timesformer.datasets.clips import ClipDataset

    read = ClipDataset.__getitem__

    def read_or_hang(self: ClipDataset, key: tuple[int, ...]) -> dict:
        if self.training and key[0] == 1:
            Path(arguments[-1]).touch()
            threading.Event().wait()
        return read(self, key)

    ClipDataset.__getitem__ = read_or_hang
    run_as_leader(arguments[:-1], stderr)


def lines_of(output: Path, kind: str = "") -> list[dict]:
    """The complete lines of metrics.jsonl, of one kind if given, without measured times."""
    file, timed = output / "metrics.jsonl", ("clips_per_second", "data_share", "eta_seconds")
    text = file.read_text() if file.exists() else ""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    lines = [line for line in lines if kind in ("", line["kind"])]
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


def checkpoints_of(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").glob("*.pyth"))


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """Bit for bit, but for the training time."""
    found, expected = (torch.load(path, weights_only=True) for path in (one, other))
    for content in (found, expected):
        del content["progress"]["seconds"], content["cfg"]
    flat, expected_flat = (torch.utils._pytree.tree_flatten_with_path(content)[0] for content in (found, expected))
    assert [name for name, _ in flat] == [name for name, _ in expected_flat]
    for (name, value), (_, other_value) in zip(flat, expected_flat, strict=True):
        same = torch.equal(value, other_value) if isinstance(value, torch.Tensor) else value == other_value
        assert same, name


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the log and the lock."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("run.log", "run.lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(autouse=True)
def _one_thread() -> None:  # like the processes, so that sums are rounded the same way
    torch.set_num_threads(1)


@pytest.fixture
def run(run_net: RunNet, tiny_command: list[str]) -> Run:
    """run(output, *options): `tiny_command` with these options."""
    return lambda output, *options: run_net(*tiny_command, *map(str, options), "OUTPUT_DIR", str(output))


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished") / "out"


@pytest.fixture
def finished(finished_run: Path, run: Run, tmp_path: Path) -> Path:
    """A copy of the folder of a finished run."""
    if not finished_run.exists():
        assert run(finished_run).code == 0
    return Path(shutil.copytree(finished_run, tmp_path / "out"))


RANDOM = [
    *("SOLVER.OPTIMIZING_METHOD", "adamw", "SOLVER.BASE_LR", "0.001", "SOLVER.MAX_EPOCH", "4", "EMA.ENABLED", "True"),
    *("GLOBAL_BATCH_SIZE", "4", "LOG_PERIOD", "2", "TRAIN.CHECKPOINT_PERIOD", "2", "TENSORBOARD.ENABLE", "False"),
    *("TIMESFORMER.DEPTH", "2", "TIMESFORMER.DROP_PATH_RATE", "0.5", "TIMESFORMER.DROP_RATE", "0.1"),
    *("MODEL.DROPOUT_RATE", "0.5", "DATA.BALANCE", "oversample", "MIXUP.ENABLED", "True", "MIXUP.MODE", "elem"),
]
"""Options of a run with randomness in every place, gradient accumulation, and 12 optimizer steps."""


@pytest.fixture(scope="module")
def uneven_data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_data` with a smaller class and an unreadable clip."""
    data = shutil.copytree(tiny_data, tmp_path_factory.mktemp("uneven") / "data")
    shutil.rmtree(data / "train" / "catch" / "train0")
    for frame in (data / "train" / "wave" / "train1").iterdir():
        frame.write_bytes(b"no image")
    return data


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize(("workers", "precision"), [(0, "off"), (1, "bf16")])
def test_killed_run_ends_bit_for_bit_like_an_uninterrupted_one(
    run: Run, tiny_command: list[str], uneven_data: Path, tmp_path: Path, workers: int, precision: str
) -> None:
    options = ["DATA.PATH_TO_DATA_DIR", str(uneven_data), "DATA.MAX_UNREADABLE_FRACTION", "0.5", *RANDOM]
    options += ["TRAIN.MIXED_PRECISION", precision]
    output, whole, moments, killed = tmp_path / "killed", tmp_path / "whole", random.Random(workers), 0
    often = [*options, "TRAIN.CHECKPOINT_MINUTES", "0.00001", "DATA_LOADER.NUM_WORKERS", str(workers)]
    for number in range(KILLS):
        process = Process([*tiny_command, *often, "OUTPUT_DIR", str(output)], tmp_path / "stderr")
        seen = lines_of if number % 2 else checkpoints_of
        before = seen(output)
        while seen(output) == before and process.process.is_alive():
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.2))
        process.process.kill()
        if process.wait() != -signal.SIGKILL:
            break
        killed += 1
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


@pytest.mark.parametrize(
    ("main", "numbers", "saved"),
    [(hang_in_a_worker, [signal.SIGTERM], True), (hang_in_a_step, [signal.SIGINT, signal.SIGINT], False)],
)
def test_signals_stop_a_hanging_process(
    tiny_command: list[str], tmp_path: Path, main: Callable, numbers: list[int], saved: bool
) -> None:
    output, hangs = tmp_path / "out", tmp_path / "out" / "hangs"
    options = ["TRAIN.CHECKPOINT_PERIOD", "100000", "DATA_LOADER.NUM_WORKERS", "1", "OUTPUT_DIR", str(output)]
    process = Process([*tiny_command, *options, str(hangs)], tmp_path / "stderr", main)
    process.wait_until(lambda: hangs.exists() and bool(lines_of(output, "val_epoch")))
    os.killpg(process.process.pid, numbers[0])
    for number in numbers[1:]:
        process.wait_until(lambda: "Ctrl-C" in process.stderr)  # the answer to the first
        os.killpg(process.process.pid, number)
    assert process.wait() == 128 + numbers[0], process.stderr
    assert "Traceback" not in process.stderr
    assert any(name.startswith("checkpoint_") for name in checkpoints_of(output)) == saved


def stop_after(monkeypatch: pytest.MonkeyPatch, epoch: int, batches: int, number: int) -> None:
    """Sends a signal after so many batches of an epoch."""
    log_step = Trainer.log_step

    def log_and_stop(self: Trainer, throughput: Throughput) -> None:
        log_step(self, throughput)
        if (self.progress.epoch, throughput.done) == (epoch, batches):
            signal.raise_signal(number)

    monkeypatch.setattr(Trainer, "log_step", log_and_stop)


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
    assert lines_of(tmp_path)[-1]["epoch"] == pytest.approx(1 + 4 / 12, abs=1e-6)
    assert run(tmp_path, *options).code == 0
    assert newest not in checkpoints_of(tmp_path)
    assert not (tmp_path / "previous_1").exists()
    steps = [line["epoch"] for line in lines_of(tmp_path, "train_step")]
    assert steps == pytest.approx([number / 12 for number in range(1, 25)], abs=1e-6)


def test_other_batches_resume_at_the_step_that_skips_no_clip(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, epoch=0, batches=5, number=signal.SIGTERM)  # of 2 clips
        assert run(tmp_path).code == 143
    assert run(tmp_path, "TRAIN.BATCH_SIZE", 1, "GLOBAL_BATCH_SIZE", 4).code == 0
    steps = [line["epoch"] for line in lines_of(tmp_path, "train_step")]
    assert steps[:8] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 9 / 12, 10 / 12, 11 / 12, 1], abs=1e-6)


@pytest.mark.parametrize("code", [75, 1])
def test_interrupted_validation_comes_first_on_resume(
    run: Run, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def interrupt(*arguments: object) -> Evaluation:
        if code == 1:  # the checkpoint of the epoch has been saved before
            raise MemoryError
        signal.raise_signal(signal.SIGUSR1)  # saves
        return evaluate(*arguments)

    output, options = tmp_path / "stopped", ["TRAIN.CHECKPOINT_PERIOD", 2 if code == 75 else 1]
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "evaluate", interrupt)
        assert run(output, *options).code == code
    assert checkpoints_of(output) == ["checkpoint_epoch_00001.pyth"]
    assert run(output, *options).code == 0
    assert lines_of(output) == lines_of(finished)
    assert_same_checkpoint(*(folder / "checkpoints/checkpoint_epoch_00002.pyth" for folder in (output, finished)))


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


def test_finished_run_only_tests_again(finished: Path, run: Run) -> None:
    (finished / "results.json").unlink()
    before = contents(finished)
    assert run(finished).code == 0
    after = contents(finished)
    assert json.loads(after.pop("results.json"))["checkpoint_epochs"] in (1, 2)
    assert after == before


def damage_all(folder: Path) -> None:
    for path in (folder / "checkpoints").glob("checkpoint_*.pyth"):
        path.write_bytes(path.read_bytes()[:-2000])


def damage_best(folder: Path) -> None:
    path = folder / "checkpoints" / "best.pyth"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("options", "damage", "named"),
    [
        ("TIMESFORMER.EMBED_DIM 32", None, "TIMESFORMER.EMBED_DIM"),
        ("DATA.NUM_FRAMES 3", None, "DATA.NUM_FRAMES"),
        ("SOLVER.OPTIMIZING_METHOD adamw", None, "SOLVER.OPTIMIZING_METHOD"),
        ("DATA.PATH_TO_DATA_DIR {renamed}", None, "jump"),
        ("", damage_all, "checkpoint_epoch_00002.pyth"),
        ("", damage_best, "best.pyth"),
    ],
)
def test_unusable_checkpoints_are_an_error_that_changes_nothing(
    finished: Path, run: Run, tiny_data: Path, tmp_path: Path, options: str, damage: Callable | None, named: str
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "renamed")
    for split in data.iterdir():
        (split / "walk").rename(split / "jump")
    if damage:
        damage(finished)
    before, options = contents(finished), options.format(renamed=data).split()
    refused = run(finished, *options)
    assert refused.code == 2
    assert named in refused.err
    assert contents(finished) == before
    # A new run may start from a checkpoint of the one that it moves aside.
    if named == "DATA.NUM_FRAMES":
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
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # files end there, as on a full disk
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "end_epoch", end_epoch_and_change_limit)
            stopped = run(tmp_path, *options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    saved = ["checkpoint_epoch_00001.pyth", *(f"checkpoint_epoch_00001_iteration_0000000{n}.pyth" for n in (4, 5))]
    assert ended == [[], ["best.pyth", *saved]]
    assert stopped.code == 2
    assert "checkpoint_epoch_00002.pyth" in stopped.err
    assert all(is_undamaged(tmp_path / "checkpoints" / name) for name in saved)
    assert run(tmp_path, *options).code == 0


STARTS = {
    "TIMESFORMER.PRETRAINED_MODEL": [],
    "TRAIN.CHECKPOINT_FILE_PATH": ["TRAIN.FINETUNE", "True", "MODEL.FREEZE", "backbone"],
}


@pytest.mark.parametrize("key", STARTS)
def test_initial_weights_are_needed_to_start_but_not_to_resume(
    run: Run, tiny_checkpoint: Path, tmp_path: Path, key: str
) -> None:
    weights, output = Path(shutil.copy(tiny_checkpoint, tmp_path / "start.pyth")), tmp_path / "whole"
    options = ["TENSORBOARD.ENABLE", False, *STARTS[key], key, weights]
    assert run(output, *options).code == 0
    resumed = Path(shutil.copytree(output, tmp_path / "resumed"))
    newest = resumed / "checkpoints" / "checkpoint_epoch_00002.pyth"
    newest.unlink()
    weights.unlink()
    assert run(resumed, *options).code == 0
    assert not (resumed / "previous_1").exists()
    assert_same_checkpoint(newest, output / "checkpoints" / newest.name)
    refused = run(tmp_path / "new", *options)
    assert refused.code == 2
    assert key in refused.err
