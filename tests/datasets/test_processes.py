"""Work in processes: every item has an outcome, though some hang, crash or fail."""

import math
import multiprocessing
import os
import signal
import time

import pytest

from timesformer.datasets.processes import in_processes

HANGS = 1e6  # seconds


def test_every_item_has_its_outcome() -> None:
    outcomes = {o.item: (o.result, o.problem) for o in in_processes(math.sqrt, [4.0, -1.0, "x"], 2)}
    assert outcomes[4.0] == (2.0, "")
    assert outcomes[-1.0][1].startswith(("math domain error", "expected a nonnegative"))
    assert "must be real number" in outcomes["x"][1]
    assert list(in_processes(math.sqrt, [], 2)) == []


@pytest.mark.slow
def test_a_process_that_hangs_is_given_up_and_replaced() -> None:
    outcomes = list(in_processes(time.sleep, [HANGS, 0, 0.01], 1, time_limit=5.0))
    assert [(o.item, o.problem) for o in outcomes] == [(HANGS, "given up after 5 seconds"), (0, ""), (0.01, "")]


def test_a_process_that_crashes_is_named_and_replaced() -> None:
    outcomes = list(in_processes(signal.raise_signal, [signal.SIGKILL, 0], 1))
    assert [o.problem for o in outcomes] == ["the decoder crashed (SIGKILL)", ""]
    assert [o.problem for o in in_processes(os._exit, [3], 1)] == ["the decoder crashed (exit code 3)"]


def test_a_process_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: object) -> None:
        raise EOFError("interrupted")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start)
    assert [o.problem for o in in_processes(math.sqrt, [4.0], 1)] == ["could not be handed to a process (interrupted)"]


def test_stopping_early_ends_the_processes() -> None:
    before = set(multiprocessing.active_children())
    outcomes = in_processes(time.sleep, [0, HANGS, HANGS], 2)
    assert next(outcomes).item == 0
    assert set(multiprocessing.active_children()) - before
    outcomes.close()
    assert not set(multiprocessing.active_children()) - before
