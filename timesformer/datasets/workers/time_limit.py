"""Giving up on a call that takes too long, such as a decoder caught in a broken file."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet  # the built-in one only from Python 3.11 on
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class TookTooLongError(Exception):
    """A call that did not end in time."""


class TimeLimit:
    """Runs calls in a helper thread, one at a time, and leaves that thread behind when a call does not end in time.

    The next call gets a thread of its own. One that was left behind goes on until its call ends, if ever; it does not
    keep the process from ending. Nothing can be done about a call that never lets go of Python's global lock; decoders
    do while they decode.

    Args:
        seconds: a call may take; 0: any time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._helper: _Helper | None = None

    def __call__(self, function: Callable[[], Result]) -> Result:
        """What `function` returns or raises; TookTooLongError if it does neither in time."""
        helper, self._helper = self._helper, None
        if helper is None or helper.process != os.getpid():  # threads do not outlive a fork
            helper = _Helper()
        answer: Future[Result] = Future()
        helper.tasks.put((answer, function))
        try:
            self._wait(answer)
        except BaseException:  # also an interruption: whoever calls next must not wait for this call to end
            helper.tasks.put(None)
            raise
        self._helper = helper
        return answer.result()

    def close(self) -> None:
        """Ends the helper thread; the next call starts another."""
        helper, self._helper = self._helper, None
        if helper:
            helper.tasks.put(None)

    def _wait(self, answer: "Future[Any]") -> None:
        # In parts: the clock runs on while a process is suspended, and that should not cost a readable clip; and an
        # interruption that another thread happened to receive should not have to wait for long either.
        part, waited = min(self.seconds / 10 or 1.0, 1.0), 0.0
        while True:
            try:
                answer.exception(part)
                return
            except NotYet:
                waited += part
            if 0 < self.seconds <= waited + part / 2:
                raise TookTooLongError

    def __getstate__(self) -> dict[str, Any]:  # for loading processes that are not forked
        return {"seconds": self.seconds, "_helper": None}


class _Helper:
    """A thread that works off tasks until it is told None."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=_work, args=(self.tasks,), name="decoding", daemon=True).start()


def _work(tasks: "SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]") -> None:
    while task := tasks.get():
        answer, function = task
        try:
            answer.set_result(function())
        except BaseException as error:  # whatever it is, the caller gets it
            answer.set_exception(error)
        del task, answer, function  # a waiting thread holds no clip
