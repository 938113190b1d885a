"""DataLoader workers: how they send batches and stop with the main process, and how their failures are reported."""

import errno
import os
import pickle
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import RawArray, RawValue, active_children, parent_process
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from timesformer.errors import UserError
from timesformer.runtime.resource_limits import (
    SHARED_MEMORY,
    is_out_of_files,
    out_of_files,
    out_of_shared_memory,
    require_open_files,
)

PATIENCE = 5.0  # seconds in which a process whose connection broke should be seen to be dead
SPARE_FILES = 10  # open files of a process, besides the known ones


class WorkerStatus:
    """Shared memory of the main process and its DataLoader workers.

    `needed.value` is 1 while the main process needs the workers, although all processes got a signal to stop.
    """

    def __init__(self, workers: int) -> None:
        self._table = RawArray("q", 2 * workers)  # process id and video + 1 of each worker
        self.needed = RawValue("b", 0)

    def record(self, video: int) -> None:
        """Record in a worker that it is reading this video."""
        if worker := get_worker_info():
            self._table[2 * worker.id : 2 * worker.id + 2] = [os.getpid(), video + 1]

    def videos(self) -> dict[int, int]:
        """Return the video that each worker read last, by process id."""
        return {pid: video - 1 for pid, video in zip(self._table[::2], self._table[1::2], strict=True) if pid}


class BatchError(RuntimeError):
    """A DataLoader worker cannot send a batch, for lack of shared memory or file descriptors."""


class SentBatch:
    """A batch on its way from a DataLoader worker to the main process, where it arrives as a dict again.

    PyTorch pickles batches in a thread of the worker; if that fails, the batch is lost and the main process waits
    forever. Here the worker's main thread pickles it, so that errors reach the main process. Only the clips go through
    shared memory: a batch takes one file descriptor, and is received in a third of the time.

    Raises BatchError if there is too little shared memory, or there are too few file descriptors.
    """

    def __init__(self, batch: dict[str, Any]) -> None:
        clip = batch["clip"]
        rest = {name: value for name, value in batch.items() if name != "clip"}
        self._rest = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in rest.items()}
        try:
            require_open_files(SPARE_FILES)
            self._clip = bytes(ForkingPickler.dumps(clip))
        except (RuntimeError, OSError) as error:
            raise BatchError(f"a batch of {clip.nbytes / 2**20:.1f} MiB: {' '.join(str(error).split())}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _receive, (self._clip, self._rest)


def _receive(clip: bytes, rest: dict[str, Any]) -> dict[str, Any]:
    tensors = {name: torch.from_numpy(value) for name, value in rest.items() if isinstance(value, np.ndarray)}
    return {"clip": pickle.loads(clip), **rest, **tensors}


def start_worker(worker: int) -> None:
    """Set up signals in a DataLoader worker (`worker_init_fn`).

    Ctrl-C and job schedulers signal all processes, while the main process may need more clips before it stops. Workers
    ignore these signals, and SIGTERM as long as they are needed (`report_worker_death`). They end with the main
    process, however it ends.
    """
    status = get_worker_info().dataset.worker_status

    def exit_with_main() -> None:
        parent_process().join()
        os._exit(0)

    threading.Thread(target=exit_with_main, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: None if status.needed.value else os._exit(0))
    sys.excepthook = _report_unless_disconnected


def _report_unless_disconnected(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:  # a worker's threads cannot send tensors while the main process stops
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


@contextmanager
def report_worker_death(*loaders: DataLoader) -> Iterator[None]:
    """Turn failures of the workers of these loaders into UserErrors that name the videos they were reading.

    Enclose everything that is done while the workers live, because DataLoader raises their death anywhere.

    Raises UserError if a worker dies or its connection breaks, or shared memory or file descriptors are too few.
    """
    for loader in loaders:
        loader.dataset.worker_status.needed.value = 1
    try:
        if needed := sum(map(_open_files, loaders)):
            require_open_files(needed + SPARE_FILES)
        yield
    except (RuntimeError, OSError, EOFError) as error:
        # Loaders in a reference cycle do not ask their workers to end: PyTorch kills those after some seconds.
        traceback.clear_frames(error.__traceback__)
        try:
            explained = _explain(error, loaders)
        except RuntimeError:  # DataLoader's signal handler may raise its report here, once
            explained = _explain(error, loaders)
        if explained is None:
            raise
        raise explained from error
    finally:
        for loader in loaders:
            loader.dataset.worker_status.needed.value = 0


def _open_files(loader: DataLoader) -> int:
    """File descriptors that a loader takes in the main process: pipes, sentinels and waiting batches."""
    return 2 + (4 + loader.prefetch_factor) * loader.num_workers if loader.num_workers else 0


def _explain(error: Exception, loaders: tuple[DataLoader, ...]) -> UserError | None:
    """The UserError for a failure of a worker; None for another error."""
    workers = max(loader.num_workers for loader in loaders)
    remedy = f"lower DATA_LOADER.NUM_WORKERS (workers used: {workers}) or the batch size"
    if is_out_of_files(error):
        return out_of_files(remedy)
    if isinstance(error, BatchError):
        return out_of_shared_memory(str(error).rstrip().rpartition(f"{BatchError.__name__}: ")[2], remedy)
    if workers and getattr(error, "errno", None) == errno.ENOSPC and error.filename is None:  # a semaphore
        return out_of_shared_memory(str(error), remedy)
    paths = {
        pid: loader.dataset.records[video].path
        for loader in loaders
        for pid, video in loader.dataset.worker_status.videos().items()
    }
    reported = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", str(error), re.DOTALL)
    if reported:
        dead, how = set(map(int, reported[1].split(","))), " ".join(reported[2].split()).rstrip(".")
    elif isinstance(error, RuntimeError):
        return None
    else:  # a connection broke, perhaps because the process at its other end has just died
        dead, how = _dead(set(paths)), "ended unexpectedly"
        if not dead and isinstance(error, ConnectionError | EOFError):
            how = f"broke its connection ({type(error).__name__}: {error})"
        elif not dead:
            return None
    read = [path for pid, path in paths.items() if pid in dead]
    reading = f" while it read {', '.join(read)}" if read else ""
    return UserError(
        f"a DataLoader worker {how}{reading}. If it was short of memory, or of {SHARED_MEMORY}, {remedy}; if its "
        "decoder crashed on this video, fix the file or remove it. The same command resumes from the last checkpoint"
    )


def _dead(processes: set[int]) -> set[int]:
    """Workers that have ended, waiting a moment for the first."""
    children = {child.sentinel: child for child in active_children() if child.pid in processes}
    if children and len(children) == len(processes):
        for sentinel in wait(children, PATIENCE):
            children[sentinel].join()
    return processes - {child.pid for child in active_children()}
