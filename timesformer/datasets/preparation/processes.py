"""Work on many clips at once, in processes that may hang or crash over a damaged file: each such clip is named."""

import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

TIME_LIMIT = 300.0
"""Seconds after which the work on one clip is given up."""


@dataclass(frozen=True)
class Outcome:
    """What became of one item: what the function returned, or why it did not."""

    item: Any
    result: Any = None
    problem: str = ""


def in_processes(
    function: Callable[[Any], Any], items: Sequence[Any], workers: int, time_limit: float = TIME_LIMIT
) -> Iterator[Outcome]:
    """Yield the outcome of function(item) for each item, as they come.

    Args:
        function: of a module, so that other processes find it; it, items and results must be picklable. What it
            raises becomes the problem of its item.
        items: any number of them.
        workers: processes, 1 or more.
        time_limit: seconds for an item, after which its process is killed and the item given up.
    """
    todo: queue.SimpleQueue[Any] = queue.SimpleQueue()
    done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    for item in items:
        todo.put(item)
    # One thread looks after each process: Python's pools wait for ever for a process that hangs or is gone.
    keepers = [_Keeper(function, todo, done, time_limit) for _ in range(min(workers, len(items)))]
    try:
        for keeper in keepers:
            keeper.start()
        for _ in items:
            yield done.get()
    finally:
        for keeper in keepers:
            keeper.stop()
        for keeper in keepers:
            if keeper.is_alive():
                keeper.join()


def without_path(problem: str, path: str) -> str:
    """What is wrong with the clip of this path, in one line, for places that name the clip themselves."""
    return " ".join(problem.removeprefix(f"{path}: ").split())


class _Keeper(threading.Thread):
    """Hands items to a process of its own, and replaces the process when it hangs or crashes."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        todo: "queue.SimpleQueue[Any]",
        done: "queue.SimpleQueue[Outcome]",
        time_limit: float,
    ) -> None:
        super().__init__(daemon=True)
        self._function, self._todo, self._done, self._time_limit = function, todo, done, time_limit
        self._process: multiprocessing.process.BaseProcess | None = None
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.is_set():
            try:
                item = self._todo.get_nowait()
            except queue.Empty:
                break
            try:
                self._done.put(self._outcome(item))
            except Exception as error:  # never leave the one who waits without an outcome
                self._end()
                self._done.put(Outcome(item, problem=f"could not be handed to a process ({error})"))
        self._end()

    def stop(self) -> None:
        self._stopped.set()

    def _outcome(self, item: Any) -> Outcome:
        if self._process is None:
            self._begin()
        self._connection.send(item)
        waited = 0.0
        while not self._connection.poll(0.1):
            waited += 0.1
            if self._stopped.is_set() or waited >= self._time_limit:
                self._end()
                return Outcome(item, problem=f"given up after {self._time_limit:g} seconds")
        try:
            result, problem = self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self._end()
            return Outcome(item, problem=f"the decoder crashed ({_exit(code)})")
        return Outcome(item, result, problem)

    def _begin(self) -> None:
        # A plain fork would copy locks that other threads hold; forks of a server without threads start at once, too.
        has_server = "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if has_server else "spawn")
        context.set_forkserver_preload(["__main__", __name__, "timesformer.datasets.reader"])
        _leave_interrupts_to_main_thread()
        connection, theirs = context.Pipe()
        with theirs:
            process = context.Process(target=_serve, args=(self._function, theirs), daemon=True)
            process.start()
        self._connection, self._process = connection, process  # only now is there something to end

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


def _leave_interrupts_to_main_thread() -> None:
    """Keeps Ctrl-C from this thread and the processes that it starts, which would die of it amid their imports."""
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # it would undo this when it is started later on
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _exit(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _serve(function: Callable[[Any], Any], connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the process that started this one ends it
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        try:
            answer = function(item), ""
        except Exception as error:
            answer = None, str(error) or type(error).__name__
        connection.send(answer)
