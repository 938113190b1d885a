"""Loading processes: how they stop with the main process, and what is said when one dies."""

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import RawArray, RawValue, active_children, parent_process
from types import TracebackType

from torch.utils.data import DataLoader, get_worker_info

from timesformer.errors import UserError

GRACE = 2.0  # seconds that a loading process told to end has to do so by itself
PATIENCE = 1.0  # seconds in which a process whose connection broke off should be seen to be dead


class InHand:
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

    def take(self, video: int) -> None:
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


def start_worker(worker: int) -> None:
    """Prepare a loading process, to be given to DataLoader.

    Ctrl-C and job schedulers signal the whole process group. A process that dies of it makes the main process fail with
    "DataLoader worker was killed" while it stops in good order, for which it may need more clips; it ends its loading
    processes itself. One that waits for a decoder does not see that, and leaves a little after it is told by SIGTERM
    and is needed no more (`explained_death`); it leaves at once when the main process is killed, be that before it came
    here.
    """
    in_hand = get_worker_info().dataset.in_hand

    def leave() -> None:
        time.sleep(GRACE)
        while in_hand.needed:
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
def explained_death(*loaders: DataLoader) -> Iterator[None]:
    """Turn the death of a process of these loaders into a UserError that names the videos it may have died of.

    DataLoader reports it wherever the main process happens to be, so this goes around all that is done while they live.
    Until its end they do not leave for SIGTERM.
    """
    for loader in loaders:
        loader.dataset.in_hand.needed = True
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        try:
            explained = _explanation(error, loaders)
        except RuntimeError:  # DataLoader's handler of signals raises its report amid this; it does so once
            explained = _explanation(error, loaders)
        if explained is None:
            raise
        raise explained from error
    finally:
        for loader in loaders:
            loader.dataset.in_hand.needed = False


def _explanation(error: Exception, loaders: tuple[DataLoader, ...]) -> UserError | None:
    """What to say of an error that means the death of a loading process, None if it means something else."""
    reported = re.match(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", str(error), re.DOTALL)
    if reported:
        dead, how = set(map(int, reported[1].split(","))), " ".join(reported[2].split()).rstrip(".")
    elif isinstance(error, RuntimeError):
        return None
    else:  # a connection broke off; perhaps as the process at its other end died this moment
        dead, how = _dead(loaders), "ended unexpectedly"
    if not dead:
        return None
    videos = [(loader, loader.dataset.in_hand.of(process)) for process in dead for loader in loaders]
    paths = [loader.dataset.records[video].path for loader, video in videos if video is not None]
    reading = f" while it read {', '.join(paths)}" if paths else ""
    return UserError(
        f"a loading process {how}{reading}. If it was short of memory, lower DATA_LOADER.NUM_WORKERS or the batch size;"
        " if its decoder crashed on this video, mend it, or take it out of the dataset. The same command goes on from "
        "the last checkpoint"
    )


def _dead(loaders: tuple[DataLoader, ...]) -> set[int]:
    """Processes of these loaders that do not live any more, waiting a moment for the first."""
    deadline = time.monotonic() + PATIENCE
    while True:
        dead = {process for loader in loaders for process in loader.dataset.in_hand.processes()}
        dead -= {child.pid for child in active_children()}
        if dead or time.monotonic() > deadline:
            return dead
        time.sleep(0.02)
