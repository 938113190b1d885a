"""Starting the processes of a run, finding a process's place among those that others started, and ending them together.

A run is one process or several, by whichever of these ways it was started:

* plain `python`: one process; with NUM_GPUS above 1, as many, started here; with NUM_SHARDS above 1, the same command
  on every machine, with --shard_id and --init_method;
* `torchrun`, submitit (tools/submit.py), and whatever else sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT;
* `srun`, with a task for each process, or with one for each machine and NUM_GPUS above 1.
"""

import ctypes
import gc
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.config import ConfigError, check
from timesformer.errors import UserError
from timesformer.runtime import ranks
from timesformer.runtime.ranks import DistInfo
from timesformer.runtime.resource_limits import is_out_of_files, out_of_files
from timesformer.runtime.signals import (
    STOPPING,
    StopRequested,
    exit_code,
    raise_if_interrupted,
    raise_on_signals,
)

logger = logging.getLogger(__name__)

Main = Callable[[CfgNode], object]

PATIENCE = 5.0  # seconds that processes have to end by themselves, and then after they were told to
_PORTS = range(20000, 32000)  # below those that systems take for outgoing connections


@dataclass(frozen=True)
class _Started:
    """A process's place, who started it there, and the URL where it meets the others."""

    place: DistInfo
    by: str
    meeting: str


def launch(cfg: CfgNode, main: Main, init_method: str = "") -> int:
    """Runs `main(cfg)` in every process of the run, which have met by then.

    Args:
        cfg: the configuration. In `main`, NUM_SHARDS, SHARD_ID and NUM_GPUS are as the processes really are.
        main: a function of a module, or a partial of one, so that other processes find it too.
        init_method: where processes of several machines meet, tcp://host:port or file:///path.

    Returns:
        The exit code of this process: 0, or that of the first process started here that failed.

    Raises:
        UserError: if the processes that were started are not those that the configuration asks for, or do not meet.
        Exception: whatever `main` raises, if it is run in this process.
    """
    started = _by_environment() or _by_slurm()
    if started is None or started.place.world_size == 1:
        return _launch_here(cfg, main, cfg.SHARD_ID, cfg.NUM_SHARDS, init_method, "this command")
    if started.place.local_size == 1 and cfg.NUM_GPUS > 1 and started.by != "torchrun":
        machine, machines = started.place.rank, started.place.world_size
        return _launch_here(cfg, main, machine, machines, init_method or started.meeting, started.by)
    return _run(_fitted(cfg, started.place, started.by), main, started.place, init_method or started.meeting)


def _launch_here(cfg: CfgNode, main: Main, machine: int, machines: int, meeting: str, by: str) -> int:
    """Runs this machine's part of a run."""
    local_size = max(1, cfg.NUM_GPUS)
    size = machines * local_size
    places = [DistInfo(machine * local_size + local, size, local, local_size) for local in range(local_size)]
    if size == 1:
        main(cfg)
        return 0
    cfg = _fitted(cfg, places[0], by)
    if machines > 1 and not meeting:
        meeting = _meeting_by_variables() or ""
        if not meeting:
            raise UserError(
                f"NUM_SHARDS is {machines}, but nothing says where the machines meet: give all of them the same "
                "--init_method tcp://HOST:PORT, where HOST is the machine with --shard_id 0 and PORT is free on it"
            )
    if local_size == 1:
        return _run(cfg, main, places[0], meeting)
    with tempfile.TemporaryDirectory() as folder:  # a machine that is alone needs no port
        return run_processes(cfg, main, places, meeting or (Path(folder) / "meeting").as_uri())


def _run(cfg: CfgNode, main: Main, place: DistInfo, meeting: str) -> int:
    from timesformer.runtime import distributed  # late, because the process that starts others has no use for PyTorch

    distributed.join(cfg, place, meeting)
    main(cfg)
    distributed.leave()
    return 0


