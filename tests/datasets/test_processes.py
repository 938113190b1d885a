"""The worker pool: every item has an outcome, though workers hang, crash or fail."""

import math
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from timesformer.datasets.workers import pool
from timesformer.datasets.workers.fork_server import ForkServer
from timesformer.datasets.workers.pool import given_up, in_processes
from timesformer.errors import UserError

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
OWN_PID = "__import__('os').getpid()"
HANGS = 1e6  # seconds


def test_outcomes() -> None:
    outcomes = {o.item: o for o in in_processes(math.sqrt, [4.0, -1.0, "x"], 2)}
    assert (outcomes[4.0].result, outcomes[4.0].problem) == (2.0, "")
    assert outcomes[-1.0].problem
    assert outcomes["x"].problem
    assert list(in_processes(math.sqrt, [], 2)) == []
    (unpicklable,) = in_processes(eval, ["lambda: 0"], 1)
    assert (unpicklable.result, bool(unpicklable.problem)) == (None, True)


def test_few_outcomes_wait() -> None:
    taken = []
    outcomes = in_processes(math.sqrt, (taken.append(i) or float(i) for i in range(20)), 1, ahead=2)
    assert next(outcomes).result == 0
    assert len(taken) <= 5  # yielded, two waiting, and one or two of the worker
    assert [outcome.item for outcome in outcomes] == list(range(1, 20))


def test_hanging_worker_is_replaced() -> None:
    outcomes = list(in_processes(time.sleep, [HANGS, 0, 0.01], 1, time_limit=5.0))
    assert [(o.item, o.problem) for o in outcomes] == [(HANGS, given_up(5.0)), (0, ""), (0.01, "")]


def test_crashed_worker_is_replaced() -> None:
    first, killed, last = in_processes(signal.raise_signal, [0, signal.SIGKILL, 0], 1)
    assert "SIGKILL" in killed.problem
    assert first.problem == last.problem == ""


def test_stopping_early_ends_the_workers() -> None:
    outcomes = in_processes(eval, [OWN_PID, "__import__('time').sleep(1000)", "__import__('time').sleep(1000)"], 2)
    process = next(outcomes).result
    outcomes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_idle_worker_may_be_killed() -> None:
    first_came = threading.Event()

    def items() -> Iterator[str]:
        yield OWN_PID
        assert first_came.wait(PATIENCE)
        yield OWN_PID

    outcomes = in_processes(eval, items(), 1)
    first = next(outcomes)
    os.kill(first.result, signal.SIGKILL)
    first_came.set()
    (second,) = outcomes
    assert (second.problem, second.result != first.result) == ("", True)


def test_killed_server_is_replaced() -> None:
    (server,) = in_processes(os.getpgid, [0], 1)
    os.kill(server.result, signal.SIGKILL)
    (other,) = in_processes(os.getpgid, [0], 1)
    assert (other.problem, other.result != server.result) == ("", True)


@pytest.mark.parametrize("interpreter", ["/nowhere/python", "/bin/false"])
def test_workers_that_cannot_start(monkeypatch: pytest.MonkeyPatch, interpreter: str) -> None:
    monkeypatch.setattr(pool, "SERVER", ForkServer())
    monkeypatch.setattr("sys.executable", interpreter)
    with pytest.raises(UserError):
        list(in_processes(math.sqrt, [4.0, 9.0], 2))


def test_too_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)  # the lowest free number: no file can be opened below it
    os.close(free)
    for server in (ForkServer(), pool.SERVER):
        monkeypatch.setattr(pool, "SERVER", server)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            with pytest.raises(UserError, match="ulimit -n"):
                list(in_processes(math.sqrt, [4.0], 1))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_too_few_open_files_of_a_worker() -> None:
    opens_one_too_many = f"__import__('resource').setrlimit({resource.RLIMIT_NOFILE}, (3, 3)) or open('{os.devnull}')"
    with pytest.raises(UserError, match="ulimit -n"):
        list(in_processes(eval, [opens_one_too_many], 1))


def run_script(script: str, path: Path) -> tuple[int, str]:
    """Exit code and output of a script, once no process has its output open."""
    path.write_text(textwrap.dedent(script))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, path], env=environment, stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output


def test_main_module_is_neither_run_again_nor_replaced(tmp_path: Path) -> None:
    script = """
        import os, sys, threading
        from math import exp2
        from timesformer.datasets.workers.pool import in_processes

        print("started", flush=True)  # without `if __name__ == "__main__"`, as in a notebook
        before = sys.modules["__main__"], dict(os.environ)
        thread = threading.Thread(target=lambda: [list(in_processes(exp2, [3], 1)) for _ in range(20)])
        thread.start()
        while thread.is_alive():
            assert before == (sys.modules["__main__"], dict(os.environ))
        print([outcome.result for outcome in in_processes(exp2, [3], 1)])
    """
    assert run_script(script, tmp_path / "script.py") == (0, "started\n[8.0]\n")


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = f"""
        import os, signal
        from timesformer.datasets.workers.pool import in_processes
        next(in_processes(eval, [{OWN_PID!r}, "__import__('time').sleep(1000)"], 2))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_script(script, tmp_path / "script.py") == (-signal.SIGKILL, "")
