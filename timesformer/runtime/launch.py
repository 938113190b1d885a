"""Starts the processes of a run, or finds the rank of this process among those of a launcher, and ends them together.

Launchers are `torchrun` and others that set RANK and WORLD_SIZE, such as submitit, and `srun`, with a task per process,
or one per node and NUM_GPUS above 1.
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
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.config import ConfigError, check
from timesformer.config.imports import import_modules
from timesformer.errors import UserError, counted
from timesformer.runtime import ranks, signals
from timesformer.runtime.ranks import DistInfo
from timesformer.runtime.resource_limits import is_out_of_files, out_of_files
from timesformer.runtime.signals import exit_code

logger = logging.getLogger(__name__)

Main = Callable[[CfgNode], object]
Launcher = tuple[str, DistInfo, str]  # name, processes, init_method

GRACE_PERIOD = 5.0  # seconds in which processes may end by themselves, and again after SIGTERM
_PORTS = range(20000, 32000)  # below the ports of outgoing connections


def launch(cfg: CfgNode, main: Main, init_method: str = "") -> int:
    """Runs `main(cfg)`, which can be pickled, in every process of the run, after they joined a process group.

    `main` gets the actual NUM_SHARDS, SHARD_ID and NUM_GPUS; UserError if they contradict the configuration.
    `init_method` is tcp://host:port or file:///path. Returns the exit code of the first process that failed, or 0.
    """
    name, info, url = _from_environment() or _from_slurm() or ("", DistInfo(), "")
    if info.world_size == 1:
        return _launch_node(cfg, main, cfg.SHARD_ID, cfg.NUM_SHARDS, init_method, "this command")
    init_method = init_method or url
    if info.local_size == 1 and cfg.NUM_GPUS > 1 and name != "torchrun":
        return _launch_node(cfg, main, info.rank, info.world_size, init_method, name)
    return _run(_fit_config(cfg, info, name), main, info, init_method)


def refuse_launcher(reason: str) -> None:
    """UserError if a launcher has started several processes of this command."""
    name, info, _ = _from_environment() or _from_slurm() or ("", DistInfo(), "")
    if info.world_size > 1:
        raise UserError(f"{reason}: start it without {name}, found {info.world_size} processes")


def _launch_node(cfg: CfgNode, main: Main, node: int, num_nodes: int, init_method: str, launcher: str) -> int:
    local_size = max(1, cfg.NUM_GPUS)
    world_size = num_nodes * local_size
    infos = [DistInfo(node * local_size + rank, world_size, rank, local_size) for rank in range(local_size)]
    if world_size == 1:
        main(cfg)
        return 0
    cfg = _fit_config(cfg, infos[0], launcher)
    if num_nodes > 1:
        init_method = init_method or _master_url()
        if not init_method:
            raise UserError(
                f"NUM_SHARDS is {num_nodes}: give --init_method tcp://HOST:PORT of the node of --shard_id 0"
            )
    if local_size == 1:
        return _run(cfg, main, infos[0], init_method)
    with tempfile.TemporaryDirectory() as folder:  # a single node needs no port
        return run_processes(cfg, main, infos, init_method or (Path(folder) / "rendezvous").as_uri())


def _run(cfg: CfgNode, main: Main, info: DistInfo, init_method: str) -> int:
    from timesformer.runtime import distributed  # the process that only starts others does not load PyTorch

    distributed.init_process_group(cfg, info, init_method)
    main(cfg)
    distributed.destroy_process_group()
    return 0


def _fit_config(cfg: CfgNode, info: DistInfo, launcher: str) -> CfgNode:
    """Sets NUM_SHARDS, SHARD_ID and NUM_GPUS to the actual processes; UserError where they contradict each other."""
    num_nodes = info.world_size // info.local_size
    if cfg.NUM_SHARDS not in (1, num_nodes):
        raise UserError(
            f"NUM_SHARDS is {cfg.NUM_SHARDS}, but {launcher} started processes on {counted(num_nodes, 'node')}"
        )
    if cfg.NUM_GPUS not in (0, 1, info.local_size):
        started = counted(info.local_size, "process")
        raise UserError(f"NUM_GPUS is {cfg.NUM_GPUS}, but {launcher} started {started} per node")
    if cfg.TRAIN.ENABLE and info.local_size > cfg.TRAIN.BATCH_SIZE:
        raise UserError(f"TRAIN.BATCH_SIZE is {cfg.TRAIN.BATCH_SIZE}, expected a clip per process, {info.local_size}")
    cfg = cfg.clone()
    cfg.NUM_SHARDS, cfg.SHARD_ID = num_nodes, info.rank // info.local_size
    cfg.NUM_GPUS = info.local_size if cfg.NUM_GPUS else 0
    if problems := check(cfg):
        raise ConfigError(problems)
    return cfg


def _from_environment() -> Launcher | None:
    env = os.environ
    if not {"RANK", "WORLD_SIZE"} <= env.keys():
        return None
    local_rank, local_size = int(env.get("LOCAL_RANK", "0")), int(env.get("LOCAL_WORLD_SIZE", "1"))
    info = DistInfo(int(env["RANK"]), int(env["WORLD_SIZE"]), local_rank, local_size)
    if info.world_size % local_size:
        raise UserError(f"WORLD_SIZE is {info.world_size}, expected a multiple of LOCAL_WORLD_SIZE {local_size}")
    if "TORCHELASTIC_RUN_ID" in env:
        return "torchrun", info, "env://"
    if info.world_size > 1 and not _master_url():
        raise UserError(f"WORLD_SIZE is {info.world_size}, but MASTER_ADDR and MASTER_PORT are not set")
    return "the launcher", info, _master_url()


def _master_url() -> str:
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    return f"tcp://{address}:{port}" if address and port else ""


def _from_slurm() -> Launcher | None:
    env = os.environ
    if "SLURM_STEP_NUM_TASKS" not in env:  # unlike SLURM_NTASKS, only tasks of srun have it
        return None
    world_size, tasks_per_node = int(env["SLURM_STEP_NUM_TASKS"]), env["SLURM_STEP_TASKS_PER_NODE"]
    if re.fullmatch(r"\d+(\(x\d+\))?", tasks_per_node) is None:
        raise UserError(f"srun started {tasks_per_node} tasks on its nodes, expected equal numbers: --ntasks-per-node")
    local_size = world_size // int(env["SLURM_STEP_NUM_NODES"])
    info = DistInfo(int(env["SLURM_PROCID"]), world_size, int(env["SLURM_LOCALID"]), local_size)
    return "srun", info, "" if world_size == 1 else _master_url() or _first_node_url()


def _first_node_url() -> str:
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
    try:
        nodes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"scontrol failed ({error}): set MASTER_ADDR (the first node) and MASTER_PORT") from error
    step = int(os.environ["SLURM_JOB_ID"]) + int(os.environ["SLURM_STEP_ID"])  # other steps use other ports
    return f"tcp://{nodes[0]}:{_PORTS[step % len(_PORTS)]}"


def run_processes(cfg: CfgNode, main: Main, infos: list[DistInfo], init_method: str) -> int:
    """Runs `main(cfg)` in a process for each DistInfo; returns the exit code of the first that failed, else 0.

    A first signal is passed on (Ctrl-C as SIGTERM), so that the processes save. After a second signal they have
    seconds, after a second Ctrl-C they are killed.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run_process, args=(cfg, main, info, init_method)) for info in infos]
    try:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: this process passes Ctrl-C on
        try:
            for process in processes:
                process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        _wait_until_done(processes)
    except KeyboardInterrupt as interrupt:
        if _stop(processes, interrupt):
            return exit_code(interrupt)
        raise  # rank 0 did not report it
    code = next((process.exitcode for process in processes if process.exitcode), 0)
    for process, info in zip(processes, infos, strict=True):
        if (process.exitcode or 0) < 0:
            name = signal.Signals(-process.exitcode).name  # SIGKILL: out of memory, for instance
            logger.error("rank %d of %d was killed by %s", info.rank, info.world_size, name)
            code = 1
    _end(processes)
    return code


