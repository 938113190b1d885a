"""Waiting in tests."""

import time
from collections.abc import Callable

PATIENCE = 900.0
"""Seconds after which a test is taken to hang. No other result may depend on it: the machine may be busy."""


def wait_until(condition: Callable[[], bool], describe: Callable[[], str] = lambda: "") -> None:
    """Waits for a condition; fails after PATIENCE seconds, with what `describe` returns."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited too long\n{describe()}"
        time.sleep(0.01)
