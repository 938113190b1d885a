"""The ways to start the processes of a run, and how they end together."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from tests.conftest import ROOT
from tests.patience import PATIENCE, wait_until
from tests.processes import Outcome, Ranks, held_port
from timesformer.config import get_cfg
from timesformer.errors import UserError
from timesformer.runtime import distributed, launch
from timesformer.runtime.ranks import DistInfo, dist_info
from timesformer.runtime.signals import install_signal_handlers

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC")
Started = list[tuple[list[DistInfo], str, CfgNode]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """(DistInfos, init_method, configuration) of the processes, which are not started; outside of any launcher."""
    for name in os.environ:
        if name.startswith((*LAUNCHERS, "SLURM_")):
            monkeypatch.delenv(name)
    found: Started = []
    monkeypatch.setattr(distributed, "init_process_group", lambda cfg, info, url: found.append(([info], url, cfg)))
    monkeypatch.setattr(launch, "run_processes", lambda cfg, main, infos, url: found.append((infos, url, cfg)))
    monkeypatch.setattr(launch, "check", lambda cfg: [])
    return found


def configuration(**options: int) -> CfgNode:
    cfg = get_cfg()
    cfg.TRAIN.BATCH_SIZE = options.pop("BATCH_SIZE", 64)
    cfg.merge_from_list([part for item in options.items() for part in item])
    return cfg


def set_variables(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for pair in text.split():
        monkeypatch.setenv(*pair.split("=", 1))


TORCHRUN = "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 MASTER_ADDR=here MASTER_PORT=1234"
STEP = "SLURM_JOB_ID=99 SLURM_STEP_ID=1 SLURM_STEP_NODELIST=node[1-2] SLURM_STEP_NUM_NODES=2"
MASTER = "MASTER_ADDR=node1 MASTER_PORT=1234"
TASKS = "SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_STEP_NUM_TASKS=4"
NODES = "SLURM_PROCID=1 SLURM_LOCALID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=1(x2)"


@pytest.mark.parametrize(
    ("variables", "gpus", "infos", "init_method"),
    [
        (TORCHRUN, 1, [(5, 8, 1, 4)], "tcp://here:1234"),
        (f"{TORCHRUN} TORCHELASTIC_RUN_ID=none", 1, [(5, 8, 1, 4)], "env://"),
        (f"{STEP} {MASTER} {TASKS} SLURM_STEP_TASKS_PER_NODE=2(x2)", 1, [(3, 4, 1, 2)], "tcp://node1:1234"),
        (f"{STEP} {MASTER} {NODES}", 3, [(3, 6, 0, 3), (4, 6, 1, 3), (5, 6, 2, 3)], "tcp://node1:1234"),
        (f"{STEP} {NODES}", 0, [(1, 2, 0, 1)], "tcp://first:20100"),
    ],
    ids=["variables", "torchrun", "srun", "srun per node", "scontrol"],
)
def test_launchers(
    started: Started,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variables: str,
    gpus: int,
    infos: list[tuple[int, ...]],
    init_method: str,
) -> None:
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho first of $3\necho second\n")
    (tmp_path / "scontrol").chmod(0o755)
    set_variables(monkeypatch, f"{variables} PATH={tmp_path}")
    launch.launch(configuration(NUM_GPUS=gpus), str)
    ((found, url, cfg),) = started
    assert (found, url) == ([DistInfo(*info) for info in infos], init_method)
    assert (infos[0][3] if gpus else 0) == cfg.NUM_GPUS
    assert (cfg.NUM_SHARDS, cfg.SHARD_ID) == (2, 1)


def test_launching_by_hand(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, "SLURM_JOB_ID=9 SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_NNODES=2 SLURM_LOCALID=0")
    calls = []
    assert launch.launch(configuration(NUM_GPUS=0), calls.append) == 0  # in a batch script, but not by srun
    assert (len(calls), started) == (1, [])
    launch.launch(configuration(NUM_GPUS=2), str)
    launch.launch(configuration(NUM_GPUS=2, NUM_SHARDS=2, SHARD_ID=1), str, "tcp://there:9")
    launch.launch(configuration(NUM_GPUS=1, NUM_SHARDS=2, SHARD_ID=1), str, "tcp://there:9")
    assert [infos for infos, _, _ in started] == [
        [DistInfo(0, 2, 0, 2), DistInfo(1, 2, 1, 2)],
        [DistInfo(2, 4, 0, 2), DistInfo(3, 4, 1, 2)],
        [DistInfo(1, 2, 0, 1)],
    ]
    assert [url.split("/")[0] for _, url, _ in started] == ["file:", "tcp:", "tcp:"]


@pytest.mark.parametrize(
    ("variables", "options", "key"),
    [
        (TORCHRUN, {"NUM_SHARDS": 3}, "NUM_SHARDS"),
        (TORCHRUN, {"NUM_GPUS": 8}, "NUM_GPUS"),
        (TORCHRUN, {"BATCH_SIZE": 3}, "TRAIN.BATCH_SIZE"),
        (f"{TORCHRUN} LOCAL_WORLD_SIZE=3", {}, "LOCAL_WORLD_SIZE"),
        ("RANK=0 WORLD_SIZE=2", {}, "MASTER_ADDR"),
        (f"{STEP} {TASKS} SLURM_STEP_TASKS_PER_NODE=3,1", {}, "--ntasks-per-node"),
        (f"{STEP} {NODES} PATH=/nowhere", {}, "MASTER_ADDR"),
        ("", {"NUM_SHARDS": 2}, "--init_method"),
    ],
)
def test_contradicting_processes_are_an_error(
    started: Started, monkeypatch: pytest.MonkeyPatch, variables: str, options: dict[str, int], key: str
) -> None:
    set_variables(monkeypatch, variables)
    with pytest.raises(UserError, match=key):
        launch.launch(configuration(**{"NUM_GPUS": 1, **options}), str)


TORCHRUN_COMMAND = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
NODE = [sys.executable, "tools/run_net.py", "--num_shards", "2", "--shard_id"]

# At the exit of a process; on Linux only.
RECORD_THREADS = """
import atexit
import os
from pathlib import Path

