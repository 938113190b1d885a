"""Configurations side by side: size, operations, time and memory of each one's model."""

import multiprocessing
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import torch
from fvcore.common.config import CfgNode

from timesformer.config import load_config
from timesformer.errors import UserError
from timesformer.models import build_model
from timesformer.models.complexity import count_multiply_adds, count_parameters
from timesformer.runtime.device import peak_memory
from tools.benchmark.machine import describe_machine
from tools.benchmark.steps import forward_of, seconds_of, training_step


def model_table(
    paths: Sequence[str], timed: bool, batch_size: int = 1, rounds: int = 5, threads: int = 0, use_gpu: bool = True
) -> Iterator[str]:
    """Lines of a Markdown table, one row per configuration; if `timed`, below a line that says what was measured.

    batch_size: clips at once; rounds: times each is run after one warm-up; threads: of the CPU, 0 for PyTorch's choice.
    Raises UserError when a configuration cannot be loaded, built or measured.
    """
    head = "| configuration | model | attention | clip | classes | parameters (M) | GFLOPs |"
    rule = "|---|---|---|---|---:|---:|---:|"
    device = torch.device("cuda" if torch.cuda.is_available() and use_gpu else "cpu")
    if timed:
        yield from (measured_how(device, batch_size, rounds, threads), "")
        head += " forward (ms/clip) | training step (ms/clip) | peak memory (GB) |"
        rule += "---:|---:|---:|"
    yield from (head, rule)
    for path in paths:
        cfg = load_config(path, check_values=False)
        row = size_columns(path, cfg)
        if timed:
            row += time_columns(measure_apart(path, cfg, device, batch_size, rounds, threads))
        yield row


def size_columns(path: str, cfg: CfgNode) -> str:
    """What a configuration is, and how large; nothing is computed or read."""
    with torch.device("meta"):
        model = build_model(cfg, fresh=True)
    frames, crop = cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE
    operations = count_multiply_adds(model, (1, 3, frames, crop, crop))
    attention = getattr(getattr(model, "model", model), "attention_type", "-")
    return (
        f"| {path} | {cfg.MODEL.MODEL_NAME} | {attention} | "
        f"{frames}x{cfg.DATA.SAMPLING_RATE}, {crop} | {cfg.MODEL.NUM_CLASSES} | "
        f"{count_parameters(model) / 1e6:.2f} | {operations / 1e9:.2f} |"
    )


class Cost(NamedTuple):
    """Seconds of a forward pass and of a training step per clip, medians; and the peak of memory in bytes."""

    forward: float
    training_step: float
    memory: int


def time_columns(cost: Cost) -> str:
    return f" {1e3 * cost.forward:.1f} | {1e3 * cost.training_step:.1f} | {cost.memory / 1e9:.2f} |"


def measured_how(device: torch.device, batch_size: int, rounds: int, threads: int) -> str:
    """One line for above the table."""
    if threads:
        torch.set_num_threads(threads)
    memory = "allocated on the GPU" if device.type == "cuda" else "of the whole process, PyTorch included"
    return (
        f"{describe_machine(device)}; clips at once: {batch_size}, float32, median of {rounds}; forward at "
        f"DATA.TEST_CROP_SIZE, training step (SGD) at DATA.TRAIN_CROP_SIZE, peak of memory {memory}."
    )


def measure_apart(path: str, cfg: CfgNode, device: torch.device, batch_size: int, rounds: int, threads: int) -> Cost:
    """Measures in a process of its own, so that no model's memory or warm caches count for another's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, cfg, device, batch_size, rounds, threads).result()
        except (BrokenProcessPool, torch.cuda.OutOfMemoryError) as error:
            raise UserError(
                f"{path} could not be measured: {type(error).__name__}, which is most often a lack of memory; "
                f"lower --batch-size, which is {batch_size}"
            ) from error


def measure(cfg: CfgNode, device: torch.device, batch_size: int, rounds: int, threads: int) -> Cost:
    """Runs a configuration's model, with random weights and clips, forward and in training."""
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build_model(cfg, fresh=True).to(device)
    medians = []
    for crop, make in ((cfg.DATA.TEST_CROP_SIZE, forward_of), (cfg.DATA.TRAIN_CROP_SIZE, training_step)):
        run = make(model, torch.randn(batch_size, 3, cfg.DATA.NUM_FRAMES, crop, crop, device=device))
        seconds_of(run, device)
        medians.append(statistics.median(seconds_of(run, device) for _ in range(rounds)) / batch_size)
    return Cost(*medians, peak_memory(device))