def _fitted(cfg: CfgNode, place: DistInfo, by: str) -> CfgNode:
    """The configuration with the processes that there are; UserError where they are not those that it asks for."""
    machines = place.world_size // place.local_size
    if cfg.NUM_SHARDS not in (1, machines):
        raise UserError(
            f"NUM_SHARDS is {cfg.NUM_SHARDS}, but {by} started processes on {machines} machine(s): leave NUM_SHARDS "
            "out, or start as many"
        )
    if cfg.NUM_GPUS not in (0, 1, place.local_size):
        raise UserError(
            f"NUM_GPUS is {cfg.NUM_GPUS}, but {by} started {place.local_size} process(es) on a machine, expected one "
            "for each of its GPUs: make them the same"
        )
    if cfg.TRAIN.ENABLE and place.local_size > cfg.TRAIN.BATCH_SIZE:
        raise UserError(
            f"TRAIN.BATCH_SIZE is {cfg.TRAIN.BATCH_SIZE}, expected {place.local_size} or more: these are the clips "
            f"that the {place.local_size} processes of a machine share"
        )
    cfg = cfg.clone()
    cfg.NUM_SHARDS, cfg.SHARD_ID = machines, place.rank // place.local_size
    cfg.NUM_GPUS = place.local_size if cfg.NUM_GPUS else 0
    if problems := check(cfg):
        raise ConfigError(problems)
    return cfg


# ---------------------------------------------------------------- processes that others started


def _by_environment() -> _Started | None:
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return None
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if size % local_size:
        raise UserError(
            f"WORLD_SIZE is {size} and LOCAL_WORLD_SIZE {local_size}, expected a multiple of it: start as many "
            "processes on every machine"
        )
    place = DistInfo(rank, size, local_rank, local_size)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _Started(place, "torchrun", "env://")
    meeting = _meeting_by_variables()
    if size > 1 and not meeting:
        raise UserError(f"WORLD_SIZE is {size}, but MASTER_ADDR and MASTER_PORT, where the processes meet, are not set")
    return _Started(place, "what set RANK and WORLD_SIZE", meeting or "")


def _meeting_by_variables() -> str | None:
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    return f"tcp://{address}:{port}" if address and port else None


def _by_slurm() -> _Started | None:
    # SLURM_PROCID and SLURM_NTASKS stand in the environment of a batch script, too, which is no task of srun's.
    if "SLURM_STEP_NUM_TASKS" not in os.environ:
        return None
    size, machines = int(os.environ["SLURM_STEP_NUM_TASKS"]), int(os.environ["SLURM_STEP_NUM_NODES"])
    per_machine = os.environ["SLURM_STEP_TASKS_PER_NODE"]
    if re.fullmatch(r"\d+(\(x\d+\))?", per_machine) is None:
        raise UserError(f"srun started {per_machine} tasks on its machines, expected equally many: --ntasks-per-node")
    place = DistInfo(
        rank=int(os.environ["SLURM_PROCID"]),
        world_size=size,
        local_rank=int(os.environ["SLURM_LOCALID"]),
        local_size=size // machines,
    )
    return _Started(place, "srun", "" if size == 1 else _meeting_by_variables() or _meeting_in_slurm())


def _meeting_in_slurm() -> str:
    nodes = os.environ["SLURM_STEP_NODELIST"]
    try:
        listed = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"scontrol, which knows the machines of {nodes}, cannot be asked here ({error}): set MASTER_ADDR to the "
            "first of them and MASTER_PORT to a port free on it, before srun"
        ) from error
    step = int(os.environ["SLURM_JOB_ID"]) + int(os.environ["SLURM_STEP_ID"])
    return f"tcp://{listed.stdout.split()[0]}:{_PORTS[step % len(_PORTS)]}"


# ---------------------------------------------------------------- processes started here


