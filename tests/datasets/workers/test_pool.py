"""The worker pool: every item has an outcome, though workers hang, crash or fail."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.patience import PATIENCE
from timesformer.datasets.workers.pool import ProcessPool, given_up, in_processes, streams_in_processes

pytestmark = pytest.mark.slow
OWN_PID = "__import__('os').getpid()"
SLEEP = "__import__('time').sleep(1000)"
HANGS = 1e6  # seconds


def test_outcomes() -> None:
    outcomes = {o.item: o for o in in_processes(math.sqrt, [4.0, -1.0], 2)}
    assert (outcomes[4.0].result, outcomes[4.0].problem) == (2.0, "")
    assert outcomes[-1.0].problem
    (unpicklable,) = in_processes(eval, ["lambda: 0"], 1)
    assert (unpicklable.result, bool(unpicklable.problem)) == (None, True)


def test_hanging_or_crashed_worker_is_replaced() -> None:
    outcomes = list(in_processes(time.sleep, [HANGS, 0, 0.01], 1, time_limit=5.0))
    assert [(o.item, o.problem) for o in outcomes] == [(HANGS, given_up(5.0)), (0, ""), (0.01, "")]
    first, killed, last = in_processes(signal.raise_signal, [0, signal.SIGKILL, 0], 1)
    assert "SIGKILL" in killed.problem
    assert first.problem == last.problem == ""


def test_items_of_a_stream_go_to_one_worker() -> None:
    crash = f"__import__('os').kill({OWN_PID}, 9)"
    found: dict[str, list[int | None]] = {"": [], "#": []}
    for outcome in streams_in_processes(eval, [[OWN_PID, crash, OWN_PID], [f"{OWN_PID}#"] * 3], 2):
        found["#" * outcome.item.endswith("#")].append(outcome.result)
    before, crashed, after = found[""]
    assert (crashed, before != after) == (None, True)
    assert len(set(found["#"])) == 1


def test_pool_keeps_its_process_until_a_problem() -> None:
    pool = ProcessPool(eval, 1, time_limit=5.0, renew_after=3)
    first, *same, renewed = [pool.submit(OWN_PID).result().result for _ in range(4)]
    assert same == [first, first] != [renewed, renewed]
    assert pool.submit("1 / 0").result().problem
    assert pool.submit(SLEEP).result().problem == given_up(5.0)
    last = pool.submit(OWN_PID).result().result
    crash = f"{OWN_PID} == {last} and __import__('os').kill({last}, 9)"  # does not recur in a new process
    assert (pool.submit(crash).result().problem, last != renewed) == ("", True)
    process = pool.submit(OWN_PID).result().result
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_stopped_pool_gives_up() -> None:
    pool = ProcessPool(eval, 1, time_limit=PATIENCE, renew_after=3)
    process = pool.submit(OWN_PID).result().result
    hanging, waiting = pool.submit(SLEEP), pool.submit(SLEEP)
    pool.stop()
    assert hanging.done()
    assert waiting.cancelled()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_stopping_early_ends_the_workers() -> None:
    outcomes = in_processes(eval, [OWN_PID, SLEEP, SLEEP], 2)
    process = next(outcomes).result
    outcomes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_killed_server_is_replaced() -> None:
    (server,) = in_processes(os.getpgid, [0], 1)
    os.kill(server.result, signal.SIGKILL)
    (other,) = in_processes(os.getpgid, [0], 1)
    assert (other.problem, other.result != server.result) == ("", True)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        # Without `if __name__ == "__main__"`, as in a notebook: the script is not run again in a worker.
        (
            "print('started', flush=True)\nprint([o.result for o in in_processes(exp2, [3], 1)])",
            (0, "started\n[8.0]\n"),
        ),
        # Starting them changes nothing in this process, where another thread may pickle objects of the script.
        (
            "class Point: ...\n"
            "def start(): print(sorted(o.result for o in in_processes(abs, [-3, -2, -1], 2)))\n"
            "thread = threading.Thread(target=start)\n"
            "thread.start()\n"
            "while thread.is_alive(): pickle.dumps(Point())",
            (0, "[1, 2, 3]\n"),
        ),
        # A forked server shares the imports of the script, and not what it has written.
        (
            "import sys\nsys.shared = 5\nprint('written')\nSERVER.fork()\n"
            "print([o.result for o in in_processes(eval, ['__import__(\"sys\").shared'] * 2, 2)])",
            (0, "written\n[5, 5]\n"),
        ),
        # Workers end with the process that started them.
        (f"next(in_processes(eval, [{OWN_PID!r}, {SLEEP!r}], 2))\nos.kill(os.getpid(), 9)", (-9, "")),
    ],
)
def test_script_without_main_guard(tmp_path: Path, script: str, expected: tuple[int, str]) -> None:
    imports = "import os, pickle, signal, threading\nfrom math import exp2\n"
    imports += "from timesformer.datasets.workers.pool import SERVER, in_processes\n"
    (tmp_path / "script.py").write_text(imports + script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, tmp_path / "script.py"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        output, _ = process.communicate(timeout=PATIENCE)  # once no process has its output open
    assert (process.returncode, output) == expected
