"""Interrupting a run at any time and starting the same command again."""

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

from tests.patience import PATIENCE
from timesformer.config import get_cfg
from timesformer.datasets import clips
from timesformer.engine import trainer as train
from timesformer.engine.checkpoint import Progress, is_undamaged, newest_checkpoint, restore, save
from timesformer.engine.evaluate import evaluate
from timesformer.engine.meters import Pace
from timesformer.engine.optim import construct_optimizer
from timesformer.engine.results import Evaluation
from timesformer.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
KILLS = 6


class Started:
    """A run in a process of its own, the leader of a process group, as a terminal or a job scheduler starts it."""

    def __init__(self, arguments: list[str], said: Path, main: Callable | None = None) -> None:
        self._said = said
        self.process = forkserver().Process(target=main or run_as_leader, args=(arguments, said))
        self.process.start()
        self.pid = self.process.pid

    def wait(self) -> int:
        """Its exit code, -N where signal N has killed it."""
        self.process.join(PATIENCE)
        if self.process.exitcode is None:
            self.process.kill()
            pytest.fail("waited too long")
        return self.process.exitcode

    @property
    def stderr(self) -> str:
        return self._said.read_text() if self._said.exists() else ""


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


def run_as_leader(arguments: list[str], said: Path) -> None:
    """What `python tools/run_net.py` does with these arguments, its stderr in a file."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # whoever started the server first may have blocked it
    multiprocessing.set_start_method("fork", force=True)  # of loading processes, as in a process started otherwise
    torch.set_num_threads(1)
    for number, place in ((1, os.devnull), (2, said)):
        os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["run_net.py", *arguments]
    runpy.run_path(str(ROOT / "tools" / "run_net.py"), run_name="__main__")


def fail_as_leader(arguments: list[str], said: Path) -> None:
    """As `run_as_leader`, but an error comes that nobody expected."""

    def fail(*arguments: object) -> None:
        raise RuntimeError("nobody expected this")

    train.log_step = fail
    run_as_leader(arguments, said)


def wait_until(condition: Callable[[], bool], run: Started | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if run is not None and not run.process.is_alive():
            pytest.fail(f"the run ended by itself: {run.stderr}")
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def lines_of(output: Path, kind: str = "") -> list[dict]:
    """The whole lines of metrics.jsonl, of one kind if given."""
    file = output / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line for line in lines if kind in ("", line["kind"])]


def checkpoints_of(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").glob("*.pyth"))


def figures(output: Path) -> list[dict]:
    """What metrics.jsonl has in every run of the same command, in the order written."""
    timed = ("clips_per_second", "data_share", "eta_seconds")
    return [{name: value for name, value in line.items() if name not in timed} for line in lines_of(output)]


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """All of it, bit for bit, but for the time that training took."""
    here, there = (torch.load(path, weights_only=True) for path in (one, other))
    for content in (here, there):
        del content["progress"]["seconds"], content["cfg"]
    flat_here, flat_there = (torch.utils._pytree.tree_flatten_with_path(content)[0] for content in (here, there))
    for (name, value), (other_name, other_value) in zip(flat_here, flat_there, strict=True):
        assert name == other_name
        same = torch.equal(value, other_value) if isinstance(value, torch.Tensor) else value == other_value
        assert same, name


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the log and the lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.log", "run.lock")
    }


def children_of(pid: int) -> list[int]:
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    if not listing.exists():
        pytest.skip("the system does not list the children of a process in /proc")
    return [int(child) for child in listing.read_text().split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(autouse=True)
def _one_thread() -> None:  # as the processes started here, so that sums are rounded alike
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("finished") / "out"


@pytest.fixture
def finished(finished_run: Path, run_net: Callable, tiny_command: list[str], tmp_path: Path) -> Path:
    """The folder of a finished run of `tiny_command`, to be changed at will."""
    if not finished_run.exists():
        assert run_net(*tiny_command, "OUTPUT_DIR", str(finished_run)).code == 0
    return Path(shutil.copytree(finished_run, tmp_path / "out"))


LIVELY = [
    *("SOLVER.OPTIMIZING_METHOD", "adamw", "SOLVER.BASE_LR", "0.001", "SOLVER.MAX_EPOCH", "4", "EMA.ENABLED", "True"),
    *("GLOBAL_BATCH_SIZE", "4", "LOG_PERIOD", "2", "TRAIN.CHECKPOINT_PERIOD", "2", "TENSORBOARD.ENABLE", "False"),
    *("TIMESFORMER.DEPTH", "2", "TIMESFORMER.DROP_PATH_RATE", "0.5", "TIMESFORMER.DROP_RATE", "0.1"),
    *("MODEL.DROPOUT_RATE", "0.5", "DATA.BALANCE", "oversample", "MIXUP.ENABLED", "True", "MIXUP.MODE", "elem"),
]
"""Options of a run that has chance wherever there is any, gathers gradients, and lasts 12 optimizer steps."""


@pytest.fixture(scope="module")
def uneven_data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_data` with a class that has fewer clips, and a clip that cannot be read."""
    data = shutil.copytree(tiny_data, tmp_path_factory.mktemp("uneven") / "data")
    shutil.rmtree(data / "train" / "catch" / "train0")
    for frame in (data / "train" / "wave" / "train1").iterdir():
        frame.write_bytes(b"no image")
    return data


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize(("workers", "precision"), [(0, "off"), (1, "bf16")])
def test_a_run_killed_many_times_ends_bit_for_bit_as_one_never_interrupted(
    run_net: Callable, tiny_command: list[str], uneven_data: Path, tmp_path: Path, workers: int, precision: str
) -> None:
    data = ["DATA.PATH_TO_DATA_DIR", str(uneven_data), "DATA.MAX_UNREADABLE_FRACTION", "0.5"]
    command = [*tiny_command, *data, *LIVELY, "TRAIN.MIXED_PRECISION", precision]
    output, moments = tmp_path / "killed", random.Random(workers)
    often = [*command, "TRAIN.CHECKPOINT_MINUTES", "0.00001", "DATA_LOADER.NUM_WORKERS", str(workers)]
    killed = 0
    for number in range(KILLS):
        run = Started([*often, "OUTPUT_DIR", str(output)], tmp_path / "said")
        seen = lines_of if number % 2 else checkpoints_of  # as soon as it begins, or when it has come further
        before = seen(output)
        wait_until(lambda run=run, seen=seen, then=before: seen(output) != then or not run.process.is_alive())
        time.sleep(moments.uniform(0.0, 0.2))
        run.process.kill()
        if run.wait() != -signal.SIGKILL:
            break
        killed += 1
    assert killed > 1, "the run ended before it was killed often"
    (output / "checkpoints" / "checkpoint_epoch_00004.pyth.partial").write_bytes(b"half a file")
    resumed = run_net(*often, "OUTPUT_DIR", str(output))
    assert resumed.code == 0, resumed.err
    assert run_net(*command, "OUTPUT_DIR", str(tmp_path / "whole")).code == 0

    log = (output / "run.log").read_text()
    assert "iterations of 4" in log  # it went on amid an epoch
    assert not list(output.rglob("*.partial"))
    for name in ("checkpoint_epoch_00004.pyth", "best.pyth"):
        assert_same_checkpoint(output / "checkpoints" / name, tmp_path / "whole" / "checkpoints" / name)
    assert figures(output) == figures(tmp_path / "whole")
    for name in ("predictions.csv", "unreadable.csv"):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_stopped_run_says_so_and_leaves_no_process_behind(
    tiny_command: list[str], tmp_path: Path, number: int
) -> None:
    options = ["SOLVER.MAX_EPOCH", "100000", "TRAIN.CHECKPOINT_PERIOD", "100000", "DATA_LOADER.NUM_WORKERS", "1"]
    run = Started([*tiny_command, *options, "OUTPUT_DIR", str(tmp_path / "out")], tmp_path / "said")
    wait_until(lambda: any(line["epoch"] > 1 for line in lines_of(tmp_path / "out")), run)
    workers = children_of(run.pid)
    assert workers
    os.killpg(run.pid, number)
    assert run.wait() == 128 + number, run.stderr
    assert "interrupted" in run.stderr
    assert "Traceback" not in run.stderr
    wait_until(lambda: not any(map(is_running, workers)))
    assert not list((tmp_path / "out").rglob("*.partial"))
    assert any((tmp_path / "out" / "checkpoints").glob("checkpoint_*"))


