"""DataLoader workers end with the main process, and their failures are reported."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
from multiprocessing import parent_process
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode

from tests.conftest import ROOT
from tests.patience import PATIENCE
from timesformer.datasets import clips, loader
from timesformer.datasets.decoding.open import VideoReader, open_video
from timesformer.datasets.loader import construct_loader
from timesformer.datasets.workers import dataloader
from timesformer.datasets.workers.dataloader import report_worker_death, start_worker
from timesformer.errors import UserError

pytestmark = pytest.mark.slow
NUM_WORKERS = r"DATA_LOADER\.NUM_WORKERS"


@pytest.fixture(autouse=True)
def short_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch waits for workers that cannot answer for this many seconds."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)


def test_killed_worker_is_reported_with_its_video(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.DATA_LOADER.NUM_WORKERS = 2
    loader, other = construct_loader(cfg, "train"), construct_loader(cfg, "val")
    deadly = loader.dataset.records[5].path

    def open_or_die(path: str, **known: float) -> VideoReader:
        return os.kill(os.getpid(), signal.SIGKILL) if path == deadly else open_video(path, **known)

    monkeypatch.setattr(clips, "open_video", open_or_die)
    with pytest.raises(UserError, match=rf"{deadly}\..*{NUM_WORKERS}"), report_worker_death(other, loader):
        list(loader)


@pytest.mark.parametrize("kind", [ConnectionResetError, BrokenPipeError, EOFError])
def test_broken_connection_to_a_living_worker_is_reported(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    monkeypatch.setattr(dataloader, "PATIENCE", 0.0)
    cfg.DATA_LOADER.NUM_WORKERS = 1
    loader = construct_loader(cfg, "train")
    batches = iter(loader)
    next(batches)  # the worker is alive
    with pytest.raises(UserError, match=rf"{kind.__name__}.*{NUM_WORKERS}"), report_worker_death(loader):
        raise kind
    assert len(list(batches)) == len(loader) - 1


def test_batches_take_one_descriptor_each(cfg: CfgNode) -> None:
    cfg.DATA_LOADER.NUM_WORKERS = 1
    loader = construct_loader(cfg, "train")
    batches = iter(loader)
    received = [next(batches), next(batches), next(batches)]
    (worker,) = loader.dataset.worker_status.videos()
    opened = [os.path.realpath(descriptor) for descriptor in Path("/proc/self/fd").iterdir()]
    assert sum(file.startswith(f"/dev/shm/torch_{worker}_") for file in opened) == len(received)


def test_needed_workers_ignore_signals(cfg: CfgNode) -> None:
    cfg.DATA_LOADER.NUM_WORKERS = 1
    loader = construct_loader(cfg, "train")
    with report_worker_death(loader):
        batches = iter(loader)
        next(batches)
        (worker,) = loader.dataset.worker_status.videos()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(worker, number)
        assert 1 + len(list(batches)) == len(loader)


@pytest.mark.parametrize(
    ("limit", "value", "named"), [(resource.RLIMIT_FSIZE, 1000, "/dev/shm"), (resource.RLIMIT_NOFILE, 3, "ulimit -n")]
)
def test_resource_limits_of_a_worker(cfg, monkeypatch, limit, value, named) -> None:
    def start_limited(worker: int) -> None:
        start_worker(worker)
        resource.setrlimit(limit, (value, value))

    cfg.DATA_LOADER.NUM_WORKERS = 2
    monkeypatch.setattr(loader, "start_worker", start_limited)
    batches = construct_loader(cfg, "train")
    with pytest.raises(UserError, match=rf"(?s){named}.*{NUM_WORKERS}"), report_worker_death(batches):
        assert not any(batch["errors"] for batch in batches)


def test_workers_end_when_the_main_process_is_killed(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.DATA_LOADER.NUM_WORKERS, cfg.DATA.DECODE_TIMEOUT = 2, 0.0
    never, (read_end, write_end) = threading.Event(), os.pipe()
    monkeypatch.setattr(clips, "open_video", lambda path, **_: os.kill(parent_process().pid, 9) or never.wait())
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=lambda: next(iter(construct_loader(cfg, "train"))))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL
    os.close(write_end)
    assert os.read(read_end, 1) == b""  # once no process is left that could write


@pytest.mark.parametrize("number", [0, 1])
def test_hanging_decoder_keeps_no_process_alive(cfg: CfgNode, tmp_path: Path, number: int) -> None:
    cfg.DATA_LOADER.NUM_WORKERS, cfg.DATA.DECODE_TIMEOUT = number, 10.0
    (tmp_path / "config.yaml").write_text(cfg.dump())
    program = f"""if True:
        import threading, torch
        from timesformer.config import get_cfg
        from timesformer.datasets import clips
        from timesformer.datasets.loader import construct_loader

        torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.2
        opened = clips.open_video
        clips.open_video = lambda path, **_: threading.Event().wait() if path.endswith("clip4") else opened(path)
        cfg = get_cfg()
        cfg.merge_from_file({str(tmp_path / "config.yaml")!r})
        print([reason for batch in construct_loader(cfg, "train") for reason in batch["errors"].values()])
    """
    command = [sys.executable, "-c", program]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert process.stdout.count("DATA.DECODE_TIMEOUT") == 1, process.stderr
    assert process.returncode == 0
