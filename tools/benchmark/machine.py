"""What a figure is measured on, and holding it to one core."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


def describe_machine(device: torch.device | None = None) -> str:
    """Name of the processor, with the number of threads, or of the GPU; versions of torch and Python."""
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    if device is not None and device.type == "cuda":
        return f"{torch.cuda.get_device_name()}, {versions}"
    threads = f", {torch.get_num_threads()} threads" if device is not None else ""
    return f"{_processor()}{threads}, {versions}"


@contextmanager
def one_core() -> Iterator[None]:
    """Hold this process and the threads it starts to one core, where the system can; PyTorch to one thread."""
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


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