def hang_as_leader(arguments: list[str], said: Path) -> None:
    """As `run_as_leader`, but the second epoch's first step never ends."""
    seed = train.seed_step

    def seed_or_hang(cfg: CfgNode, epoch: int, iteration: int) -> None:
        seed(cfg, epoch, iteration)
        if epoch == 1:
            (Path(cfg.OUTPUT_DIR) / "hangs").touch()
            threading.Event().wait()

    train.seed_step = seed_or_hang
    run_as_leader(arguments, said)


def test_a_second_ctrl_c_does_not_wait_for_the_step_to_end(tiny_command: list[str], tmp_path: Path) -> None:
    options = ["TRAIN.CHECKPOINT_PERIOD", "100000", "OUTPUT_DIR", str(tmp_path / "out")]
    run = Started([*tiny_command, *options], tmp_path / "said", main=hang_as_leader)
    wait_until((tmp_path / "out" / "hangs").exists, run)
    os.killpg(run.pid, signal.SIGINT)
    wait_until(lambda: "again" in run.stderr, run)  # the first one is answered
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait() == 130
    assert not list((tmp_path / "out" / "checkpoints").glob("checkpoint_*"))


def load_nothing_as_leader(arguments: list[str], said: Path) -> None:
    """As `run_as_leader`, but the DataLoader worker hangs when the second epoch's clips are to be read."""
    make = clips.ClipDataset.__getitem__

    def make_or_hang(self: clips.ClipDataset, key: tuple[int, ...]) -> dict:
        if self.training and key[0] == 1:
            Path(arguments[-1]).touch()
            threading.Event().wait()
        return make(self, key)

    clips.ClipDataset.__getitem__ = make_or_hang
    run_as_leader(arguments[:-1], said)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_a_run_that_waits_for_a_worker_that_hangs_and_saves_it(
    tiny_command: list[str], run_net: Callable, tmp_path: Path, number: int
) -> None:
    options = ["TRAIN.CHECKPOINT_PERIOD", "100000", "DATA_LOADER.NUM_WORKERS", "1", "OUTPUT_DIR", str(tmp_path / "out")]
    hangs = tmp_path / "hangs"
    run = Started([*tiny_command, *options, str(hangs)], tmp_path / "said", main=load_nothing_as_leader)
    wait_until(lambda: hangs.exists() and any(lines_of(tmp_path / "out", "val_epoch")), run)
    os.killpg(run.pid, number)
    assert run.wait() == 128 + number, run.stderr
    resumed = run_net(*tiny_command, *options)
    assert resumed.code == 0
    assert [line["epoch"] for line in lines_of(tmp_path / "out", "train_epoch")] == [1, 2]
    assert not (tmp_path / "out" / "previous_1").exists()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75), (signal.SIGUSR2, 75)]
)
def test_a_signal_is_obeyed_after_the_step_and_the_run_goes_on_from_there(
    run_net: Callable,
    tiny_command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
) -> None:
    command = [*tiny_command, "TRAIN.BATCH_SIZE", "1", "TRAIN.CHECKPOINT_PERIOD", "10"]  # steps as one of 2 at once
    command += ["OUTPUT_DIR", str(tmp_path / "stopped")]
    log_step = train.log_step

    def stop_in_the_third_batch(run: train.Run, pace: Pace, rate: float) -> None:
        log_step(run, pace, rate)
        if run.progress.epoch == 1 and pace.done == 3:
            signal.raise_signal(number)

    monkeypatch.setattr(train, "log_step", stop_in_the_third_batch)
    stopped = run_net(*command)
    assert stopped.code == code
    assert "interrupted" in stopped.err
    newest = tmp_path / "stopped" / "checkpoints" / "checkpoint_epoch_00001_iteration_00000004.pyth"
    assert f"stopped by {signal.Signals(number).name} after epoch 1 and 4 iterations; it is saved" in stopped.out
    assert lines_of(tmp_path / "stopped")[-1]["epoch"] == pytest.approx(1 + 4 / 12, abs=1e-6)

    monkeypatch.undo()
    resumed = run_net(*command)
    assert resumed.code == 0
    assert f"going on from {newest}, after epoch 1 and 4 iterations of 2" in resumed.out
    assert not newest.exists()
    assert not (tmp_path / "stopped" / "previous_1").exists()
    steps = [line["epoch"] for line in lines_of(tmp_path / "stopped", "train_step")]
    assert steps == pytest.approx([number / 12 for number in range(1, 25)], abs=1e-6)


