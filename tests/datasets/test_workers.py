"""Loading processes end with the main process, and their death is explained."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from multiprocessing import parent_process
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from tests.patience import PATIENCE
from timesformer.datasets import clips, loader, workers
from timesformer.datasets.loader import construct_loader
from timesformer.datasets.reader import VideoReader, open_video
from timesformer.datasets.workers import explained_death, start_worker
from timesformer.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_the_death_of_a_loading_process_is_told_with_the_video_that_it_was_reading(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg.DATA_LOADER.NUM_WORKERS = 2
    loader, other = construct_loader(cfg, "train"), construct_loader(cfg, "val")
    deadly = loader.dataset.records[5].path

    def open_or_die(path: str, **known: float) -> VideoReader:
        if path == deadly:
            os.kill(os.getpid(), signal.SIGKILL)  # as for want of memory
        return open_video(path, **known)

    monkeypatch.setattr(clips, "open_video", open_or_die)
    expected = rf"a loading process .* while it read {deadly}\..*DATA_LOADER.NUM_WORKERS"
    with pytest.raises(UserError, match=expected), explained_death(other, loader):
        list(loader)


def test_a_death_is_told_also_where_it_is_not_known_what_was_read(cfg: CfgNode) -> None:
    loader = construct_loader(cfg, "train")
    with (
        pytest.raises(UserError, match=r"a loading process is killed by signal: Bus error\. If"),
        explained_death(loader),
    ):
        raise RuntimeError("DataLoader worker (pid 123) is killed by signal: Bus error. ")


def test_a_death_is_told_also_where_it_shows_as_a_broken_connection(cfg: CfgNode) -> None:
    cfg.DATA_LOADER.NUM_WORKERS = 1
    loader = construct_loader(cfg, "train")
    batches = iter(loader)
    next(batches)
    (process,) = loader.dataset.in_hand.processes()

    def break_off() -> None:
        os.kill(process, signal.SIGKILL)
        raise ConnectionResetError("Connection reset by peer")

    expected = "a loading process .* while it read"
    with pytest.raises(UserError, match=expected), explained_death(loader):
        break_off()


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), FileNotFoundError("no such file")])
def test_other_errors_pass(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 0.0)
    with pytest.raises(type(error)), explained_death(construct_loader(cfg, "train")):
        raise error


def test_a_loading_process_goes_on_when_a_scheduler_signals_all_processes(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg.DATA_LOADER.NUM_WORKERS = 1
    monkeypatch.setattr(workers, "GRACE", 0.01)
    loader = construct_loader(cfg, "train")
    with explained_death(loader):
        batches = iter(loader)
        (worker,) = batches._workers
        next(batches)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(worker.pid, number)
        assert 1 + len(list(batches)) == len(loader)
        assert len(list(loader)) == len(loader)
    worker.join(PATIENCE)
    assert worker.exitcode == 0


@pytest.mark.parametrize("moment", ["as they start", "while they read"])
def test_loading_processes_end_when_the_main_process_is_killed(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    cfg.DATA_LOADER.NUM_WORKERS, cfg.DATA.DECODE_TIMEOUT = 2, 0.0
    reading, forking = threading.Event(), multiprocessing.get_context("fork")
    read_end, write_end = forking.Pipe(duplex=False)

    def start_too_late(worker: int) -> None:
        parent_process().join()
        start_worker(worker)

    def read(path: str, **_: float) -> VideoReader:
        os.kill(parent_process().pid, signal.SIGKILL)
        reading.wait()

    def main() -> None:
        loaded = iter(construct_loader(cfg, "train"))
        if moment == "while they read":
            next(loaded)
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "as they start":
        monkeypatch.setattr(loader, "start_worker", start_too_late)
    monkeypatch.setattr(clips, "open_video", read)
    process = forking.Process(target=main)
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    write_end.close()
    assert read_end.poll(PATIENCE)  # as it is when nobody is left who could write
    with pytest.raises(EOFError):
        read_end.recv()


@pytest.mark.parametrize("number", [0, 1])
def test_no_process_stays_where_a_decoder_hangs(cfg: CfgNode, tmp_path: Path, number: int) -> None:
    cfg.DATA_LOADER.NUM_WORKERS, cfg.DATA.DECODE_TIMEOUT = number, 2.0
    (tmp_path / "config.yaml").write_text(cfg.dump())
    program = f"""
        import os, signal, threading
        import torch
        from timesformer.config import get_cfg
        from timesformer.datasets import clips, workers
        from timesformer.datasets.loader import construct_loader

        torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = workers.GRACE = 0.2  # so that this takes no longer
        os.setpgid(0, 0)
        main, never, opened = os.getpid(), threading.Event(), clips.open_video
        cfg = get_cfg()
        cfg.merge_from_file({str(tmp_path / "config.yaml")!r})
        # It is given up after the limit, and its thread stays behind ...
        clips.open_video = lambda path, **_: never.wait() if path.endswith("clip4") else opened(path)
        print([reason for batch in construct_loader(cfg, "train") for reason in batch["errors"].values()], flush=True)
        # ... and without a limit Ctrl-C ends the wait.
        cfg.DATA.DECODE_TIMEOUT = 0.0
        clips.open_video = lambda path, **_: os.killpg(main, signal.SIGINT) or never.wait()
        list(construct_loader(cfg, "train"))
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    said, complained = process.communicate(timeout=PATIENCE)  # which waits for its loading processes too
    assert said.count("clip4: decoding took longer than DATA.DECODE_TIMEOUT") == 1, complained
    assert complained.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
