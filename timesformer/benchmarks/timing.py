"""Time functions in turn, run them in fresh processes, and describe the machine."""

import multiprocessing
import os
import platform
import random
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from timesformer.errors import counted

CPU = torch.device("cpu")
Runs = Mapping[Any, Callable[[], object]]
Clock = Callable[[], float]


def time_in_turn(
    runs: Runs, rounds: int, device: torch.device = CPU, clock: Clock = time.perf_counter
) -> dict[Any, list[float]]:
    """Seconds of every run in every round, after one warm-up; no seconds for runs that run out of memory.

    The order changes from round to round: slow phases of the machine and warm caches affect all runs equally.
    """
    seconds: dict[Any, list[float]] = {key: [] for key in runs}
    remaining = list(runs)
    rng, synchronize = random.Random(0), torch.get_device_module(device).synchronize
    for number in range(rounds + 1):
        for key in rng.sample(remaining, len(remaining)):
            try:
                synchronize()
                start = clock()
                runs[key]()
                synchronize()
            except torch.OutOfMemoryError:
                remaining.remove(key)
                seconds[key].clear()
            else:
                seconds[key] += [clock() - start] * (number > 0)
    return seconds


def clock_of(device: torch.device) -> tuple[Clock, str]:
    """A clock and what it measures: processor time on the CPU with one thread, else wall-clock time.

    Other processes disturb processor time less.
    """
    single = device.type == "cpu" and torch.get_num_threads() == 1
    return (time.process_time, "processor time") if single else (time.perf_counter, "wall-clock time")


def select_device(threads: int = 0) -> torch.device:
    """The GPU if there is one, else the CPU with this number of threads (0: PyTorch's choice)."""
    if threads:
        torch.set_num_threads(threads)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def run_in_subprocess(function: Callable[..., Any], *args: object) -> Any:
    """Calls a function in a fresh process, whose peak memory is its own; None if it runs out of memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args).result()
        except (BrokenProcessPool, torch.OutOfMemoryError):  # a process without memory is killed
            return None


@contextmanager
def one_core() -> Iterator[None]:
    """Restricts PyTorch to one thread and, on Linux, this process to one core."""
    threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    torch.set_num_threads(1)
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if cores:
            os.sched_setaffinity(0, cores)


def describe_machine(device: torch.device | None = None) -> str:
    """Name of the GPU, or of the processor (with the number of threads if a device is given); versions."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    if device is not None:
        threads = counted(torch.get_num_threads(), "thread")
        name = torch.cuda.get_device_name() if device.type == "cuda" else f"{name}, {threads}"
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"
