"""Stopping in good order: what becomes of Ctrl-C, of a job scheduler's signals, and of a process that they stop."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_REQUEUE = 75
"""Exit code that asks for the same command to be started again (EX_TEMPFAIL of sysexits.h)."""

_REQUEUE = (signal.SIGUSR1, signal.SIGUSR2)
_PATIENT = (signal.SIGTERM, *_REQUEUE)  # training ends its step and saves

STOPPING = (signal.SIGINT, *_PATIENT)
"""The signals that stop a process."""

REPEATED = 2.0
"""Seconds in which a second signal says the same as the first: launchers pass on what the scheduler sends to all."""

_depth = 0
_waiting: int | None = None
_received: int | None = None
_patient = False
_requested: int | None = None
_requested_at = 0.0


def raise_on_signals() -> None:
    """Makes SIGINT (unless the process was started to ignore it), SIGTERM, SIGUSR1 and SIGUSR2 stop the process.

    They raise KeyboardInterrupt(number), at once or where `patient` says.
    """
    global _waiting, _received, _requested
    _waiting = _received = _requested = None
    for number in _PATIENT:
        signal.signal(number, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What a process stopped by it exits with: EXIT_REQUEUE for SIGUSR1 and SIGUSR2, else 128 + number."""
    number = (interrupt.args or (signal.SIGINT,))[0]
    return EXIT_REQUEUE if number in _REQUEUE else 128 + number


class StopRequested(KeyboardInterrupt):
    """A signal that waited is obeyed: in good order, with time to save."""


@contextmanager
def patient() -> Iterator[None]:
    """In this block SIGTERM, SIGUSR1 and SIGUSR2 raise nothing when they come first, but are `requested`.

    The block looks at that where it may be left, its end among them, and calls `stop_if_requested`. SIGINT raises at
    once as ever, and so does a second signal that comes REPEATED seconds or more after the first.
    """
    global _patient
    _patient = True
    try:
        yield
    finally:
        _patient = False


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
def uninterrupted() -> Iterator[None]:
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
    if number in _PATIENT:
        if _patient and _requested is None:
            _requested, _requested_at = number, time.monotonic()
            return
        if _requested is not None and time.monotonic() < _requested_at + REPEATED:
            return
    _received = number
    if _depth:
        _waiting = number
    else:
        raise KeyboardInterrupt(number)
