"""Work on many clips at once, in processes that may hang or crash over a damaged file: each such clip is named."""

import os
import pickle
import queue
import select
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from timesformer.datasets.workers.fork_server import STOPPING, ProcessServer
from timesformer.errors import UserError
from timesformer.runtime.resource_limits import is_out_of_files, out_of_files

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
    supervisors = [_Supervisor(function, source, done, time_limit) for _ in range(workers)]
    try:
        for supervisor in supervisors:
            supervisor.start()
        at_work = len(supervisors)
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
        for supervisor in supervisors:
            supervisor.stop()
        for supervisor in supervisors:
            if supervisor.is_alive():
                supervisor.join()


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


class _Supervisor(threading.Thread):
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
        self._process: int | None = None
        self._connection: Connection | None = None
        self._stopped = threading.Event()

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # they are for the main thread, and must wake it
        try:
            while not self._stopped.is_set():
                self._done.put(self._outcome(self._source.next(self._stopped)))
        except (StopIteration, _StoppedError):
            pass
        except Exception as error:
            self._done.put(Outcome(_FAILED, error))
        finally:
            self._end()
            self._done.put(None)

    def stop(self) -> None:
        self._stopped.set()

    def _outcome(self, item: Any) -> Outcome:
        try:
            pickled = pickle.dumps(item)
        except Exception as error:
            return Outcome(item, problem=f"could not be handed to a process ({error})")
        try:
            if not (self._hand_over(pickled) and self._answers()):
                self._end()
                return Outcome(item, problem=given_up(self._time_limit))
            result, problem, lacks_files = self._connection.recv()
        except (EOFError, OSError):
            return Outcome(item, problem=f"the decoder crashed ({_exit(self._end(_PATIENCE))})")
        if lacks_files:
            raise out_of_files(_FEWER)
        return Outcome(item, result, problem)

    def _hand_over(self, item: bytes) -> bool:
        """Whether the process has taken the item in time; one that was killed while it waited for it is replaced."""
        if self._process is not None:
            with suppress(EOFError, OSError):
                return self._is_taken(item)
            self._end()
        self._begin()
        return self._is_taken(item)

    def _is_taken(self, item: bytes) -> bool:
        self._connection.send_bytes(item)
        return self._answers() and not self._connection.recv_bytes()

    def _answers(self) -> bool:
        """Waits for a message from the process; False if there is none in time, or all is stopped."""
        waited = 0.0
        while not self._connection.poll(0.1):
            waited += 0.1
            if self._stopped.is_set() or waited >= self._time_limit:
                return False
        return True

    def _begin(self) -> None:
        """Starts the process; UserError if it cannot be started, also not at a second attempt."""
        try:
            try:
                problem = self._start()
            except EOFError:  # somebody has killed it, or the server
                self._end()
                problem = self._start()
        except EOFError:
            problem = f"it ended at once: {_exit(self._end(_PATIENCE))}"
        except OSError as error:
            raise out_of_files(_FEWER) if is_out_of_files(error) else _not_started(str(error)) from error
        if problem:
            raise _not_started(problem)

    def _start(self) -> str:
        """Why the process cannot work, or ""; EOFError if it has ended."""
        module = getattr(self._function, "func", self._function).__module__
        function = pickle.dumps(self._function)
        self._process, self._connection = _server.start(
            _serve, (__name__, "timesformer.datasets.decoding.open", module)
        )
        try:
            self._connection.send_bytes(function)
            while not self._connection.poll(0.1):  # imports are not the first item's time
                if self._stopped.is_set():
                    raise _StoppedError
            return self._connection.recv()
        except ConnectionError as error:
            raise EOFError from error

    def _end(self, seconds: float = 0.0) -> int | None:
        """The exit code of the process, which is killed if it has not ended by itself after some seconds."""
        if self._process is None:
            return None
        code = _server.end(self._process, seconds)
        self._connection.close()
        self._process = self._connection = None
        return code


_server = ProcessServer()  # of all that is done in processes, so that only the first has to wait for its imports

_PATIENCE = 1.0  # seconds in which a process that has closed its connection should have ended
_FEWER = "start fewer processes (--workers)"


class _StoppedError(Exception):
    """No more outcomes are wanted."""


def _not_started(reason: str) -> UserError:
    return UserError(
        f"a process that reads videos cannot be started ({reason}): see that there is memory for it, and that the "
        f"limit of processes (ulimit -u) is not reached, or {_FEWER}"
    )


def _exit(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _serve(connection: Connection) -> None:
    """In the process: receives a function and then items; of each it says that it has it, and then what it came to."""
    if hasattr(select, "poll"):
        threading.Thread(target=_leave_with_starter, args=(connection.fileno(),), daemon=True).start()
    try:
        received = connection.recv_bytes()
        try:
            function = pickle.loads(received)
        except Exception as error:
            connection.send(f"its function cannot be imported: {error}")
            return
        connection.send("")
        while True:
            item = connection.recv_bytes()
            connection.send_bytes(b"")
            connection.send_bytes(_answer(function, item))
    except (EOFError, ConnectionError):
        return  # the process that asked is gone


def _answer(function: Callable[[Any], Any], item: bytes) -> bytes:
    """Result, problem, and whether that is that no more files can be opened."""
    try:
        return pickle.dumps((function(pickle.loads(item)), "", False))
    except Exception as error:
        return pickle.dumps((None, str(error) or type(error).__name__, is_out_of_files(error)))


def _leave_with_starter(connection: int) -> None:
    """Ends this process, though it hang in a decoder, when the one that started it is gone."""
    poll = select.poll()
    poll.register(connection, 0)  # nothing but that the other end is closed
    poll.poll()
    os._exit(1)
