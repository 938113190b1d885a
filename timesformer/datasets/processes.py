"""Work on many clips at once, in processes that may hang or crash over a damaged file: each such clip is named."""

import multiprocessing
import os
import queue
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
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
    function: Callable[[Any], Any],
    items: Iterable[Any],
    workers: int,
    time_limit: float = TIME_LIMIT,
    ahead: int | None = None,
) -> Iterator[Outcome]:
    """Yield the outcome of function(item) for each item, as they come.

    Args:
        function: of a module other than the main one, so that other processes find it; it, items and results must be
            picklable. What it raises becomes the problem of its item.
        items: any number of them. Each is asked for when a process is free for it, by some thread, one at a time.
        workers: processes, 1 or more; they start when there is an item for them.
        time_limit: seconds for an item, after which its process is killed and the item given up.
        ahead: outcomes that may wait to be asked for, beside those being worked on; None: any number.
    """
    done: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
    source = _Source(iter(items), None if ahead is None else workers + ahead)
    # One thread looks after each process: Python's pools wait for ever for a process that hangs or is gone.
    keepers = [_Keeper(function, source, done, time_limit) for _ in range(workers)]
    try:
        for keeper in keepers:
            keeper.start()
        at_work = len(keepers)
        while at_work:
            outcome = done.get()
            if outcome is None:
                at_work -= 1
            elif outcome.item is _FAILED:
                raise outcome.result
            else:
                yield outcome
                source.taken()
    finally:
        for keeper in keepers:
            keeper.stop()
        for keeper in keepers:
            if keeper.is_alive():
                keeper.join()


def given_up(time_limit: float) -> str:
    """The problem of an item that took too long."""
    return f"given up after {time_limit:g} seconds"


def without_path(problem: str, path: str) -> str:
    """What is wrong with the clip of this path, in one line, for places that name the clip themselves."""
    return " ".join(problem.removeprefix(f"{path}: ").split())


_FAILED = object()  # stands for the item where there is none, because the items failed


class _Source:
    """Items for several threads, no more of them `outstanding` than that many without their outcomes being taken."""

    def __init__(self, items: Iterator[Any], outstanding: int | None) -> None:
        self._items, self._lock = items, threading.Lock()
        self._free = None if outstanding is None else threading.Semaphore(outstanding)

    def next(self, stopped: threading.Event) -> Any:
        """An item; StopIteration where there is none or all is stopped."""
        while self._free and not self._free.acquire(timeout=0.1):
            if stopped.is_set():
                raise StopIteration
        with self._lock:
            return next(self._items)

    def taken(self) -> None:
        """An outcome has been taken."""
        if self._free:
            self._free.release()


class _Keeper(threading.Thread):
    """Hands items to a process of its own, and replaces the process when it hangs or crashes."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        source: _Source,
        done: "queue.SimpleQueue[Outcome | None]",
        time_limit: float,
    ) -> None:
        super().__init__(daemon=True)
        self._function, self._source, self._done, self._time_limit = function, source, done, time_limit
        self._process: multiprocessing.process.BaseProcess | None = None
        self._stopped = threading.Event()

    def run(self) -> None:
        try:
            while not self._stopped.is_set():
                item = self._source.next(self._stopped)
                try:
                    self._done.put(self._outcome(item))
                except Exception as error:  # never leave the one who waits without an outcome
                    self._end()
                    self._done.put(Outcome(item, problem=f"could not be handed to a process ({error})"))
        except StopIteration:
            pass
        except Exception as error:
            self._done.put(Outcome(_FAILED, error))
        finally:
            self._end()
            self._done.put(None)

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
                return Outcome(item, problem=given_up(self._time_limit))
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
        module = getattr(self._function, "func", self._function).__module__
        context.set_forkserver_preload([__name__, "timesformer.datasets.reader", module])
        _leave_interrupts_to_main_thread()
        connection, theirs = context.Pipe()
        with theirs:
            process = context.Process(target=_serve, args=(self._function, theirs), daemon=True)
            with _without_main_module():
                process.start()
        self._connection, self._process = connection, process  # only now is there something to end
        # Importing what the function needs is not the first item's time.
        while not connection.poll(0.1):
            if self._stopped.is_set():
                raise EOFError("stopped")
        connection.recv()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


_starting = threading.Lock()


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Lets processes start that do not run the main script again, as they would to find functions of it.

    A script of a few lines has no `if __name__ == "__main__"` to stop them, nor have a notebook's and a web page's.
    They find this package where it is now.
    """
    with _starting:
        main, path = sys.modules["__main__"], os.environ.get("PYTHONPATH")
        sys.modules["__main__"] = ModuleType("__main__")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), *([path] if path else [])])
        try:
            yield
        finally:
            sys.modules["__main__"] = main
            if path is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = path


def _leave_interrupts_to_main_thread() -> None:
    """Keeps Ctrl-C from this thread and the processes that it starts, which would die of it amid their imports."""
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # it would undo this when it is started later on
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _exit(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _serve(function: Callable[[Any], Any], connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the process that started this one ends it
    if hasattr(select, "poll"):
        threading.Thread(target=_leave_with_starter, args=(connection.fileno(),), daemon=True).start()
    try:
        connection.send("ready")
        while True:
            item = connection.recv()
            try:
                answer = function(item), ""
            except Exception as error:
                answer = None, str(error) or type(error).__name__
            connection.send(answer)
    except (EOFError, ConnectionError):
        return  # nobody is there any more


def _leave_with_starter(connection: int) -> None:
    """Ends this process, though it hang in a decoder, when the one that started it is gone."""
    poll = select.poll()
    poll.register(connection, 0)  # nothing but that the other end is closed
    poll.poll()
    os._exit(1)
