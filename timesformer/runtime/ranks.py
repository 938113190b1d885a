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

# Seconds that the other ranks give rank 0 to report an error that all ranks have, that they wait for the report of the
# first failed rank, and that rank 0, which serves the store, then waits for them to read it.
_HEAD_START, _REPORT_TIMEOUT, _LINGER = 2.0, 5.0, 5.0


@dataclass(frozen=True)
class DistInfo:
    """Where this process is in its run; every node has the same number of processes.

    Attributes:
        rank: 0 is the main process, the only one that writes results.
        world_size: number of processes.
        local_rank: rank among the processes of this node.
        local_size: number of processes of a node.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1


_info = DistInfo()
_store: Store | None = None
_destroy: Callable[[bool], object] | None = None


def dist_info() -> DistInfo:
    """Returns rank and world size of this process."""
    return _info


def is_main_process() -> bool:
    """Returns whether this is rank 0."""
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
    """Leaves the process group because this process failed, which makes the other processes fail as well.

    Args:
        code: exit code of this failure.
        report: called with whether this process failed first, None if rank 0 is gone and that is unknown. It must
            release everything that uses the process group.
        wait_for_main: let rank 0 be the first, for errors that all ranks have.

    Returns:
        The exit code of the process that failed first, `code` where it is unknown.
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