def test_a_signal_in_validation_stops_it_and_it_is_done_first_when_the_run_goes_on(
    run_net: Callable, tiny_command: list[str], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "stopped"
    command = [*tiny_command, "TRAIN.CHECKPOINT_PERIOD", "2", "OUTPUT_DIR", str(output)]
    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate", lambda *given: signal.raise_signal(signal.SIGUSR1) or evaluate(*given))
        assert run_net(*command).code == 75
    assert [line["kind"] for line in lines_of(output)][-1] == "train_epoch"
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["checkpoint_epoch_00001.pyth"]
    resumed = run_net(*command)
    assert resumed.code == 0
    assert figures(output) == figures(finished)
    assert_same_checkpoint(*(folder / "checkpoints" / "checkpoint_epoch_00002.pyth" for folder in (output, finished)))


def test_a_run_that_died_after_saving_and_before_validating_validates(
    run_net: Callable, tiny_command: list[str], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*given: object) -> None:
        raise MemoryError

    command = [*tiny_command, "OUTPUT_DIR", str(tmp_path / "died")]
    with monkeypatch.context() as patch:
        patch.setattr(train, "validate", die)
        assert run_net(*command).code == 1
    assert run_net(*command).code == 0
    assert figures(tmp_path / "died") == figures(finished)


def test_a_run_stops_early_and_knows_that_when_started_again(
    run_net: Callable, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {1: 1.0, 2: 0.9, 3: 0.95, 4: 0.9, 5: 0.5}
    died = []

    def scripted(model: nn.Module, loader: DataLoader, cfg: CfgNode, description: str) -> Evaluation:
        found = evaluate(model, loader, cfg, description)
        if description != "validation":
            return found
        epoch = int(lines_of(Path(cfg.OUTPUT_DIR), "train_epoch")[-1]["epoch"])
        if epoch == 4 and not died:
            died.append(epoch)
            raise MemoryError
        return dataclasses.replace(found, loss=losses[epoch], scores=torch.zeros_like(found.scores))

    monkeypatch.setattr(train, "evaluate", scripted)
    options = ["SOLVER.MAX_EPOCH", "8", "TRAIN.EARLY_STOP_PATIENCE", "2", "TRAIN.CHECKPOINT_PERIOD", "3"]
    command = [*tiny_command, *options, "OUTPUT_DIR", str(tmp_path / "out")]
    assert run_net(*command).code == 1
    stopped = run_net(*command)
    assert stopped.code == 0
    expected = "stopped early after epoch 4 of 8, as 2 validations were no better than that after epoch 2"
    assert expected in stopped.out
    assert [line["epoch"] for line in lines_of(tmp_path / "out", "val_epoch")] == [1, 2, 3, 4]
    assert json.loads((tmp_path / "out" / "results.json").read_text())["checkpoint_epochs"] == 2
    again = run_net(*command)
    assert again.code == 0
    assert f"nothing left to train: {expected}" in again.out
    assert lines_of(tmp_path / "out", "train_epoch")[-1]["epoch"] == 4


def test_fine_tuning_goes_on_from_its_own_checkpoint_and_not_from_that_it_began_with(
    run_net: Callable, tiny_command: list[str], finished: Path, tmp_path: Path
) -> None:
    source = shutil.copy(finished / "checkpoints" / "best.pyth", tmp_path)
    options = ["TRAIN.FINETUNE", "True", "TRAIN.CHECKPOINT_FILE_PATH", source]
    command = [*tiny_command, *options, "OUTPUT_DIR", str(tmp_path / "tuned")]
    assert run_net(*command, "SOLVER.MAX_EPOCH", "1").code == 0
    resumed = run_net(*command)
    assert resumed.code == 0
    assert "after epoch 1 of 2" in resumed.out
    assert "fine-tuning from" not in resumed.out


def test_other_batches_go_on_at_the_step_that_leaves_no_clip_out(
    run_net: Callable, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_step = train.log_step

    def stop_in_the_fifth_batch(run: train.Run, pace: Pace, rate: float) -> None:
        log_step(run, pace, rate)
        if pace.done == 5:
            signal.raise_signal(signal.SIGTERM)

    command = [*tiny_command, "OUTPUT_DIR", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(train, "log_step", stop_in_the_fifth_batch)
        assert run_net(*command).code == 143  # after 5 batches of 2
    resumed = run_net(*command, "TRAIN.BATCH_SIZE", "1", "GLOBAL_BATCH_SIZE", "4")
    assert resumed.code == 0
    assert "batches have changed since the checkpoint was written: 2 clips come again in its epoch" in resumed.out
    steps = [line["epoch"] for line in lines_of(tmp_path / "out", "train_step")]
    assert steps[:8] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 9 / 12, 10 / 12, 11 / 12, 1], abs=1e-6)


def test_an_error_nobody_expected_ends_the_run_with_its_traceback_and_its_loading_processes(
    tiny_command: list[str], tmp_path: Path
) -> None:
    options = ["DATA_LOADER.NUM_WORKERS", "1", "OUTPUT_DIR", str(tmp_path / "out")]
    run = Started([*tiny_command, *options], tmp_path / "said", main=fail_as_leader)
    assert run.wait() == 1
    for said in (run.stderr, (tmp_path / "out" / "run.log").read_text()):
        assert "the run failed" in said
        assert "RuntimeError: nobody expected this" in said


def test_a_truncated_newest_checkpoint_is_passed_over(
    finished: Path, run_net: Callable, tiny_command: list[str]
) -> None:
    newest = finished / "checkpoints" / "checkpoint_epoch_00002.pyth"
    whole = torch.load(newest, weights_only=True)["model_state"]
    newest.write_bytes(newest.read_bytes()[:-2000])
    again = run_net(*tiny_command, "OUTPUT_DIR", str(finished))
    assert again.code == 0
    assert f"{newest} is damaged or cut short" in again.out
    assert "checkpoint_epoch_00001.pyth, after epoch 1 of 2" in again.out
    assert all(torch.equal(torch.load(newest, weights_only=True)["model_state"][k], v) for k, v in whole.items())


def test_a_run_whose_checkpoints_are_all_damaged_is_an_error_that_changes_nothing(
    finished: Path, run_net: Callable, tiny_command: list[str]
) -> None:
    for checkpoint in (finished / "checkpoints").glob("checkpoint_*.pyth"):
        checkpoint.write_bytes(checkpoint.read_bytes()[:-2000])
    before = contents(finished)
    refused = run_net(*tiny_command, "OUTPUT_DIR", str(finished))
    assert refused.code == 2
    assert "checkpoint_epoch_00002.pyth" in refused.err
    assert "TRAIN.AUTO_RESUME" in refused.err
    assert contents(finished) == before
    assert run_net(*tiny_command, "TRAIN.AUTO_RESUME", "False", "OUTPUT_DIR", str(finished)).code == 0
    assert contents(finished / "previous_1") == before


def test_a_finished_run_started_again_only_tests(finished: Path, run_net: Callable, tiny_command: list[str]) -> None:
    (finished / "results.json").unlink()
    before = contents(finished)
    again = run_net(*tiny_command, "OUTPUT_DIR", str(finished))
    assert again.code == 0
    assert "nothing left to train" in again.out
    after = contents(finished)
    assert json.loads(after.pop("results.json"))["checkpoint_epochs"] in (1, 2)
    assert after == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["TIMESFORMER.EMBED_DIM", "32"], "TIMESFORMER.EMBED_DIM was 16, is 32"),
        (["DATA.NUM_FRAMES", "3"], "DATA.NUM_FRAMES was 2, is 3"),
        (["SOLVER.OPTIMIZING_METHOD", "adamw"], "SOLVER.OPTIMIZING_METHOD was sgd, is adamw"),
    ],
)
def test_another_model_in_the_folder_of_a_run_is_an_error_that_changes_nothing(
    finished: Path, run_net: Callable, tiny_command: list[str], options: list[str], named: str
) -> None:
    before = contents(finished)
    refused = run_net(*tiny_command, *options, "OUTPUT_DIR", str(finished))
    assert refused.code == 2
    assert named in refused.err
    assert "choose another OUTPUT_DIR, or set TRAIN.AUTO_RESUME False" in refused.err
    assert contents(finished) == before


