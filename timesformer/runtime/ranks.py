"""Who a process is among those of its run, and how they all end when one of them fails. Loads without PyTorch."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store

_HEAD_START = 2.0  # seconds that the lead has to be the first to say what all fail of
_PATIENCE = 5.0  # seconds that processes of a failed run wait for the first to say so
_LINGER = 5.0  # seconds that the lead then waits for the others to hear from it what the first said


@dataclass(frozen=True)
class DistInfo:
    """The place of a process among those of a run.

    Attributes:
        rank: its number, from 0; 0 is the lead, the only one that writes results.
        world_size: how many there are.
        local_rank: its number among those of its machine.
        local_size: how many its machine has; every machine has as many.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1


_world = DistInfo()
_store: Store | None = None  # what all processes can read and write
_part: Callable[[bool], object] | None = None  # closes the connections to the others


def dist_info() -> DistInfo:
    """The place of this process; alone, unless it has joined others."""
    return _world


def is_main_process() -> bool:
    """Whether this process is the one that writes results."""
    return _world.rank == 0


def enter(place: DistInfo, store: Store, part: Callable[[bool], object]) -> None:
    """Makes this process one of several.

    Args:
        place: among them.
        store: of keys and values, the same for all.
        part: closes the connections to the others; called with whether they may be in the middle of something.
    """
    global _world, _store, _part
    _world, _store, _part = place, store, part


def leave(at_once: bool = False) -> None:
    """Makes this process one that is alone; `at_once`, though the others may be waiting for it."""
    global _world, _store, _part
    part = _part
    _world, _store, _part = DistInfo(), None, None
    if part is not None:
        part(at_once)


def fail(code: int, say: Callable[[bool | None], object], patient: bool) -> int:
    """Parts from the others because this process has failed, which makes them fail as well.

    The first that fails says so, before any other ends; a job that is ended with its first process says why.

    Args:
        code: exit code of this failure.
        say: called with whether this process is the first; with None if that cannot be found out, because the lead
            is gone. When it returns, nothing may be left that uses the connections to the others.
        patient: gives the lead time to be the first, as it is to be of failures that all processes have.

    Returns:
        The exit code of the first; that of this process where it is not known.
    """
    if _store is None:
        say(True)
        return code
    store, size, stays = _store, _world.world_size, is_main_process()
    try:
        store.set_timeout(timedelta(seconds=_PATIENCE))
        if patient and not stays:
            _wait(lambda: store.check(["said"]), _HEAD_START)
        is_first = store.add("failed", 1) == 1
        if not is_first:
            _wait(lambda: store.check(["said"]), _PATIENCE)
            code = int(store.get("said"))
            store.add("heard", 1)
    except RuntimeError:  # the lead was killed, and the store with it
        is_first, stays = None, False
    say(is_first)
    with suppress(RuntimeError):
        if is_first:
            store.set("said", str(code))
            store.add("heard", 1)
        leave(at_once=True)  # the connections close, by which the others notice
        if stays:  # for the store may be the lead's
            _wait(lambda: store.add("heard", 0) == size, _LINGER)
    return code


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
