"""Fixtures that run several processes, which are forked, so that they need not import PyTorch."""

import logging
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.patience import PATIENCE
from timesformer.config import get_cfg
from timesformer.runtime import ranks as runtime_ranks
from timesformer.runtime.launch import launch, run_and_report


class Outcome(NamedTuple):
    """How a command or process ended: exit code, and what it wrote to stdout and stderr."""

    code: int
    out: str
    err: str


Ranks = Callable[..., list[Outcome]]


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    """ranks(number, work, **variables): runs `work(rank)`, which returns an exit code, in processes of torchrun."""
    started: list[multiprocessing.Process] = []

    def run(number: int, work: Callable[[int], int | None], **variables: str) -> list[Outcome]:
        folder = tmp_path / f"ranks{len(started)}"
        folder.mkdir()
        processes = []
        with held_port() as port:
            world = {"WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            for rank in range(number):
                environment = {**world, "RANK": rank, "LOCAL_RANK": rank, **variables}
                arguments = (folder / str(rank), {key: str(value) for key, value in environment.items()}, work, rank)
                processes.append(multiprocessing.get_context("fork").Process(target=_run_rank, args=arguments))
            started.extend(processes)
            for process in processes:
                process.start()
            deadline = time.monotonic() + PATIENCE
            for process in processes:
                process.join(max(0.0, deadline - time.monotonic()))
        texts = [(folder / f"{rank}.{name}").read_text() for rank in range(number) for name in ("out", "err")]
        codes = [process.exitcode for process in processes]
        assert None not in codes, f"processes did not end: {codes}\n" + "\n".join(texts)
        return [Outcome(code, out, err) for code, out, err in zip(codes, texts[::2], texts[1::2], strict=True)]

    yield run
    for process in started:
        if process.is_alive():
            process.kill()
            process.join()


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failing processes wait for each other, however slow the machine is."""
    for name in ("_HEAD_START", "_REPORT_TIMEOUT", "_LINGER"):
        monkeypatch.setattr(runtime_ranks, name, PATIENCE / 2)


@contextmanager
def held_port() -> Iterator[int]:
    """A port that only sockets with SO_REUSEADDR can bind, such as those of PyTorch and Slurm, until the block ends."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def launched(main: Callable[[], object], timeout: float = PATIENCE) -> Callable[[int], int]:
    """Work of `ranks`: launches `main()` on the CPU."""
    cfg = get_cfg()
    cfg.NUM_GPUS, cfg.TRAIN.ENABLE, cfg.TEST.ENABLE, cfg.DIST_TIMEOUT = 0, False, False, timeout
    return lambda rank: run_and_report(lambda: launch(cfg, lambda _: main()))


def _run_rank(path: Path, environment: dict[str, str], work: Callable[[int], int | None], rank: int) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)  # the threads of the forked process are not there
    for stream, number in (("out", 1), ("err", 2)):
        file = os.open(path.with_suffix(f".{stream}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    logging.getLogger().handlers.clear()  # pytest's
    with open(1, "w", buffering=1, closefd=False) as sys.stdout, open(2, "w", buffering=1, closefd=False) as sys.stderr:
        sys.exit(work(rank))