def test_other_classes_in_the_folder_of_a_run_are_an_error_that_changes_nothing(
    finished: Path, run_net: Callable, tiny_command: list[str], tiny_data: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data")
    for split in data.iterdir():
        (split / "walk").rename(split / "jump")
    before = contents(finished)
    refused = run_net(*tiny_command, "DATA.PATH_TO_DATA_DIR", str(data), "OUTPUT_DIR", str(finished))
    assert refused.code == 2
    assert "3 (catch, walk, wave), where the data has 3 (catch, jump, wave)" in refused.err
    assert contents(finished) == before


def test_a_damaged_best_checkpoint_is_not_tested(finished: Path, run_net: Callable, tiny_command: list[str]) -> None:
    best = finished / "checkpoints" / "best.pyth"
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 1
    best.write_bytes(content)
    refused = run_net(*tiny_command, "OUTPUT_DIR", str(finished))
    assert refused.code == 2
    assert f"{best} is damaged: test another checkpoint with TEST.CHECKPOINT_FILE_PATH" in refused.err


def test_without_auto_resume_the_earlier_run_is_set_aside_whole(
    finished: Path, run_net: Callable, tiny_command: list[str]
) -> None:
    (finished / "unreadable.csv").write_text("name,path,split,reason\n")
    before = contents(finished)
    anew = run_net(*tiny_command, "TRAIN.AUTO_RESUME", "False", "RNG_SEED", "2", "OUTPUT_DIR", str(finished))
    assert anew.code == 0
    assert contents(finished / "previous_1") == before
    assert "going on" not in anew.out
    assert (finished / "results.json").exists()


def test_a_run_can_start_from_a_checkpoint_of_the_run_it_sets_aside(
    finished: Path, run_net: Callable, tiny_command: list[str]
) -> None:
    best = str(finished / "checkpoints" / "best.pyth")
    options = ["TRAIN.AUTO_RESUME", "False", "TRAIN.FINETUNE", "True", "TRAIN.CHECKPOINT_FILE_PATH", best]
    assert run_net(*tiny_command, *options, "OUTPUT_DIR", str(finished)).code == 0


@pytest.fixture
def small(tmp_path: Path) -> tuple[CfgNode, nn.Module, torch.optim.Optimizer]:
    """A configuration, a model that is one matrix of 256 x 256, and its optimizer after one step."""
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    model = nn.Linear(256, 256, bias=False)
    optimizer = construct_optimizer(model, cfg)
    model(torch.ones(1, 256)).sum().backward()
    optimizer.step()
    return cfg, model, optimizer


def test_a_full_disk_is_a_clear_error_and_leaves_the_earlier_checkpoint(
    small: tuple[CfgNode, nn.Module, torch.optim.Optimizer],
) -> None:
    cfg, model, optimizer = small
    first = save(cfg, {"model": model, "optimizer": optimizer}, Progress(epoch=1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # files end there, as on a full disk
    try:
        with pytest.raises(UserError, match=r"checkpoint_epoch_00002.pyth could not be written: File too large.*room"):
            save(cfg, {"model": model, "optimizer": optimizer}, Progress(epoch=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(first.parent.iterdir()) == [first]
    assert newest_checkpoint(cfg)[0] == first


def test_a_checkpoint_for_the_minutes_that_does_not_fit_on_the_disk_is_a_warning_and_others_are_errors(
    run_net: Callable, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    end_epoch, output, ended = train.end_epoch, tmp_path / "out", []

    def end_epoch_and_make_room(run: train.Run) -> None:
        end_epoch(run)
        ended.append(sorted(path.name for path in (output / "checkpoints").iterdir()))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if len(ended) == 1 else 20_000, hard))

    monkeypatch.setattr(train, "end_epoch", end_epoch_and_make_room)
    minutes = 0.00001
    options = ["TRAIN.CHECKPOINT_MINUTES", str(minutes), "TENSORBOARD.ENABLE", "False", "OUTPUT_DIR", str(output)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        stopped = run_net(*tiny_command, *options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        monkeypatch.undo()
    assert "_00000001.pyth could not be written: File too large. The run goes on, and tries again in" in stopped.out
    kept = ["checkpoint_epoch_00001.pyth", *(f"checkpoint_epoch_00001_iteration_0000000{n}.pyth" for n in (4, 5))]
    assert ended == [[], ["best.pyth", *kept]]
    assert stopped.code == 2
    assert "checkpoint_epoch_00002.pyth could not be written: File too large. What was written before is" in stopped.err
    assert all(is_undamaged(output / "checkpoints" / name) for name in kept)
    assert run_net(*tiny_command, *options).code == 0


def test_what_the_command_says_of_momentum_and_decay_holds_for_a_resumed_run_too(
    small: tuple[CfgNode, nn.Module, torch.optim.Optimizer],
) -> None:
    cfg, model, optimizer = small
    save(cfg, {"model": model, "optimizer": optimizer}, Progress(epoch=1))
    cfg.SOLVER.WEIGHT_DECAY = 0.5
    resumed = construct_optimizer(model, cfg)
    restore(cfg, *newest_checkpoint(cfg), (), {"model": model, "optimizer": resumed})
    assert resumed.param_groups[0]["weight_decay"] == 0.5
    moment = optimizer.state[model.weight]["momentum_buffer"]
    assert torch.equal(resumed.state[model.weight]["momentum_buffer"], moment)


def test_learning_rates_by_layer_arrange_the_optimizer_otherwise_and_make_another_run(
    small: tuple[CfgNode, nn.Module, torch.optim.Optimizer],
) -> None:
    cfg, model, optimizer = small
    save(cfg, {"model": model, "optimizer": optimizer}, Progress(epoch=1))
    cfg.SOLVER.LAYER_DECAY = 0.5
    with pytest.raises(UserError, match=r"of another run, with other options: SOLVER\.LAYER_DECAY was 1.0, is 0.5"):
        restore(cfg, *newest_checkpoint(cfg), (), {"model": model, "optimizer": optimizer})


def test_a_checkpoint_older_than_an_option_had_its_default(
    small: tuple[CfgNode, nn.Module, torch.optim.Optimizer], caplog: pytest.LogCaptureFixture
) -> None:
    cfg, model, optimizer = small
    save(cfg, {"model": model, "optimizer": optimizer}, Progress(epoch=1))
    path, content = newest_checkpoint(cfg)
    content["cfg"] = "\n".join(line for line in content["cfg"].splitlines() if "FREEZE" not in line)
    restore(cfg, path, content, (), {"model": model, "optimizer": optimizer})
    assert not caplog.messages
    cfg.MODEL.FREEZE = "backbone"
    with pytest.raises(UserError, match=r"MODEL\.FREEZE was none, is backbone"):
        restore(cfg, path, content, (), {"model": model, "optimizer": optimizer})
