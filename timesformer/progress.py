"""How far long work has come: a bar with rate and time to go on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE_EVERY = 30.0
"""Seconds between two lines where standard error is no terminal."""


class Progress:
    """Counts what is done, on standard error; use it as a context manager, which always shows how it ended.

    Args:
        what: is done, in front of the figures.
        total: number of units that there are to do; None where nobody knows.
        unit: name of one, or "B": bytes, shown as kB, MB, ...
        done: number of units done before.
    """

    def __init__(self, what: str, total: int | None, unit: str, done: int = 0) -> None:
        in_bytes = unit == "B"
        self._total, self._done, self._before = total, done, done
        self._look = {"prefix": what, "unit": unit if in_bytes else f" {unit}", "unit_scale": in_bytes}
        self._bar: tqdm | None = None
        if sys.stderr.isatty():
            look = {"desc": what, "unit": self._look["unit"], "unit_scale": in_bytes}
            self._bar = tqdm(total=total, initial=done, dynamic_ncols=True, smoothing=0.05, **look)
        self._start = self._last = time.monotonic()

    def advance(self, units: int = 1) -> None:
        """So many more units are done."""
        self._done += units
        if self._bar is not None:
            self._bar.update(units)
        elif time.monotonic() - self._last >= LINE_EVERY:
            self._line()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        else:
            self._line()

    def _line(self) -> None:
        self._last = time.monotonic()
        elapsed = self._last - self._start
        rate = (self._done - self._before) / elapsed if elapsed else None
        line = tqdm.format_meter(self._done, self._total, elapsed, ncols=0, rate=rate, **self._look)
        print(line, file=sys.stderr, flush=True)