def record():
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    Path(__file__).with_name(f"threads{os.getpid()}.txt").write_text(" ".join(names))

atexit.register(record)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["nodes", "torchrun"])
def test_two_processes_train_and_test(tiny_command: list[str], tmp_path: Path, way: str) -> None:
    module = tmp_path / "record_threads.py"
    module.write_text(RECORD_THREADS)
    options = [*tiny_command, "IMPORTS", f"['{module}']", "SOLVER.MAX_EPOCH", "1", "OUTPUT_DIR", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with held_port() as port:
        url = ["--init_method", f"tcp://127.0.0.1:{port}"]
        nodes = [[*NODE, "0", *url, *options], [*NODE, "1", *url, *options]]
        commands = nodes if way == "nodes" else [[*TORCHRUN_COMMAND, "tools/run_net.py", *options]]
        processes = [subprocess.Popen(command, cwd=ROOT, env=environment) for command in commands]
        codes = [process.wait(PATIENCE) for process in processes]
    assert not any(codes), codes
    assert json.loads((tmp_path / "out/results.json").read_text())["num_videos"] == 6
    assert (tmp_path / "out/log/rank_1.log").is_file()
    threads = [path.read_text() for path in tmp_path.glob("threads*.txt")]
    assert len(threads) == 2
    assert "gloo" not in "".join(threads)


@pytest.fixture
def run_two(ranks: Ranks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable], Outcome]:
    """run_two(main): how a process ends that runs `main` in two processes."""
    forking = multiprocessing.get_context("fork")
    monkeypatch.setattr("multiprocessing.get_context", lambda _: forking)
    infos = [DistInfo(rank, 2, rank, 2) for rank in range(2)]

    def run(main: Callable[[CfgNode], object]) -> Outcome:
        def work(_: int) -> int:
            install_signal_handlers()
            url = (tmp_path / "rendezvous").as_uri()
            return launch.run_and_report(lambda: launch.run_processes(configuration(NUM_GPUS=0), main, infos, url))

        return ranks(1, work)[0]

    return run


@pytest.mark.slow
def test_a_failure_ends_a_process_that_hangs(run_two: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE_PERIOD", 0.5)

    def main(cfg: CfgNode) -> None:
        distributed.barrier()  # all have joined
        if dist_info().rank == 0:
            raise UserError("expected")
        threading.Event().wait()

    ended = run_two(main)
    assert (ended.code, ended.err) == (2, "error: expected\n")


def signal_parent(number: int) -> None:
    """Sends a signal to the parent process, once that has started all processes: until then, it ignores Ctrl-C."""

    def obeys() -> bool:
        status = Path(f"/proc/{os.getppid()}/status").read_text()
        return not int(re.search(r"SigIgn:\s*(\w+)", status)[1], 16) & 1 << (number - 1)

    wait_until(obeys)
    os.kill(os.getppid(), number)


@pytest.mark.slow
@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes(run_two: Callable, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(launch, "GRACE_PERIOD", PATIENCE)

    def main(cfg: CfgNode) -> None:
        distributed.barrier()
        if dist_info().rank == 1:
            signal_parent(number)
        threading.Event().wait()

    ended = run_two(main)
    assert (ended.code, ended.err.count("interrupted")) == (128 + number, 1)


@pytest.mark.slow
def test_a_second_ctrl_c_kills_the_processes(run_two: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE_PERIOD", 1000.0)

    def main(cfg: CfgNode) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # like a step that never ends
        distributed.barrier()
        if dist_info().rank == 1:
            signal_parent(signal.SIGINT)
            wait_until(lambda: "Ctrl-C" in Path("/proc/self/fd/2").read_text())
            os.kill(os.getppid(), signal.SIGINT)
        threading.Event().wait()

    ended = run_two(main)
    assert (ended.code, ended.err.count("interrupted")) == (130, 1)


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(run_two: Callable) -> None:
    def main(cfg: CfgNode) -> None:
        print(os.getpid())
        distributed.barrier()
        if dist_info().rank == 1:
            os.kill(os.getppid(), signal.SIGKILL)
        threading.Event().wait()

    pids = run_two(main).out.split()
    assert len(pids) == 2
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
