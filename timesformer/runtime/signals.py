"""Signal handling: Ctrl-C and the signals of job schedulers, and how a process that they stop ends."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")

EXIT_REQUEUE = 75
"""Exit code that asks for the same command to be started again (EX_TEMPFAIL of sysexits.h)."""

_REQUEUE = (signal.SIGUSR1, signal.SIGUSR2)

STOPPING = (signal.SIGINT, signal.SIGTERM, *_REQUEUE)
"""The signals that stop a process."""

REPEATED = 2.0
"""Seconds in which a second signal says the same as the first: launchers pass on what the scheduler sends to all."""

_NOTICE = b"\nCtrl-C: the run stops after this step and saves it; press Ctrl-C again to stop at once, without saving\n"

_process = 0  # that wants the signals: a DataLoader worker inherits the handlers for a moment
_depth = 0
_waiting: int | None = None
_received: int | None = None
_patient = _one_of_many = _at_once = False
_requested: int | None = None
_requested_at = 0.0


def raise_on_signals() -> None:
    """Makes SIGINT (unless the process was started to ignore it), SIGTERM, SIGUSR1 and SIGUSR2 stop the process.

    They raise KeyboardInterrupt(number), at once or where `graceful_shutdown` says.
    """
    global _process
    _process = os.getpid()
    forget_signals()
    for number in STOPPING[1:]:
        signal.signal(number, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def forget_signals() -> None:
    """Clears the signals received so far, for a process that continues after one."""
    global _waiting, _received, _requested
    _waiting = _received = _requested = None


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What a process stopped by it exits with: EXIT_REQUEUE for SIGUSR1 and SIGUSR2, else 128 + number."""
    number = (interrupt.args or (signal.SIGINT,))[0]
    return EXIT_REQUEUE if number in _REQUEUE else 128 + number


class StopRequested(KeyboardInterrupt):
    """A signal that waited is obeyed: in good order, with time to save."""


@contextmanager
def graceful_shutdown(one_of_many: bool = False) -> Iterator[None]:
    """In this block the first signal raises nothing, but is `requested`.

    The block looks at that where it may be left, its end among them, and calls `stop_if_requested`. A second signal
    raises at once; but SIGTERM, SIGUSR1 and SIGUSR2 only if they come REPEATED seconds or more after the first.

    Args:
        one_of_many: whether this process is one of several, which launchers tell of Ctrl-C too: then the same holds for
            SIGINT.
    """
    global _patient, _one_of_many
    _patient, _one_of_many = True, one_of_many
    try:
        yield
    finally:
        _patient = False
    if _requested:  # after the block last looked
        raise KeyboardInterrupt(_requested)


def stoppable(items: Iterable[Item], may_stop: Callable[[], bool]) -> Iterator[Item]:
    """Yields the items; a `graceful_shutdown` block obeys a signal at once while it waits for one of them, if it may.

    Raises:
        StopRequested: to obey it.
    """
    global _at_once
    iterator = iter(items)
    while True:
        try:
            _at_once = may_stop()
            if _at_once:
                stop_if_requested()
            item = next(iterator)
        except StopIteration:
            return
        finally:
            _at_once = False
        yield item


def requested() -> int:
    """The signal that came and waits to be obeyed; 0 if there is none."""
    return _requested or 0


def stop_if_requested(number: int | None = None) -> None:
    """Obeys the signal that waits, if there is one.

    Args:
        number: of the signal, if that is not `requested`: what the processes of a run have agreed upon.

    Raises:
        StopRequested: with its number.
    """
    if number := requested() if number is None else number:
        raise StopRequested(number)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Puts off these signals to the end of a block, which should take milliseconds.

    For code of others that takes locks: cut off between taking one and giving it back, it would wait for ever later.
    """
    global _depth, _waiting
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if _depth == 0 and _waiting is not None:
            number, _waiting = _waiting, None
            raise KeyboardInterrupt(number)


def raise_if_interrupted() -> None:
    """Raises again an interruption that came before, if there was one.

    For loops, once a round: Python swallows the first if it came amid a destructor, and goes on.
    """
    if _received is not None:
        raise KeyboardInterrupt(_received)


def _stop(number: int, frame: FrameType | None) -> None:
    global _waiting, _received, _requested, _requested_at
    if _patient and _requested is None:
        _requested, _requested_at = number, time.monotonic()
        if _at_once and not _depth:
            raise StopRequested(number)
        if number == signal.SIGINT and not _one_of_many and os.getpid() == _process:
            os.write(2, _NOTICE)  # a signal handler must not use buffered files
        return
    is_repeated = _requested is not None and time.monotonic() < _requested_at + REPEATED
    if is_repeated and (number != signal.SIGINT or _one_of_many):
        return
    _received = number
    if _depth:
        _waiting = number
    else:
        raise KeyboardInterrupt(number)