def run_processes(cfg: CfgNode, main: Main, places: list[DistInfo], meeting: str) -> int:
    """Runs `main(cfg)` in a process for each of the places, and ends them all when one fails or this one is stopped.

    Stopped by a signal, this process passes it on (Ctrl-C as SIGTERM), and the others have time to save; after a second
    signal they have seconds, and after Ctrl-C none.

    Returns:
        The exit code of the first that failed, of the lowest rank among several; 0 if none did.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run_process, args=(cfg, main, place, meeting)) for place in places]
    try:
        _start(processes)
        _wait_until_done(processes)
    except KeyboardInterrupt as interrupt:
        if _stop(processes, interrupt):
            return exit_code(interrupt)
        raise  # to say so, for the lead has not
    code = next((process.exitcode for process in processes if process.exitcode), 0)
    for process, place in zip(processes, places, strict=True):
        if (process.exitcode or 0) < 0:
            name = signal.Signals(-process.exitcode).name
            hint = ", as happens where memory is short" if name == "SIGKILL" else ""
            logger.error("process %d of %d was ended by %s%s", place.rank, place.world_size, name, hint)
            code = 1
    _end(processes)
    return code


def _wait_until_done(processes: list[BaseProcess]) -> None:
    """Waits until all have ended, or one has failed."""
    running = list(processes)
    while running and not any(process.exitcode for process in processes):
        wait([process.sentinel for process in running])
        running = [process for process in processes if process.exitcode is None]


def _stop(processes: list[BaseProcess], interrupt: KeyboardInterrupt) -> bool:
    """Stops processes; whether the lead has come to say so."""
    (number,) = interrupt.args or (signal.SIGINT,)
    is_ctrl_c = number == signal.SIGINT
    number = signal.SIGTERM if is_ctrl_c else number  # they ignore that, see _start
    try:
        if is_ctrl_c:
            logger.error("Ctrl-C: the processes of the run save and stop; Ctrl-C again stops them without saving")
        for process in processes:
            if process.exitcode is None and process.pid:
                os.kill(process.pid, number)
        _wait_until_done(processes)
    except KeyboardInterrupt as second:  # now they have PATIENCE and no more
        for process in processes:
            if second.args == (signal.SIGINT,) and process.pid:
                process.kill()
    _end([process for process in processes if process.pid])
    return processes[0].exitcode == exit_code(KeyboardInterrupt(number))


def _start(processes: list[BaseProcess]) -> None:
    # They inherit that Ctrl-C is ignored, so that it does not hit them while they load; this process passes it on.
    on_ctrl_c = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for process in processes:
            process.start()
    finally:
        signal.signal(signal.SIGINT, on_ctrl_c)


def _run_process(cfg: CfgNode, main: Main, place: DistInfo, meeting: str) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: for when the process that started it is killed
    raise_on_signals()
    code = exit_code_of(lambda: _run(cfg, main, place, meeting))
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)  # it is ending, and its loading processes with it
    sys.exit(code)


def _end(processes: list[BaseProcess]) -> None:
    """Waits for processes to end; tells those to that are there after PATIENCE seconds, kills them after as many."""
    for tell in (BaseProcess.terminate, BaseProcess.kill):
        deadline = time.monotonic() + PATIENCE
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in processes:
            if process.exitcode is None:
                tell(process)
    for process in processes:
        process.join()


# ---------------------------------------------------------------- how a process ends


def exit_code_of(work: Callable[[], int]) -> int:
    """What `work` returns; or what its failure or interruption amounts to, after saying what that was.

    Of several processes, the first that fails says so on the screen, and the others, which fail for want of it, only
    in their own log.
    """
    try:
        try:
            return work()
        except Exception:
            raise_if_interrupted()  # what fails because all processes are being stopped is not a failure
            raise
    except SystemExit as error:  # submitit's, which puts the job back into the queue, and says so itself
        _end_silently(error)
        raise
    except UserError as error:
        return _fail(2, f"error: {error}{_hint(error)}", error)
    except KeyboardInterrupt as error:
        return _fail(
            exit_code(error),
            "interrupted; the same command resumes from the checkpoint that was just saved"
            if isinstance(error, StopRequested)
            else "interrupted; the same command resumes from the last checkpoint in OUTPUT_DIR, or starts from the "
            "beginning if there is none",
            error,
        )
    except Exception as error:  # into run.log too; and loading processes are ended in good order only when it is caught
        return _fail(1, f"the run failed; what it wrote before is as it was{_hint(error)}", error)


def _hint(error: Exception) -> str:
    """What to do about too few open files, which may show anywhere, if the error does not say it."""
    if "ulimit" in str(error) or not is_out_of_files(error):
        return ""
    return f"\n{out_of_files('lower DATA_LOADER.NUM_WORKERS')}"


def _fail(code: int, message: str, error: BaseException) -> int:
    is_expected = isinstance(error, UserError | KeyboardInterrupt)
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in STOPPING}
    if ranks.dist_info().world_size == 1 and is_expected and _is_one_of_many():
        time.sleep(2.0)  # or whatever started the processes would end the one that speaks, too
        return code

    def say(is_first: bool | None) -> None:
        trace = None if is_expected else error
        if is_first:
            logger.error("%s", message, exc_info=trace)
        else:
            if is_first is None:
                logger.error("ended, because the first process of the run cannot be reached any more")
            logger.info("ended after another process: %s", message, exc_info=trace)
        _forget(error)

    code = ranks.fail(code, say, patient=is_expected)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return code


def _end_silently(error: BaseException) -> None:
    ranks.fail(1, lambda is_first: _forget(error), patient=False)


def _forget(error: BaseException | None) -> None:
    """Lets go of what the functions that failed were using: the model, above all, and its connections."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    gc.collect()


def _is_one_of_many() -> bool:
    """Whether this process, which has met no others yet, fails in the same way as the first of its machine."""
    return os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) != "0"