def _run_process(cfg: CfgNode, main: Main, info: DistInfo, init_method: str) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: if the process that started it is killed
    signals.install_signal_handlers()
    code = run_and_report(lambda: import_modules(cfg.IMPORTS) or _run(cfg, main, info, init_method))
    _ignore_signals()
    sys.exit(code)


def _wait_until_done(processes: list[BaseProcess]) -> None:
    running = list(processes)
    while running and not any(process.exitcode for process in processes):
        wait([process.sentinel for process in running])
        running = [process for process in processes if process.exitcode is None]


def _stop(processes: list[BaseProcess], interrupt: KeyboardInterrupt) -> bool:
    """Passes a signal on and waits; returns whether rank 0 reported it."""
    (number,) = interrupt.args or (signal.SIGINT,)
    try:
        if number == signal.SIGINT:
            logger.error("Ctrl-C: the run saves and stops; press Ctrl-C again to stop without saving")
            number = signal.SIGTERM
        for process in processes:
            if process.exitcode is None and process.pid:
                os.kill(process.pid, number)
        _wait_until_done(processes)
    except KeyboardInterrupt as second:
        for process in processes:
            if second.args == (signal.SIGINT,) and process.pid:
                process.kill()
    _end([process for process in processes if process.pid])
    return processes[0].exitcode == exit_code(KeyboardInterrupt(number))


