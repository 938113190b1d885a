"""Tests, speed, memory and accuracy on one GPU within minutes (docs/performance.md, On a GPU).

Each part runs in a process of its own, which is killed at the part's time limit. After each row `gpu.json` and `gpu.md`
in the folder of results are replaced, so that an interruption loses nothing.
"""

import json
import multiprocessing
import os
import shlex
import signal
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from timesformer.atomic import write_text_atomically
from timesformer.benchmarks.original import check_original
from timesformer.benchmarks.timing import describe_machine
from timesformer.errors import UserError
from timesformer.gpu_benchmark import measurements
from timesformer.gpu_benchmark.measurements import Row, Settings, SkippedPart
from timesformer.gpu_benchmark.page import page, section, summary

JSON_NAME, PAGE_NAME = "gpu.json", "gpu.md"


class Part(NamedTuple):
    """A part: its title, the seconds after which it is killed, and the function that yields its rows."""

    title: str
    limit: float
    measure: Callable[[Settings], Iterator[Row]]


PARTS = {
    "tests": Part("Tests", 90, measurements.run_tests),
    "training-8": Part("Training step, batch size 8", 120, partial(measurements.training_steps, batch_size=8)),
    "training-32": Part("Training step, batch size 32", 150, partial(measurements.training_steps, batch_size=32)),
    "long": Part("Clips of 96 frames", 50, partial(measurements.checkpointed_steps, frames=96, crop=224)),
    "large": Part("Frames of 448 pixels", 40, partial(measurements.checkpointed_steps, frames=16, crop=448)),
    "inference": Part("Inference", 80, measurements.inference),
    "demo": Part("Accuracy of the demo model", 90, measurements.train_demo),
    "kernels": Part("Kernels of temporal attention", 40, measurements.attention_kernels),
    "profile": Part("Where a training step spends its time", 30, measurements.profile_step),
}


def check_settings(settings: Settings) -> None:
    """Raises UserError before anything is measured if there is no such device or no code of the original."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: PyTorch found no CUDA GPU; --device cpu --tiny tries the whole script without one"
        )
    if settings.original:
        check_original(settings.original)


def measure(args: Namespace, folder: Path) -> Iterator[tuple[str, Iterator[str]]]:
    """The name of the mark in a page, and the lines of the results; `folder` is not used."""
    settings = Settings(args.device, args.tiny, args.original, args.output.resolve())
    yield "gpu", measure_gpu(settings, args.parts, args.minutes)


def measure_gpu(settings: Settings, names: Sequence[str], minutes: float) -> Iterator[str]:
    """Lines of the results of each part, as soon as it ends; and of the summary."""
    check_settings(settings)
    settings.folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    results: dict[str, Any] = {
        "command": shlex.join([*Path(sys.argv[0]).name.split(), *sys.argv[1:]]),
        "device": settings.device,
        "tiny": settings.tiny,
        "minutes": minutes,
        "machine": "",
        "parts": [],
    }

    def save() -> None:
        write_text_atomically(settings.folder / JSON_NAME, json.dumps(results, indent=1) + "\n")
        write_text_atomically(settings.folder / PAGE_NAME, "\n".join(page(results)) + "\n")

    processes = [start_part(settings, names[0])]
    try:
        for number, name in enumerate(names):
            if number + 1 < len(names):  # its imports take as long as some parts
                processes.append(start_part(settings, names[number + 1]))
            limit = max(0.0, min(PARTS[name].limit, end - time.monotonic()))
            result = {"name": name, "title": PARTS[name].title, "limit": limit, "status": "", "rows": []}
            results["parts"].append(result)
            for _ in finish_part(*processes[number], result, results):
                save()
            yield from [*section(result), ""]
    finally:
        for process, _ in processes:
            kill(process)
    yield from summary(results)


def start_part(settings: Settings, name: str) -> tuple[BaseProcess, Connection]:
    """Starts the process of a part, which waits for a message after its imports."""
    # A fork of a process that has asked for GPUs cannot use them. On a CPU, forks save the time of the imports.
    context = multiprocessing.get_context("spawn" if settings.device == "cuda" else "forkserver")
    if settings.device != "cuda":
        context.set_forkserver_preload([__name__, "transformers.models.timesformer.modeling_timesformer"])
    mine, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, name, settings))
    process.start()
    theirs.close()
    return process, mine


def finish_part(
    process: BaseProcess, connection: Connection, result: dict[str, Any], results: dict[str, Any]
) -> Iterator[None]:
    """Lets a part begin, and completes its result; yields after each change."""
    start = time.monotonic()
    if result["limit"] <= 0:
        result |= {"status": "not started", "error": "no time was left"}
        yield
        return
    connection.send("begin")
    while not result["status"]:
        remaining = start + result["limit"] - time.monotonic()
        if remaining <= 0 or not connection.poll(remaining):
            result |= {"status": "timed out", "error": f"killed after {result['limit']:.0f} s"}
            break
        try:
            kind, value = connection.recv()
        except (EOFError, ConnectionError):
            kind, value = "failed", "its process died"
        if kind == "machine":
            results["machine"] = value
        elif kind == "row":
            result["rows"].append(value)
        else:
            result |= {"status": kind, "error": value}
        yield
    kill(process)
    result["seconds"] = round(time.monotonic() - start, 1)
    yield


def kill(process: BaseProcess) -> None:
    """Kills a part with all processes that it started, such as compilers and DataLoader workers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def work(connection: Connection, name: str, settings: Settings) -> None:
    """In the process of a part: measures, and sends each row; prints into NAME.log in the folder of results."""
    os.setsid()
    with (settings.folder / f"{name}.log").open("wb") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    sys.stdout.reconfigure(line_buffering=True)  # what it prints is there when it is killed
    try:
        connection.recv()
    except EOFError:
        return
    try:
        connection.send(("machine", describe_gpu(settings.device)))
        for row in PARTS[name].measure(settings):
            connection.send(("row", row))
        connection.send(("done", ""))
    except SkippedPart as reason:
        connection.send(("skipped", str(reason)))
    except Exception as error:
        traceback.print_exc()
        connection.send(("failed", f"{type(error).__name__}: {error}"))


def describe_gpu(device: str) -> str:
    """Name and memory of the device, versions."""
    name = describe_machine(torch.device(device))
    if device == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
        name += f", CUDA {torch.version.cuda}, {memory / 2**30:.0f} GiB"
    return name
