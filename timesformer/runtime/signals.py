"""Signal handling: a first Ctrl-C or scheduler signal stops a run after its step, a second one at once."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")

EXIT_REQUEUE = 75  # asks the scheduler to start the same command again (EX_TEMPFAIL of sysexits.h)
REPEATED = 2.0  # seconds in which a second signal counts as the first one, repeated by a launcher
_REQUEUE = (signal.SIGUSR1, signal.SIGUSR2)
STOPPING = (signal.SIGINT, signal.SIGTERM, *_REQUEUE)

_received: int | None = None  # the signal that was raised as KeyboardInterrupt
_deferred: int | None = None  # the signal to raise at the end of `defer_signals`
_depth = 0  # of nested `defer_signals`
_requested: int | None = None  # the signal that `graceful_shutdown` holds back
_requested_at = 0.0
_is_graceful = _is_distributed = _may_stop_now = False


def install_signal_handlers() -> None:
    """Makes SIGINT (unless it is ignored), SIGTERM, SIGUSR1 and SIGUSR2 raise KeyboardInterrupt(number)."""
    clear_signals()
    for number in STOPPING[1:]:
        signal.signal(number, _handle)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handle)


@contextmanager
def signal_handlers() -> Iterator[None]:
    """Handles signals in this block as `install_signal_handlers`, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    install_signal_handlers()
    try:
        yield
    finally:
        clear_signals()
        for number, handler in before.items():
            signal.signal(number, handler)


def clear_signals() -> None:
    """Forgets the signals received so far."""
    global _deferred, _received, _requested
    _deferred = _received = _requested = None


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Returns EXIT_REQUEUE for SIGUSR1 and SIGUSR2, else 128 + number."""
    number = (interrupt.args or (signal.SIGINT,))[0]
    return EXIT_REQUEUE if number in _REQUEUE else 128 + number


class StopRequested(KeyboardInterrupt):
    """A signal that `graceful_shutdown` held back: the run can still be saved."""


@contextmanager
def graceful_shutdown(is_distributed: bool = False) -> Iterator[None]:
    """Holds the first signal back in this block, which polls `requested_signal` and calls `stop_if_requested`.

    A second signal raises at once; except for Ctrl-C (if not `is_distributed`) only after REPEATED seconds.
    """
    global _is_graceful, _is_distributed
    _is_graceful, _is_distributed = True, is_distributed
    try:
        yield
    finally:
        _is_graceful = False
    if _requested:  # it came after the last poll
        raise KeyboardInterrupt(_requested)


def stoppable(items: Iterable[Item], may_stop: Callable[[], bool]) -> Iterator[Item]:
    """Yields the items; while it waits for one and `may_stop()`, a signal raises StopRequested at once."""
    global _may_stop_now
    iterator = iter(items)
    while True:
        try:
            _may_stop_now = may_stop()
            if _may_stop_now:
                stop_if_requested()
            item = next(iterator)
        except StopIteration:
            return
        finally:
            _may_stop_now = False
        yield item


def requested_signal() -> int:
    """Returns the signal that `graceful_shutdown` holds back, or 0."""
    return _requested or 0


def stop_if_requested(number: int | None = None) -> None:
    """Raises StopRequested for a signal: `number`, as agreed on by all processes, else `requested_signal`."""
    if number := requested_signal() if number is None else number:
        raise StopRequested(number)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defers signals to the end of a block of milliseconds, such as library code that holds a lock."""
    global _depth, _deferred
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0 and _deferred is not None:
            number, _deferred = _deferred, None
            raise KeyboardInterrupt(number)


def raise_if_interrupted() -> None:
    """Raises an interruption again; for loops, because Python swallows exceptions raised in a destructor."""
    if _received is not None:
        raise KeyboardInterrupt(_received)


def _handle(number: int, frame: FrameType | None) -> None:
    global _deferred, _received, _requested, _requested_at
    if _is_graceful and _requested is None:
        _requested, _requested_at = number, time.monotonic()
        if _may_stop_now and not _depth:
            raise StopRequested(number)
        if number == signal.SIGINT and not _is_distributed:
            os.write(2, b"\nCtrl-C: the run stops after this step and saves it; press Ctrl-C again to stop at once\n")
        return
    is_repeated = _requested is not None and time.monotonic() < _requested_at + REPEATED
    if is_repeated and (number != signal.SIGINT or _is_distributed):
        return
    _received = number
    if _depth:
        _deferred = number
    else:
        raise KeyboardInterrupt(number)
