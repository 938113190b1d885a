"""DataLoader workers: how they pass batches on and stop with the main process, and what is reported when one fails."""

import errno
import os
import pickle
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import RawArray, RawValue, active_children, parent_process
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

GRACE = 2.0  # seconds that a loading process told to end has to do so by itself
PATIENCE = 5.0  # seconds in which a process whose connection broke off should be seen to be dead
SPARE_FILES = 10  # open files of a process, besides those that are known to be needed


class WorkerStatus:
    """What the main process and its loading processes tell each other, in memory that they share.

    Which video each of them is reading, for the main process to name when one dies of it; and whether they are needed.

    Args:
        workers: number of loading processes.
    """

    def __init__(self, workers: int) -> None:
        self._table = RawArray("q", 2 * workers)  # process and video + 1 of each
        self._needed = RawValue("b", 0)

    @property
    def needed(self) -> bool:
        """Whether the main process wants more clips, though all may have been told to end."""
        return bool(self._needed.value)

    @needed.setter
    def needed(self, value: bool) -> None:
        self._needed.value = value

    def record(self, video: int) -> None:
        """Note in a loading process that it reads this video now; elsewhere nothing."""
        if worker := get_worker_info():
            self._table[2 * worker.id : 2 * worker.id + 2] = [os.getpid(), video + 1]

    def processes(self) -> set[int]:
        """Those that have read anything."""
        return {process for process in self._table[::2] if process}

    def of(self, process: int) -> int | None:
        """The video that a process read last; None where that is not known."""
        videos = dict(zip(self._table[::2], self._table[1::2], strict=True))
        return videos[process] - 1 if videos.get(process) else None


class BatchError(RuntimeError):
    """A DataLoader worker cannot pass a batch on, for want of shared memory or file descriptors."""


