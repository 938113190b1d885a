"""Work in processes: every item has an outcome, though some hang, crash or fail."""

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
from timesformer.datasets.workers import pool as processes
from timesformer.datasets.workers.fork_server import ForkServer
from timesformer.datasets.workers.pool import in_processes
from timesformer.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
OWN_PID = "__import__('os').getpid()"

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


def test_stopping_early_ends_the_processes() -> None:
    outcomes = in_processes(eval, [OWN_PID, "__import__('time').sleep(1000)", "__import__('time').sleep(1000)"], 2)
    process = next(outcomes).result
    outcomes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_process_that_was_killed_while_it_waited_costs_no_item() -> None:
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


def test_a_server_of_processes_that_was_killed_is_replaced() -> None:
    (server,) = in_processes(os.getpgid, [0], 1)
    os.kill(server.result, signal.SIGKILL)
    (other,) = in_processes(os.getpgid, [0], 1)
    assert (other.problem, other.result != server.result) == ("", True)


@pytest.mark.parametrize("interpreter", ["/nowhere/python", "/bin/false"])
def test_processes_that_cannot_be_started_are_a_user_error_and_no_problem_of_an_item(
    monkeypatch: pytest.MonkeyPatch, interpreter: str
) -> None:
    monkeypatch.setattr(processes, "SERVER", ForkServer())
    monkeypatch.setattr("sys.executable", interpreter)
    with pytest.raises(UserError):
        list(in_processes(math.sqrt, [4.0, 9.0], 2))


def test_too_few_open_files_are_a_user_error_and_no_problem_of_an_item(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)  # the lowest number that is free: no file can be opened below it
    os.close(free)
    for server, function in ((ForkServer(), math.sqrt), (processes.SERVER, math.sqrt)):
        monkeypatch.setattr(processes, "SERVER", server)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            with pytest.raises(UserError, match=r"ulimit -n"):
                list(in_processes(function, [4.0], 1))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_process_with_too_few_open_files_is_a_user_error_and_no_problem_of_its_item() -> None:
    opens_one_too_many = f"__import__('resource').setrlimit({resource.RLIMIT_NOFILE}, (3, 3)) or open('{os.devnull}')"
    with pytest.raises(UserError, match=r"ulimit -n"):
        list(in_processes(eval, [opens_one_too_many], 1))


def test_a_result_that_cannot_be_sent_is_a_problem_of_its_item() -> None:
    (outcome,) = in_processes(eval, ["lambda: 0"], 1)
    assert outcome.result is None
    assert "pickle" in outcome.problem


SCRIPT = """
    import pickle, sys, threading
    from timesformer.datasets.workers.pool import in_processes

    print("started", flush=True)  # without `if __name__ == "__main__"`, as in a notebook

    class Thing:
        pass

    def work():
        for _ in range(20):
            assert [o.result for o in in_processes(pow_of_two, [3], 1)] == [8]

    from math import exp2 as pow_of_two
    before = sys.modules["__main__"], dict(__import__("os").environ)
    thread = threading.Thread(target=work)
    thread.start()
    pickled = failed = 0
    while thread.is_alive():
        try:
            pickle.loads(pickle.dumps(Thing()))
            pickled += 1
        except Exception:
            failed += 1
        failed += before != (sys.modules["__main__"], dict(__import__("os").environ))
    print("failed", failed, "of some" if pickled else "of none")
"""


def test_starting_processes_changes_nothing_in_the_one_that_starts_them(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (0, "started\nfailed 0 of some\n"), done.stderr


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = f"""
        import os, signal
        from timesformer.datasets.workers.pool import in_processes
        pids = in_processes(eval, [{OWN_PID!r}, "__import__('time').sleep(1000)"], 2)
        print(next(pids).result, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE) as process:
        process.communicate(timeout=PATIENCE)  # which waits until no process has its stdout open
    assert process.returncode == -signal.SIGKILL