def _end(processes: list[BaseProcess]) -> None:
    """Waits for processes to end; sends SIGTERM after GRACE_PERIOD, and SIGKILL after another."""
    for stop in (BaseProcess.terminate, BaseProcess.kill):
        deadline = time.monotonic() + GRACE_PERIOD
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        for process in processes:
            if process.exitcode is None:
                stop(process)
    for process in processes:
        process.join()


def run_and_report(function: Callable[[], int]) -> int:
    """Returns the result of `function`, or the exit code of its error or interruption, which it reports.

    Of several processes, only the first that fails reports on the screen; the others write to their own log.
    """
    try:
        try:
            return function()
        except Exception:
            signals.raise_if_interrupted()  # an error of a process that is being stopped is no error
            raise
    except SystemExit as error:  # submitit's, after it put the job back into the queue
        ranks.fail(1, partial(_release, error), wait_for_main=False)
        raise
    except UserError as error:
        return _fail(2, f"error: {error}", error)
    except KeyboardInterrupt as error:
        saved = "the checkpoint just saved" if isinstance(error, signals.StopRequested) else "its last checkpoint"
        return _fail(exit_code(error), f"interrupted; the same command resumes from {saved}", error)
    except Exception as error:  # imports, sockets and libraries may run out of files, too
        return _fail(2 if is_out_of_files(error) else 1, "the run failed", error)


def _fail(code: int, message: str, error: BaseException) -> int:
    if is_out_of_files(error) and "ulimit" not in str(error):  # which many errors may hide
        message += f"\n{out_of_files('lower DATA_LOADER.NUM_WORKERS')}"
    is_expected = isinstance(error, UserError | KeyboardInterrupt)
    handlers = _ignore_signals()
    local_rank = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    if ranks.dist_info().world_size == 1 and is_expected and local_rank != "0":
        time.sleep(2.0)  # all ranks fail like this before they join: local rank 0 reports it
        return code

    def report(is_first: bool | None) -> None:
        if is_first is None:
            logger.error("rank 0 cannot be reached any more")
        level, prefix = (logging.ERROR, "") if is_first else (logging.INFO, "ended after another process: ")
        logger.log(level, "%s%s", prefix, message, exc_info=None if is_expected else error)
        _release(error)

    code = ranks.fail(code, report, wait_for_main=is_expected)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return code


def _ignore_signals() -> dict[int, object]:
    return {number: signal.signal(number, signal.SIG_IGN) for number in signals.STOPPING}


def _release(error: BaseException | None, _: bool | None = None) -> None:
    """Frees the variables of the functions that failed, such as the model with its connections."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
    gc.collect()
