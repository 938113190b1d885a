"""Time functions in turn, run them in fresh processes, and describe the machine."""

import multiprocessing
import os
import platform
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from timesformer.errors import UserError

CPU = torch.device("cpu")
Clock = Callable[[], float]


def time_in_turn(
    runs: Mapping[Any, Callable[[], object]],
    rounds: int,
    device: torch.device = CPU,
    clock: Clock = time.perf_counter,
) -> dict[Any, list[float]]:
    """Seconds of every run in every round, after one warm-up; no seconds for runs that run out of memory.

    The order changes from round to round: slow phases of the machine and warm caches affect all runs equally.
    """
    seconds: dict[Any, list[float]] = {key: [] for key in runs}
    remaining = list(runs)
    rng = random.Random(0)
    for number in range(rounds + 1):
        for key in rng.sample(remaining, len(remaining)):
            try:
                synchronize(device)
                start = clock()
                runs[key]()
                synchronize(device)
            except torch.OutOfMemoryError:
                remaining.remove(key)
                seconds[key].clear()
            else:
                seconds[key] += [clock() - start] * (number > 0)
    return seconds


def speedups(baseline: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """How many times as fast as the baseline, for each round, in increasing order."""
    return sorted(slow / fast for slow, fast in zip(baseline, seconds, strict=True))


def synchronize(device: torch.device) -> None:
    """Waits for the GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def clock_for(device: torch.device) -> Clock:
    """Processor time for one thread on the CPU, which other processes disturb less; otherwise wall-clock time."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def select_device(threads: int = 0, use_gpu: bool = True) -> torch.device:
    """The GPU if there is one, else the CPU with this number of threads (0: PyTorch's choice)."""
    if threads:
        torch.set_num_threads(threads)
    return torch.device("cuda" if torch.cuda.is_available() and use_gpu else "cpu")


def run_in_subprocess(name: str, function: Callable[..., Any], *args: object) -> Any:
    """Calls a function in a fresh process, whose peak memory is its own.

    Raises:
        UserError: with this name, if the process runs out of memory or is killed.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args).result()
        except (BrokenProcessPool, torch.OutOfMemoryError) as error:
            raise UserError(
                f"{name} could not be measured ({type(error).__name__}, usually a lack of memory): reduce --batch-size"
            ) from error


@contextmanager
def one_core() -> Iterator[None]:
    """Restricts this process and its threads to one core, where the system can; PyTorch to one thread."""
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
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    if device is not None and device.type == "cuda":
        return f"{torch.cuda.get_device_name()}, {versions}"
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    threads = [] if device is None else [f"{torch.get_num_threads()} threads"]
    return ", ".join([names[0] if names else platform.processor(), *threads, versions])
