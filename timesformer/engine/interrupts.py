"""Stopping in good order: Ctrl-C and SIGTERM raise KeyboardInterrupt, though not amid what cannot be left half done."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_depth = 0
_waiting: int | None = None
_received: int | None = None


def raise_on_signals() -> None:
    """Makes SIGINT (unless the process was started to ignore it) and SIGTERM raise KeyboardInterrupt(number)."""
    global _waiting, _received
    _waiting = _received = None
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


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
    global _waiting, _received
    _received = number
    if _depth:
        _waiting = number
    else:
        raise KeyboardInterrupt(number)
