"""Progress of long work on standard error: a bar on a terminal, a line every half minute elsewhere."""

import sys
import time
from threading import RLock

from tqdm import tqdm

LINE_EVERY = 30.0
"""Seconds between two lines where standard error is not a terminal."""


# Instead of a lock between processes, which a process that is killed while it holds it would keep forever
tqdm.set_lock(RLock())
tqdm.monitor_interval = 0  # no thread, which a fork could stop at any point


class Progress:
    """Counts finished units and shows rate and remaining time; a context manager.

    `total` is None if unknown, `unit` a name, or "B" for bytes; `done` units were finished before.
    """

    def __init__(self, what: str, total: int | None, unit: str, done: int = 0) -> None:
        self._total, self._done, self._before = total, done, done
        self._file = sys.stderr  # also while `quiet` silences a library
        units = {"unit": unit if unit == "B" else f" {unit}", "unit_scale": unit == "B"}
        self._format = {"prefix": what, **units}
        self._bar: tqdm | None = None
        if self._file.isatty():
            self._bar = tqdm(desc=what, total=total, initial=done, dynamic_ncols=True, smoothing=0.05, **units)
        self._start = self._last = time.monotonic()

    def advance(self, units: int = 1) -> None:
        """Counts more finished units."""
        self._done += units
        if self._bar is not None:
            self._bar.update(units)
        elif time.monotonic() - self._last >= LINE_EVERY:
            self._print()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        else:
            self._print()

    def _print(self) -> None:
        self._last = time.monotonic()
        elapsed = self._last - self._start
        rate = (self._done - self._before) / elapsed if elapsed else None
        line = tqdm.format_meter(self._done, self._total, elapsed, ncols=0, rate=rate, **self._format)
        print(line, file=self._file, flush=True)
