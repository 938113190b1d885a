"""Calls that take too long are given up, and nothing waits for them afterwards."""

import os
import signal
import threading

import pytest

from timesformer.datasets.workers.time_limit import TimeLimit, TookTooLongError


@pytest.mark.parametrize("error", [TookTooLongError, KeyboardInterrupt])
def test_call_is_given_up(error: type[BaseException]) -> None:
    limited, never = TimeLimit(60), threading.Event()
    thread = limited(threading.current_thread)
    if error is TookTooLongError:
        limited.seconds = 0.05
    with pytest.raises(error):
        limited(lambda: (error is KeyboardInterrupt and os.kill(os.getpid(), signal.SIGINT)) or never.wait())
    limited.seconds = 60
    assert limited(lambda: 1) == 1
    never.set()
    thread.join(60)
    assert not thread.is_alive()
