"""Several processes at once, made by forking, which spares each of them loading PyTorch again."""

import logging
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.patience import PATIENCE
from timesformer.runtime import ranks as who_is_who


class Ended(NamedTuple):
    """How a process ended: exit code, what it said on stdout and stderr, and when (monotonic seconds)."""

    code: int
    out: str
    err: str


Ranks = Callable[..., list[Ended]]


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    """ranks(number, work, **variables): `work(rank)`, which returns an exit code, in processes as torchrun starts them.

    Each has RANK, WORLD_SIZE and so on in its environment, and `variables`.
    """
    started: list[multiprocessing.Process] = []

    def run(number: int, work: Callable[[int], int | None], **variables: str) -> list[Ended]:
        folder = tmp_path / f"ranks{len(started)}"
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        world = {"WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes = []
        for rank in range(number):
            environment = {**world, "RANK": rank, "LOCAL_RANK": rank, **variables}
            arguments = (folder / str(rank), {key: str(value) for key, value in environment.items()}, work, rank)
            processes.append(multiprocessing.get_context("fork").Process(target=_be_rank, args=arguments))
        started.extend(processes)
        for process in processes:
            process.start()
        deadline = time.monotonic() + PATIENCE
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        said = [(folder / f"{rank}.{name}").read_text() for rank in range(number) for name in ("out", "err")]
        codes = [process.exitcode for process in processes]
        assert None not in codes, f"processes did not end: {codes}\n" + "\n".join(said)
        return [Ended(code, out, err) for code, out, err in zip(codes, said[::2], said[1::2], strict=True)]

    yield run
    for process in started:
        if process.is_alive():
            process.kill()
            process.join()


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that fail wait for each other, however long a busy machine makes them."""
    for name in ("_HEAD_START", "_REPORT_TIMEOUT", "_LINGER"):
        monkeypatch.setattr(who_is_who, name, PATIENCE / 2)


def _be_rank(path: Path, environment: dict[str, str], work: Callable[[int], int | None], rank: int) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)  # threads of the process that was forked are not there
    for stream, number in (("out", 1), ("err", 2)):
        file = os.open(path.with_suffix(f".{stream}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    logging.getLogger().handlers.clear()  # pytest's
    with open(1, "w", buffering=1, closefd=False) as sys.stdout, open(2, "w", buffering=1, closefd=False) as sys.stderr:
        sys.exit(work(rank))
