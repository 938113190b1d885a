"""Rank and world size of this process, and how the processes of a run end when one fails. Loads without PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store

# Seconds: of other ranks for rank 0 to report a common error, and for the first failed rank to report its own; of
# rank 0, which serves the store, for the others to read it.
_HEAD_START, _REPORT_TIMEOUT, _LINGER = 2.0, 5.0, 5.0


@dataclass(frozen=True)
class DistInfo:
    """Rank of this process and number of processes, of the run and of each node."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1


_info = DistInfo()
_store: Store | None = None
_destroy: Callable[[bool], object] | None = None


def dist_info() -> DistInfo:
    return _info


def is_main_process() -> bool:
    """Returns whether this is rank 0, the only one that writes results."""
    return _info.rank == 0


def enter(info: DistInfo, store: Store, destroy: Callable[[bool], object]) -> None:
    """Records that this process joined a process group, which `destroy(abort)` leaves."""
    global _info, _store, _destroy
    _info, _store, _destroy = info, store, destroy


def leave(abort: bool = False) -> None:
    """Leaves the process group; with `abort`, without waiting for collectives."""
    global _info, _store, _destroy
    destroy = _destroy
    _info, _store, _destroy = DistInfo(), None, None
    if destroy is not None:
        destroy(abort)


def fail(code: int, report: Callable[[bool | None], object], wait_for_main: bool) -> int:
    """Leaves the process group after an error, so that the other processes fail too; returns the first one's exit code.

    Args:
        code: exit code of this failure.
        report: called with whether this process failed first (None: rank 0 was killed); must release everything that
            uses the process group.
        wait_for_main: let rank 0 be the first, for errors that all ranks have.
    """
    if _store is None:
        report(True)
        return code
    store, size, serves_store = _store, _info.world_size, is_main_process()
    try:
        store.set_timeout(timedelta(seconds=_REPORT_TIMEOUT))
        if wait_for_main and not serves_store:
            _wait_until(lambda: store.check(["code"]), _HEAD_START)
        is_first = store.add("failed", 1) == 1
        if not is_first:
            _wait_until(lambda: store.check(["code"]), _REPORT_TIMEOUT)
            code = int(store.get("code"))
            store.add("ended", 1)
    except RuntimeError:  # rank 0 was killed
        is_first, serves_store = None, False
    report(is_first)
    with suppress(RuntimeError):
        if is_first:
            store.set("code", str(code))
            store.add("ended", 1)
        leave(abort=True)  # closes the connections, which makes the other processes fail
        if serves_store:
            _wait_until(lambda: store.add("ended", 0) == size, _LINGER)
    return code


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