class SentBatch:
    """A batch on its way from a DataLoader worker to the main process, where it arrives as the dict that it was.

    Without this, a thread of the worker pickles the batch; when that fails, PyTorch prints the error and drops the
    batch, and the main process waits for it forever. Here the worker's main thread pickles it, whose errors DataLoader
    raises in the main process. The clips go through shared memory and all else, which is small, through the pipe: so a
    batch takes one file descriptor, and the main process a third of the time to receive it.

    Args:
        batch: of `collate`.

    Raises:
        BatchError: if there is too little shared memory, or there are too few file descriptors.
    """

    def __init__(self, batch: dict[str, Any]) -> None:
        clip = batch["clip"]
        self._rest = {name: _as_array(value) for name, value in batch.items() if name != "clip"}
        try:
            require_open_files(SPARE_FILES)  # of which this takes three, and a thread that hands descriptors out one
            self._clip = bytes(ForkingPickler.dumps(clip))
        except (RuntimeError, OSError) as error:
            raise BatchError(f"a batch of {clip.nbytes / 2**20:.1f} MiB: {' '.join(str(error).split())}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self._clip, self._rest)


def _as_array(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def _received(clip: bytes, rest: dict[str, Any]) -> dict[str, Any]:
    tensors = {name: torch.from_numpy(value) for name, value in rest.items() if isinstance(value, np.ndarray)}
    return {"clip": pickle.loads(clip), **rest, **tensors}


def start_worker(worker: int) -> None:
    """Prepare a loading process, to be given to DataLoader.

    Ctrl-C and job schedulers signal the whole process group. A process that dies of it makes the main process fail with
    "DataLoader worker was killed" while it stops in good order, for which it may need more clips; it ends its loading
    processes itself. One that waits for a decoder does not see that, and leaves a little after it is told by SIGTERM
    and is needed no more (`report_worker_death`); it ends at once if the main process is killed, be that before it came
    here.
    """
    worker_status = get_worker_info().dataset.worker_status

    def leave() -> None:
        time.sleep(GRACE)
        while worker_status.needed:
            time.sleep(GRACE)
        os._exit(0)

    def leave_with_main() -> None:
        parent_process().join()
        os._exit(0)

    threading.Thread(target=leave_with_main, daemon=True).start()

    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: threading.Thread(target=leave, daemon=True).start())
    sys.excepthook = _report_unless_cut_off


def _report_unless_cut_off(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:  # what a worker's thread for handing over tensors says when the main process is interrupted meanwhile
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


@contextmanager
def report_worker_death(*loaders: DataLoader) -> Iterator[None]:
    """Turns failures of the workers of these loaders into UserErrors, with the videos that a dead one was reading.

    DataLoader reports a death wherever the main process happens to be, so this goes around all that is done while
    they live. Until its end they do not leave for SIGTERM.

    Raises:
        UserError: if a worker dies or its connection breaks, or shared memory or file descriptors are too few.
    """
    for loader in loaders:
        loader.dataset.worker_status.needed = True
    try:
        if needed := sum(map(_open_files, loaders)):
            require_open_files(needed + SPARE_FILES)
        yield
    except (RuntimeError, OSError, EOFError) as error:
        # Loaders in a reference cycle do not ask their workers to end: PyTorch kills those after some seconds.
        traceback.clear_frames(error.__traceback__)
        try:
            explained = _explanation(error, loaders)
        except RuntimeError:  # DataLoader's handler of signals raises its report during this; it does so once
            explained = _explanation(error, loaders)
        if explained is None:
            raise
        try:
            raise explained from error
        finally:
            del explained
    finally:
        for loader in loaders:
            loader.dataset.worker_status.needed = False


def _open_files(loader: DataLoader) -> int:
    """File descriptors of the main process that a loader takes: pipes, sentinels, and batches waiting to be used."""
    return 2 + (4 + loader.prefetch_factor) * loader.num_workers if loader.num_workers else 0


def _explanation(error: Exception, loaders: tuple[DataLoader, ...]) -> UserError | None:
    """The UserError for an error that means a failure of a worker, None if it means something else."""
    workers = max(loader.num_workers for loader in loaders)
    remedy = f"lower DATA_LOADER.NUM_WORKERS (workers used: {workers}) or the batch size"
    if is_out_of_files(error):
        return out_of_files(remedy)
    if isinstance(error, BatchError):
        return out_of_shared_memory(str(error).rstrip().rpartition(f"{BatchError.__name__}: ")[2], remedy)
    if workers and getattr(error, "errno", None) == errno.ENOSPC and error.filename is None:  # a semaphore
        return out_of_shared_memory(str(error), remedy)
    reported = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", str(error), re.DOTALL)
    if reported:
        dead, how = set(map(int, reported[1].split(","))), " ".join(reported[2].split()).rstrip(".")
    elif isinstance(error, RuntimeError):
        return None
    else:  # a connection broke, perhaps because the process at its other end has just died
        dead, how = _dead(loaders), "ended unexpectedly"
        if not dead and isinstance(error, ConnectionError | EOFError):
            how = f"broke its connection ({type(error).__name__}: {error})"
        elif not dead:
            return None
    videos = [(loader, loader.dataset.worker_status.of(process)) for process in dead for loader in loaders]
    paths = [loader.dataset.records[video].path for loader, video in videos if video is not None]
    reading = f" while it read {', '.join(paths)}" if paths else ""
    return UserError(
        f"a DataLoader worker {how}{reading}. If it was short of memory, or of {SHARED_MEMORY}, {remedy}; if its "
        "decoder crashed on this video, fix the file, or take it out of the dataset. The same command resumes from the "
        "last checkpoint"
    )


def _dead(loaders: tuple[DataLoader, ...]) -> set[int]:
    """Processes of these loaders that do not live any more, waiting a moment for the first."""
    deadline = time.monotonic() + PATIENCE
    while True:
        dead = {process for loader in loaders for process in loader.dataset.worker_status.processes()}
        dead -= {child.pid for child in active_children()}
        if dead or time.monotonic() > deadline:
            return dead
        time.sleep(0.02)
