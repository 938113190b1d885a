"""Process many clips in worker processes; a clip at which its worker hangs or crashes is reported."""

import pickle
import queue
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from timesformer.datasets.workers.fork_server import STOP_SIGNALS, ForkServer
from timesformer.errors import UserError
from timesformer.runtime.resource_limits import is_out_of_files, out_of_files

TIME_LIMIT = 300.0  # seconds for a clip
SERVER = ForkServer()  # shared, so that only the first worker has to wait for imports

_PATIENCE = 1.0  # seconds in which a process that has closed its connection should have ended
_FEWER = "start fewer processes (--workers, of a service --readers)"


@dataclass(frozen=True)
class Outcome:
    """The result of the function for an item, or the problem that prevented it."""

    item: Any
    result: Any = None
    problem: str = ""


Outcomes = queue.Queue[Outcome | Exception | None]


def in_processes(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    workers: int,
    time_limit: float = TIME_LIMIT,
    ahead: int | None = None,
) -> Iterator[Outcome]:
    """Yield the outcome of function(item) for each item, in the order in which they are finished.

    Args:
        function: of an importable module, not of `__main__`; it, items and results must be picklable. An exception
            becomes the problem of its item.
        items: each is taken when a worker is free for it, from some thread, one at a time.
        workers: processes, 1 or more; they start when there is an item for them.
        time_limit: seconds for an item, after which its worker is killed.
        ahead: outcomes that may wait to be yielded, 1 or more, besides one for each worker; None: any number.

    Raises UserError if workers cannot be started, or too many files are open.
    """
    outcomes: Outcomes = queue.Queue(ahead or 0)
    source, lock = iter(items), threading.Lock()
    return _supervise(
        [WorkerSupervisor(function, source, lock, outcomes, time_limit) for _ in range(workers)], outcomes
    )


def streams_in_processes(
    function: Callable[[Any], Any],
    streams: Iterable[Iterable[Any]],
    workers: int,
    time_limit: float = TIME_LIMIT,
    ahead: int | None = None,
) -> Iterator[Outcome]:
    """Yield outcomes as `in_processes`, where all items of a stream go to one worker, in order.

    The worker has one copy of `function`, which may keep a state. It is a new one after a crash. A stream may end
    because of an earlier outcome; by then, its next item may have been taken.
    """
    outcomes: Outcomes = queue.Queue(ahead or 0)
    source, lock = iter(streams), threading.Lock()

    def items() -> Iterator[Any]:
        while True:
            with lock:
                stream = next(source, None)
            if stream is None:
                return
            yield from stream

    supervisors = [WorkerSupervisor(function, items(), threading.Lock(), outcomes, time_limit) for _ in range(workers)]
    return _supervise(supervisors, outcomes)


def _supervise(supervisors: "Sequence[WorkerSupervisor]", outcomes: "Outcomes") -> Iterator[Outcome]:
    try:
        for supervisor in supervisors:
            supervisor.start()
        running = len(supervisors)
        while running:
            outcome = outcomes.get()
            if outcome is None:
                running -= 1
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                yield outcome
    finally:
        for supervisor in supervisors:
            supervisor.stopped.set()
        for supervisor in filter(WorkerSupervisor.is_alive, supervisors):
            supervisor.join()


def given_up(time_limit: float) -> str:
    """Return the problem of an item that took too long."""
    return f"given up after {time_limit:g} seconds"


def without_path(problem: str, path: str) -> str:
    """Return a problem in one line without the path of its clip, for messages that name the clip themselves."""
    return " ".join(problem.removeprefix(f"{path}: ").split())


class _Stopped(Exception):
    """No more outcomes are wanted."""


