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
    """An event that does not happen before the test is over."""
    event = threading.Event()
    yield event
    event.set()


def test_results_and_errors_are_those_of_the_call() -> None:
    limited = TimeLimit(60)
    assert [limited(lambda: 1), limited(lambda: 2)] == [1, 2]
    with pytest.raises(TimeoutError, match="of the call itself"):
        limited(lambda: (_ for _ in ()).throw(TimeoutError("of the call itself")))
    assert limited(lambda: 3) == 3


def test_calls_run_in_one_thread_as_long_as_they_end_in_time() -> None:
    limited = TimeLimit(60)
    first = limited(threading.current_thread)
    assert limited(threading.current_thread) is first
    assert first is not threading.current_thread()
    assert first.daemon  # it does not keep the process from ending


def test_a_call_that_takes_too_long_is_left_behind_and_the_next_has_a_thread_of_its_own(never: threading.Event) -> None:
    limited = TimeLimit(0.05)
    with pytest.raises(TookTooLongError):
        limited(never.wait)
    limited.seconds = 60
    assert limited(lambda: 1) == 1


def test_a_thread_left_behind_ends_with_its_call(never: threading.Event) -> None:
    limited = TimeLimit(60)
    thread = limited(threading.current_thread)
    limited.seconds = 0.05
    with pytest.raises(TookTooLongError):
        limited(never.wait)
    never.set()
    thread.join(60)
    assert not thread.is_alive()


def test_without_a_limit_a_call_may_take_any_time() -> None:
    timer = threading.Timer(0.05, (done := threading.Event()).set)
    timer.start()
    assert TimeLimit(0)(done.wait)


def test_an_interrupted_wait_leaves_nothing_to_the_next_call(never: threading.Event) -> None:
    limited = TimeLimit(60)
    with pytest.raises(KeyboardInterrupt):
        limited(lambda: os.kill(os.getpid(), signal.SIGINT) or never.wait())
    assert limited(lambda: 2) == 2


def test_the_time_for_which_a_process_is_suspended_does_not_count_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    limited, waits = TimeLimit(1), []

    class Answer:
        def exception(self, seconds: float) -> None:
            waits.append(seconds)  # of which the first is over at once, as the process stood still
            if len(waits) == 1:
                raise TimeoutError

    monkeypatch.setattr("timesformer.datasets.workers.time_limit.NotYet", TimeoutError)
    limited._wait(Answer())
    assert waits == [0.1, 0.1]


def test_a_copy_in_another_process_has_a_thread_of_its_own() -> None:
    limited = TimeLimit(60)
    assert limited(lambda: 1) == 1
    assert pickle.loads(pickle.dumps(limited))(lambda: 2) == 2
    child = os.fork()
    if not child:
        os._exit(limited(lambda: 42))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
