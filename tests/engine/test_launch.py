"""The ways to start the processes of a run, and how they end together."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from tests.patience import PATIENCE
from timesformer.config import get_cfg
from timesformer.errors import UserError
from timesformer.runtime import distributed, launch
from timesformer.runtime.ranks import DistInfo, dist_info
from timesformer.runtime.signals import install_signal_handlers

ROOT = Path(__file__).resolve().parents[2]
OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC")
Ranks = Callable[..., list]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list:
    """What would have been started, as (places, meeting, configuration), instead of starting it; in no launcher."""
    for name in os.environ:
        if name.startswith((*OF_LAUNCHERS, "SLURM_")):
            monkeypatch.delenv(name)
    found: list[tuple[list[DistInfo], str, CfgNode]] = []
    monkeypatch.setattr(launch, "_run", lambda cfg, main, place, meeting: found.append(([place], meeting, cfg)))
    monkeypatch.setattr(
        launch, "run_processes", lambda cfg, main, places, meeting: found.append((places, meeting, cfg))
    )
    monkeypatch.setattr(launch, "check", lambda cfg: [])
    return found


def configuration(**options: int) -> CfgNode:
    cfg = get_cfg()
    for name, value in options.items():
        cfg[name] = value
    return cfg


def in_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for pair in text.split():
        monkeypatch.setenv(*pair.split("=", 1))


TORCHRUN = "RANK=5 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=4 MASTER_ADDR=here MASTER_PORT=1234"
STEP = "SLURM_JOB_ID=99 SLURM_STEP_ID=1 SLURM_STEP_NODELIST=node[1-2] MASTER_ADDR=node1 MASTER_PORT=1234"
SRUN = f"{STEP} SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_STEP_NUM_TASKS=4 SLURM_STEP_NUM_NODES=2"


@pytest.mark.parametrize(
    ("environment", "place", "meeting"),
    [
        (TORCHRUN, DistInfo(5, 8, 1, 4), "tcp://here:1234"),
        (f"{TORCHRUN} TORCHELASTIC_RUN_ID=none", DistInfo(5, 8, 1, 4), "env://"),
        (f"{SRUN} SLURM_STEP_TASKS_PER_NODE=2(x2)", DistInfo(3, 4, 1, 2), "tcp://node1:1234"),
    ],
    ids=["variables", "torchrun", "srun"],
)
def test_a_process_that_was_started_knows_its_place(
    started: list, monkeypatch: pytest.MonkeyPatch, environment: str, place: DistInfo, meeting: str
) -> None:
    in_environment(monkeypatch, environment)
    launch.launch(configuration(NUM_GPUS=1), print)
    ((places, where, cfg),) = started
    assert (places, where) == ([place], meeting)
    assert place.local_size == cfg.NUM_GPUS
    assert (cfg.NUM_SHARDS, cfg.SHARD_ID) == (2, 1)


def test_tasks_of_slurm_meet_at_the_first_machine_at_a_port_of_their_step(
    started: list, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho first of $3\necho second\n")
    (tmp_path / "scontrol").chmod(0o755)
    in_environment(monkeypatch, f"{SRUN} SLURM_STEP_TASKS_PER_NODE=2(x2) PATH={tmp_path}")
    monkeypatch.delenv("MASTER_ADDR")
    launch.launch(configuration(NUM_GPUS=0), print)
    (tmp_path / "scontrol").unlink()
    assert started[0][1] == "tcp://first:20100"
    with pytest.raises(UserError, match=r"scontrol.*cannot be asked here.*set MASTER_ADDR"):
        launch.launch(configuration(NUM_GPUS=0), print)


def test_a_task_for_each_machine_starts_a_process_for_each_gpu(started: list, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = f"{STEP} SLURM_PROCID=1 SLURM_LOCALID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=2"
    in_environment(monkeypatch, f"{environment} SLURM_STEP_TASKS_PER_NODE=1(x2)")
    launch.launch(configuration(NUM_GPUS=3), print)
    ((places, meeting, _),) = started
    assert (places, meeting) == ([DistInfo(3, 6, 0, 3), DistInfo(4, 6, 1, 3), DistInfo(5, 6, 2, 3)], "tcp://node1:1234")


def test_a_batch_script_of_slurm_is_one_process(started: list, monkeypatch: pytest.MonkeyPatch) -> None:
    in_environment(monkeypatch, "SLURM_JOB_ID=9 SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_NNODES=2 SLURM_LOCALID=0")
    ran = []
    assert launch.launch(configuration(NUM_GPUS=0), ran.append) == 0
    assert (len(ran), started) == (1, [])


def test_several_gpus_and_machines_by_hand(started: list) -> None:
    launch.launch(configuration(NUM_GPUS=2), print)
    launch.launch(configuration(NUM_GPUS=2, NUM_SHARDS=2, SHARD_ID=1), print, "tcp://there:9")
    launch.launch(configuration(NUM_GPUS=1, NUM_SHARDS=2, SHARD_ID=1), print, "tcp://there:9")
    (one, meeting, _), (two, *_), (three, where, _) = started
    assert (one, meeting.split("/")[0]) == ([DistInfo(0, 2, 0, 2), DistInfo(1, 2, 1, 2)], "file:")
    assert two == [DistInfo(2, 4, 0, 2), DistInfo(3, 4, 1, 2)]
    assert (three, where) == ([DistInfo(1, 2, 0, 1)], "tcp://there:9")


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        (TORCHRUN, {"NUM_SHARDS": 3}, "NUM_SHARDS is 3, but what set RANK and WORLD_SIZE started processes on 2"),
        (TORCHRUN, {"NUM_GPUS": 8}, r"NUM_GPUS is 8, but .* started 4 process\(es\) on a machine"),
        (TORCHRUN, {"BATCH_SIZE": 3}, "TRAIN.BATCH_SIZE is 3, expected 4 or more"),
        (f"{TORCHRUN} LOCAL_WORLD_SIZE=3", {}, "WORLD_SIZE is 8 and LOCAL_WORLD_SIZE 3, expected a multiple of it"),
        ("RANK=0 WORLD_SIZE=2", {}, "MASTER_ADDR and MASTER_PORT, where the processes meet, are not set"),
        (f"{SRUN} SLURM_STEP_TASKS_PER_NODE=3,1", {}, "srun started 3,1 tasks on its machines, expected equally many"),
        ("", {"NUM_SHARDS": 2}, "nothing says where the machines meet: give all of them the same --init_method"),
    ],
)
def test_processes_that_are_not_those_asked_for_are_an_error(
    started: list, monkeypatch: pytest.MonkeyPatch, environment: str, options: dict[str, int], message: str
) -> None:
    in_environment(monkeypatch, environment)
    cfg = configuration(**{name: value for name, value in options.items() if name != "BATCH_SIZE"})
    cfg.TRAIN.BATCH_SIZE = options.get("BATCH_SIZE", 64)
    with pytest.raises(UserError, match=message):
        launch.launch(cfg, print)


def test_too_few_gpus_for_the_processes_of_a_machine_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match="4 processes compute on GPUs of this machine, which shows them 2"):
        distributed.init_process_group(configuration(NUM_GPUS=4), DistInfo(0, 4, 0, 4), "file:///nowhere")


def test_two_machines_started_by_hand_are_one_run(
    ranks: Ranks, run_net: Callable, tiny_command: list[str], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    options = ["SOLVER.MAX_EPOCH", "1", "OUTPUT_DIR", str(tmp_path / "out"), "TENSORBOARD.ENABLE", "False"]

    def machine(number: int) -> int:
        for name in OF_LAUNCHERS:
            os.environ.pop(name, None)
        shards = ["--num_shards", "2", "--shard_id", str(number), "--init_method", meeting]
        return run_net(*shards, *tiny_command, *options).code

    assert [ended.code for ended in ranks(2, machine)] == [0, 0]
    assert "4 clips in 1 batch(es) of 2 on 2 machine(s)" in (tmp_path / "out" / "run.log").read_text()
    assert json.loads((tmp_path / "out" / "results.json").read_text())["num_videos"] == 6


def test_torchrun_starts_a_run_of_two_processes(tiny_command: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    options = ["SOLVER.MAX_EPOCH", "1", "OUTPUT_DIR", str(tmp_path), "TENSORBOARD.ENABLE", "False"]
    done = subprocess.run(
        [*command, str(ROOT / "tools" / "run_net.py"), *tiny_command, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2 clips in 1 batch(es) of 2 on 1 machine(s) with 2 process(es)" in done.stdout
    assert json.loads((tmp_path / "results.json").read_text())["num_videos"] == 6


# ---------------------------------------------------------------- processes started here


def places(number: int) -> list[DistInfo]:
    return [DistInfo(rank, number, rank, number) for rank in range(number)]


@pytest.fixture
def starts_two(ranks: Ranks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable], tuple]:
    """starts_two(main): how a process ends that runs `main` in two, which are forked, for that is quick."""
    forking = multiprocessing.get_context("fork")
    monkeypatch.setattr("multiprocessing.get_context", lambda _: forking)

    def run(main: Callable[[CfgNode], object]) -> tuple:
        def work(_: int) -> int:
            install_signal_handlers()
            meeting = (tmp_path / "meeting").as_uri()
            return launch.run_and_report(
                lambda: launch.run_processes(configuration(NUM_GPUS=0), main, places(2), meeting)
            )

        return ranks(1, work)[0]

    return run


def test_all_processes_have_met_when_they_begin(starts_two: Callable) -> None:
    ended = starts_two(lambda cfg: print(distributed.all_reduce_sum(dist_info().rank + 1)))
    assert (ended.code, ended.out, ended.err) == (0, "[3.0]\n[3.0]\n", "")


def test_one_that_fails_ends_the_one_that_does_not_listen(
    starts_two: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "GRACE_PERIOD", 0.5)

    def main(cfg: CfgNode) -> None:
        if dist_info().rank == 0:
            raise UserError("do better")
        threading.Event().wait()

    ended = starts_two(main)
    assert (ended.code, ended.err) == (2, "error: do better\n")


def test_one_that_is_killed_is_named(starts_two: Callable) -> None:
    def main(cfg: CfgNode) -> None:
        if dist_info().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.barrier()

    ended = starts_two(main)
    assert ended.code == 1
    assert "process 1 of 2 was ended by SIGKILL, as happens where memory is short" in ended.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_of_the_one_that_started_them_ends_all(starts_two: Callable, number: int) -> None:
    def main(cfg: CfgNode) -> None:
        distributed.barrier()
        if dist_info().rank == 1:
            os.kill(os.getppid(), number)
        threading.Event().wait()

    ended = starts_two(main)
    assert ended.code == 128 + number
    assert ended.err.count("interrupted") == 1
    assert ("Ctrl-C again" in ended.err) == (number == signal.SIGINT)


def test_a_second_ctrl_c_ends_processes_at_once(starts_two: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE_PERIOD", 1000.0)

    def main(cfg: CfgNode) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as where a step never ends
        distributed.barrier()
        if dist_info().rank == 1:
            os.kill(os.getppid(), signal.SIGINT)
            while "again" not in Path("/proc/self/fd/2").read_text():
                time.sleep(0.02)
            os.kill(os.getppid(), signal.SIGINT)
        threading.Event().wait()

    ended = starts_two(main)
    assert ended.code == 130
    assert ended.err.count("interrupted") == 1


PROGRAM = """
import os, signal, sys
sys.path.insert(0, {root!r})
from timesformer.config import get_cfg
from timesformer.runtime import launch
from timesformer.runtime.signals import install_signal_handlers
from timesformer.runtime.ranks import DistInfo

def main(cfg):
    os.write(1, b"%d\\n" % os.getpid())
    signal.pause()

if __name__ == "__main__":
    install_signal_handlers()
    cfg = get_cfg()
    cfg.NUM_GPUS = 0
    places = [DistInfo(rank, 2, rank, 2) for rank in range(2)]
    sys.exit(launch.run_and_report(lambda: launch.run_processes(cfg, main, places, {meeting!r})))
"""


def test_no_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(root=str(ROOT), meeting=(tmp_path / "meeting").as_uri()))
    process = subprocess.Popen(
        [sys.executable, str(program)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    children = [int(process.stdout.readline()) for _ in range(2)]
    process.kill()
    process.communicate(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "they are still there"
        time.sleep(0.05)
