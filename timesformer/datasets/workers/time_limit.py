"""Give up on a call that takes too long, such as decoding a broken file."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError  # the built-in one only from Python 3.11 on
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")
Tasks = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


class TookTooLongError(Exception):
    """A call that did not end in time."""


class TimeLimit:
    """Runs calls in a helper thread, one at a time; a thread whose call does not end in time is left behind.

    The next call gets another thread. A thread that was left behind does not keep the process from ending. A call that
    never releases Python's global lock cannot be given up; decoders release it. `seconds` 0 sets no limit.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._helper: tuple[int, Tasks] | None = None  # process and tasks of the thread

    def __call__(self, function: Callable[[], Result]) -> Result:
        """Return what `function` returns, or raise what it raises; TookTooLongError if it does neither in time."""
        helper, self._helper = self._helper, None
        if helper is None or helper[0] != os.getpid():  # threads do not survive a fork
            helper = os.getpid(), SimpleQueue()
            threading.Thread(target=_run_tasks, args=(helper[1],), name="decoding", daemon=True).start()
        answer: Future[Result] = Future()
        try:
            helper[1].put((answer, function))
            self._wait(answer)
        except BaseException:  # also an interruption: the next call must not wait for this one
            helper[1].put(None)
            raise
        self._helper = helper
        return answer.result()

    def close(self) -> None:
        """End the helper thread; the next call starts another."""
        if self._helper:
            self._helper[1].put(None)
        self._helper = None

    def _wait(self, answer: "Future[Any]") -> None:
        # In parts, because the time for which the process is suspended should not count.
        part, waited = min(self.seconds / 10 or 1.0, 1.0), 0.0
        while True:
            try:
                answer.exception(part)
                return
            except FutureTimeoutError:
                waited += part
            if 0 < self.seconds <= waited + part / 2:
                raise TookTooLongError

    def __getstate__(self) -> dict[str, Any]:  # for spawned workers
        return {"seconds": self.seconds, "_helper": None}


def _run_tasks(tasks: Tasks) -> None:
    while task := tasks.get():
        answer, function = task
        try:
            answer.set_result(function())
        except BaseException as error:
            answer.set_exception(error)
        del task, answer, function  # a waiting thread keeps no clip