class WorkerSupervisor(threading.Thread):
    """Hands items to a worker."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        items: Iterator[Any],
        lock: threading.Lock,
        outcomes: "Outcomes",
        time_limit: float,
    ) -> None:
        super().__init__(daemon=True)
        self._items, self._lock, self._outcomes = items, lock, outcomes
        self._worker = Worker(function, time_limit)
        self.stopped = self._worker.stopped

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # they must wake the main thread
        try:
            while not self.stopped.is_set():
                with self._lock:
                    item = next(self._items)
                self._put(self._worker.process(item))
        except (StopIteration, _Stopped):
            pass
        except Exception as error:
            self._put(error)
        finally:
            self._worker.end()
            self._put(None)

    def _put(self, outcome: Outcome | Exception | None) -> None:
        while not self.stopped.is_set():
            with suppress(queue.Full):
                self._outcomes.put(outcome, timeout=0.1)
                return


class ProcessPool:
    """Worker processes for the items of many threads, which live until `close`.

    A process is replaced after a crash, an exception, `time_limit` or `renew_after` items. If it had other items
    before a crash or an exception, the item is processed again in the new one.

    Args:
        function, time_limit: as of `in_processes`.
        workers: processes; they start when there is an item for them.
        renew_after: number of items for one process.
    """

    def __init__(self, function: Callable[[Any], Any], workers: int, time_limit: float, renew_after: int) -> None:
        self._threads = ThreadPoolExecutor(workers, "worker", signal.pthread_sigmask, (signal.SIG_BLOCK, STOP_SIGNALS))
        self._workers = [Worker(function, time_limit, renew_after) for _ in range(workers)]
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()  # the last one is the likeliest to have a process
        for worker in self._workers:
            self._idle.put(worker)

    def submit(self, item: Any) -> "Future[Outcome]":
        """Returns the future outcome of an item. An error of it is that of `in_processes`."""
        return self._threads.submit(self._process, item)

    def close(self) -> None:
        """Finishes all items, and ends the processes; nothing may be submitted afterwards."""
        self._threads.shutdown()
        for worker in self._workers:
            worker.end()

    def stop(self) -> None:
        """As `close`, but gives up unfinished items."""
        self._threads.shutdown(wait=False, cancel_futures=True)  # first: no thread takes another item
        for worker in self._workers:
            worker.stopped.set()
        self.close()

    def _process(self, item: Any) -> Outcome:
        worker = self._idle.get()
        try:
            return worker.process(item)
        finally:
            self._idle.put(worker)


class Worker:
    """A worker process, which starts with its first item, and is replaced when it hangs or crashes.

    With `renew_after`, it is also replaced after this number of items, and after an exception. Setting `stopped` in
    another thread ends `process`.
    """

    def __init__(self, function: Callable[[Any], Any], time_limit: float, renew_after: int | None = None) -> None:
        self.stopped = threading.Event()
        self._function, self._time_limit, self._renew_after = function, time_limit, renew_after
        self._number: int | None = None  # of the process
        self._connection: Connection | None = None
        self._items = 0

    def process(self, item: Any) -> Outcome:
        """Returns the outcome of an item. Raises as `in_processes`."""
        try:
            pickled = pickle.dumps(item)
        except Exception as error:
            return Outcome(item, problem=f"could not be handed to a process ({error})")
        if self._items == self._renew_after:
            self.end()
        if is_new := self._number is None:
            self._start()
        try:
            self._connection.send_bytes(pickled)
            self._items += 1
            if not self._wait(self._time_limit):
                self.end()
                return Outcome(item, problem=given_up(self._time_limit))
            result, problem, is_out_of_files_there = self._connection.recv()
        except (EOFError, OSError):
            ended = self.end(_PATIENCE)
            if not is_new:  # it may have been killed before it got the item
                return self.process(item)
            return Outcome(item, problem=f"the decoder crashed ({ended})")
        if is_out_of_files_there:
            raise out_of_files(_FEWER)
        if problem and self._renew_after is not None:
            self.end()
            if not is_new:
                return self.process(item)
        return Outcome(item, result, problem)

    def end(self, seconds: float = 0.0) -> str:
        """Kill the process if it has not ended by itself after some seconds; returns how it ended."""
        if self._number is None:
            return ""
        code = SERVER.end(self._number, seconds)
        self._connection.close()
        self._number = self._connection = None
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    def _wait(self, time_limit: float = float("inf")) -> bool:
        """Whether a message has come from the process in time."""
        waited = 0.0
        while not self._connection.poll(0.1):
            waited += 0.1
            if self.stopped.is_set():
                raise _Stopped
            if waited >= time_limit:
                return False
        return True

    def _start(self) -> None:
        module = getattr(self._function, "func", self._function).__module__
        function, problem = pickle.dumps(self._function), ""
        self._items = 0
        for _ in range(2):  # the server may have been killed
            try:
                self._number, self._connection = SERVER.start(module)
                self._connection.send_bytes(function)
                self._wait()  # imports do not count for the first item
                problem = self._connection.recv()
            except (EOFError, ConnectionError):
                problem = self.end(_PATIENCE) or "its server ended"
                continue
            except OSError as error:
                if is_out_of_files(error):
                    raise out_of_files(_FEWER) from error
                problem = str(error)
            break
        if problem:
            raise UserError(f"a process that reads videos cannot be started ({problem}): free memory, or {_FEWER}")
