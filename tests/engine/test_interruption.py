"""Interrupting a run at any time and starting the same command again."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from timesformer.config import get_cfg
from timesformer.engine.checkpoint import Progress, newest_checkpoint, restore, save
from timesformer.engine.optim import construct_optimizer
from timesformer.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds that something may take on a busy machine


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """Starts run_net.py as the leader of a process group, as a terminal or a job scheduler does."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "run_net.py"), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process is not None and process.poll() is not None:
            pytest.fail(f"the run ended by itself: {process.stderr.read()}")
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def lines_of(output: Path, kind: str = "") -> list[dict]:
    """The whole lines of metrics.jsonl, of one kind if given."""
    file = output / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line for line in lines if kind in ("", line["kind"])]


def figures(output: Path) -> list[tuple[str, float, float]]:
    """What is the same in every run of the same command, in the order written."""
    return [(line["kind"], line["epoch"], line["loss"]) for line in lines_of(output)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the log."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.log"
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


def test_a_killed_run_started_again_ends_bit_for_bit_as_one_never_interrupted(
    run_net: Callable, tiny_command: list[str], tmp_path: Path
) -> None:
    output, last = tmp_path / "killed", "checkpoints/checkpoint_epoch_00008.pyth"
    command = [*tiny_command, "SOLVER.MAX_EPOCH", "8", "OUTPUT_DIR"]
    process = start([*command, str(output)])
    wait_until(lambda: any(line["epoch"] > 1 for line in lines_of(output, "train_step")), process)
    process.kill()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    process.stderr.close()
    assert not (output / last).exists()
    (output / "checkpoints" / "checkpoint_epoch_00008.pyth.partial").write_bytes(b"half a file")

    resumed = run_net(*command, str(output))
    assert resumed.code == 0, resumed.err
    assert "going on from" in resumed.out
    assert run_net(*command, str(tmp_path / "whole")).code == 0

    assert not list(output.rglob("*.partial"))
    for name in (last, "checkpoints/best.pyth"):
        here, there = (torch.load(folder / name, weights_only=True) for folder in (output, tmp_path / "whole"))
        assert here["progress"]["best_epoch"] == there["progress"]["best_epoch"]
        for key, value in there["model_state"].items():
            assert torch.equal(here["model_state"][key], value), key
    assert figures(output) == figures(tmp_path / "whole")
    assert [line["epoch"] for line in lines_of(output, "val_epoch")] == list(range(1, 9))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
def test_a_stopped_run_says_so_and_leaves_no_process_behind(
    tiny_command: list[str], tmp_path: Path, number: int, code: int
) -> None:
    options = ["SOLVER.MAX_EPOCH", "100000", "DATA_LOADER.NUM_WORKERS", "1", "OUTPUT_DIR", str(tmp_path / "out")]
    process = start([*tiny_command, *options])
    wait_until(lambda: any(line["epoch"] > 1 for line in lines_of(tmp_path / "out")), process)
    workers = children_of(process.pid)
    assert workers
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert said == "interrupted; the same command goes on from the last checkpoint in OUTPUT_DIR\n"
    wait_until(lambda: not any(map(is_running, workers)))
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_an_error_nobody_expected_ends_the_run_with_its_traceback_and_its_loading_processes(
    tiny_command: list[str], tmp_path: Path
) -> None:
    program = f"""
import runpy, sys
import timesformer.engine.train as train
def fail(*arguments):
    raise RuntimeError("nobody expected this")
train.log_step = fail
sys.argv = {["run_net.py", *tiny_command, "DATA_LOADER.NUM_WORKERS", "1", "OUTPUT_DIR", str(tmp_path / "out")]!r}
runpy.run_path({str(ROOT / "tools" / "run_net.py")!r}, run_name="__main__")
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 1
    for said in (ended.stderr, (tmp_path / "out" / "run.log").read_text()):
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
