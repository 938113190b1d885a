"""Calls that take too long are given up, and nothing waits for them afterwards."""

import os
import pickle
import signal
import threading
from collections.abc import Iterator

import pytest

from timesformer.datasets.workers.time_limit import TimeLimit, TookTooLongError


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """An event that does not happen before the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def test_results_and_errors_are_those_of_the_call() -> None:
    limited = TimeLimit(60)
    thread = limited(threading.current_thread)
    assert thread.daemon  # it does not keep the process from ending
    with pytest.raises(TimeoutError, match="of the call itself"):
        limited(lambda: (_ for _ in ()).throw(TimeoutError("of the call itself")))
    assert limited(threading.current_thread) is thread is not threading.current_thread()


def test_slow_call_is_given_up(never: threading.Event) -> None:
    limited = TimeLimit(60)
    thread = limited(threading.current_thread)
    limited.seconds = 0.05
    with pytest.raises(TookTooLongError):
        limited(never.wait)
    limited.seconds = 60
    assert limited(lambda: 1) == 1
    never.set()
    thread.join(60)
    assert not thread.is_alive()


def test_interrupted_call_does_not_block_the_next(never: threading.Event) -> None:
    limited = TimeLimit(60)
    with pytest.raises(KeyboardInterrupt):
        limited(lambda: os.kill(os.getpid(), signal.SIGINT) or never.wait())
    assert limited(lambda: 2) == 2


def test_copies_in_other_processes_have_their_own_thread() -> None:
    limited = TimeLimit(60)
    assert limited(lambda: 1) == 1
    assert pickle.loads(pickle.dumps(limited))(lambda: 2) == 2
    child = os.fork()
    if not child:
        os._exit(limited(lambda: 42))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
