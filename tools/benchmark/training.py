"""Training steps and inference: time, memory and utilisation of this project's base model, the original's way of
computing it, and Hugging Face's model, on the same weights and clips."""

import copy
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from timesformer.datasets.loader import construct_loader, set_epoch
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.engine.recompute import recompute_blocks
from timesformer.errors import UserError
from timesformer.runtime.device import peak_memory, prefetch_to_device, reset_peak_memory
from tools.benchmark.loading import dataset_of
from tools.benchmark.machine import describe_machine
from tools.benchmark.original import OriginalWay
from tools.benchmark.speed import largest_difference, model_pair
from tools.benchmark.steps import forward_of, logits_of, lowered, seconds_of, training_step

ORIGINAL, HUGGING_FACE, OURS = "the original's way", "Hugging Face", "this project"
_TOLERANCE = 1e-3  # of logits of about 1, in float32


@dataclass(frozen=True)
class Size:
    """Of clips and model: the base model by default."""

    batch_size: int
    frames: int
    crop: int
    width: int = 768
    depth: int = 12
    heads: int = 12

    def __str__(self) -> str:
        return f"{self.batch_size} x {self.frames} frames x {self.crop} px"


@dataclass(frozen=True)
class Contender:
    """Who computes and how: precision "fp32" or "bf16"; recompute as TRAIN.ACTIVATION_CHECKPOINT."""

    who: str
    precision: str = "fp32"
    compiled: bool = False
    recompute: str = "none"

    def __str__(self) -> str:
        more = ["compiled"] * self.compiled + [f"recomputing {self.recompute}"] * (self.recompute != "none")
        return ", ".join([self.who, self.precision, *more])


def contenders(precisions: Sequence[str], compiled: bool, recompute: str) -> list[Contender]:
    """The rows of the table; first the one that all are compared with, the original's way in fp32."""
    ways = [{}] + [{"compiled": True}] * compiled + [{"recompute": recompute}] * (recompute != "none")
    ours = [Contender(OURS, precision, **way) for precision, way in product(precisions, ways)]
    return [Contender(ORIGINAL), *(Contender(HUGGING_FACE, precision) for precision in precisions), *ours]


def training_table(
    size: Size, rows: Sequence[Contender], rounds: int, threads: int = 0, memory: bool = False
) -> Iterator[str]:
    """Lines of two Markdown tables, of training steps and of inference, below what was measured.

    rounds: times that each contender is measured, all in turn, after a warm-up; threads: of the CPU, 0 for PyTorch's
    choice, 1 to count processor time, which other work on the machine disturbs less; memory: also measure that, of a
    process with a contender alone. Raises UserError when the contenders do not compute the same, or transformers is not
    installed.
    """
    if threads:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False
    models = build(size, device)
    clip = clip_of(size, device)
    differences = {who: largest_difference(models[OURS], models[who], clip) for who in (ORIGINAL, HUGGING_FACE)}
    if max(differences.values()) > _TOLERANCE:
        raise UserError(f"the models do not compute the same, so they are not measured: {differences}")
    peaks = {precision: peak_of(precision, device) for precision in sorted({row.precision for row in rows})}
    yield describe_machine(device)
    clock = "processor time" if clock_of(device) is time.process_time else "time"
    yield (
        f"clips: {size}, base model, 400 classes; {clock}, medians of {rounds} rounds; largest difference of logits "
        + ", ".join(f"{difference:.1e} ({who})" for who, difference in differences.items())
    )
    yield "measured peak of a matrix product: " + ", ".join(
        f"{peak / 1e12:.2f} TFLOP/s ({precision})" for precision, peak in peaks.items()
    )
    for training in (True, False):
        what = "training step" if training else "inference"
        shown = [row for row in rows if training or row.recompute == "none"]
        yield ""
        columns = "seconds | clips/s | times the original's way | times Hugging Face | memory (GB) | utilisation"
        yield f"| {what} | {columns} |"
        yield "|---|---:|---:|---|---|---:|---:|"
        operations = {who: operations_of(model, clip, training) for who, model in models.items()}
        runs = [step_of(row, models, clip, training) for row in shown]
        times = dict(zip(shown, in_turn(runs, rounds, device), strict=True))
        for row, seconds in times.items():
            peer = times.get(Contender(HUGGING_FACE, row.precision), [])
            yield (
                f"| {row} | {cell(seconds)} | {clips_per_second(seconds, size)} | {ratio(times[shown[0]], seconds)} | "
                f"{ratio(peer, seconds)} | {memory_apart(size, row, training) if memory else '-'} | "
                f"{utilisation(operations[row.who], seconds, peaks[row.precision])} |"
            )


def large_table(sizes: Sequence[Size], ways: Sequence[str], rounds: int, threads: int = 0) -> Iterator[str]:
    """Lines of a Markdown table: whether this project trains at these sizes in bf16, how fast, in how much memory.

    ways: of keeping activations, as TRAIN.ACTIVATION_CHECKPOINT; rounds and threads as in `training_table`.
    """
    if threads:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield describe_machine(device)
    yield ""
    yield "| training step, bf16 | activations | seconds | clips/s | memory (GB) |"
    yield "|---|---|---:|---:|---:|"
    for size, recompute in product(sizes, ways):
        row = Contender(OURS, "bf16", recompute=recompute)
        kept = "kept" if recompute == "none" else f"recomputed, {recompute}"
        seconds, memory = measure_apart(size, row, True, rounds)
        yield f"| {size} | {kept} | {cell(seconds)} | {clips_per_second(seconds, size)} | {memory} |"


def data_lines(
    size: Size, files: Sequence[Path], folder: Path, workers: int, steps: int, precision: str, threads: int = 0
) -> Iterator[str]:
    """Lines that say what share of the time training waits for clips of these files, which `workers` processes load.

    steps: measured, after one that starts the processes; threads: of the CPU, 0 for PyTorch's choice.
    """
    if threads:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    number = (steps + 1) * size.batch_size
    cfg = dataset_of([files[index % len(files)] for index in range(number)], folder)
    cfg.TRAIN.BATCH_SIZE, cfg.DATA_LOADER.NUM_WORKERS = size.batch_size, workers
    cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE = size.frames, size.crop
    cfg.DATA.TRAIN_JITTER_SCALES = [size.crop * 8 // 7, size.crop * 10 // 7]
    loader = construct_loader(cfg, "train")
    set_epoch(loader, 0)
    model = build(size, device)[OURS]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    waited = started = since = 0.0
    for index, batch in enumerate(prefetch_to_device(loader, device)):
        waited += time.perf_counter() - since
        with lowered(batch["clip"], precision):
            logits = model(normalize_clips(batch["clip"], cfg, device))
        nn.functional.cross_entropy(logits.float(), batch["label"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        if index == 0:
            synchronize(device)
            waited, started = 0.0, time.perf_counter()
        since = time.perf_counter()
    synchronize(device)
    seconds = time.perf_counter() - started
    speed, share = steps * size.batch_size / seconds, 100 * waited / seconds
    yield describe_machine(device)
    yield (
        f"Training on files, {size}, in {precision}, with {workers} loading processes: {speed:.2f} clips/s over "
        f"{steps} steps, {share:.1f} % of the time waiting for data."
    )


# ---------------------------------------------------------------- models and steps


def build(size: Size, device: torch.device) -> dict[str, nn.Module]:
    """The models by who computes them, with the same weights, each with its own copy."""
    ours, theirs = model_pair("divided_space_time", size.frames, size.crop, device, size.width, size.depth, size.heads)
    return {OURS: ours, HUGGING_FACE: theirs, ORIGINAL: OriginalWay(copy.deepcopy(ours.model))}


def clip_of(size: Size, device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size.batch_size, 3, size.frames, size.crop, size.crop, generator=generator).to(device)


def step_of(row: Contender, models: dict[str, nn.Module], clip: torch.Tensor, training: bool) -> Callable[[], None]:
    """A training step, or a forward pass, of a contender."""
    model = models[row.who]
    if row.recompute != "none":  # on a copy, since there is no way back
        model = copy.deepcopy(model)
        recompute_blocks(model, row.recompute)
    if row.compiled:
        model = torch.compile(model, dynamic=False)
    precision = "bf16" if row.precision == "bf16" else "off"
    return training_step(model, clip, precision) if training else forward_of(model, clip, precision)


def in_turn(runs: Sequence[Callable[[], None]], rounds: int, device: torch.device) -> list[list[float]]:
    """Seconds of each run in each round, after a warm-up; those that are short of memory have none."""
    times: list[list[float]] = [[] for _ in runs]
    lacking = set()
    for turn in range(rounds + 1):
        for index, run in enumerate(runs):
            if index in lacking:
                continue
            try:
                seconds = seconds_of(run, device, clock_of(device))
            except torch.OutOfMemoryError:
                lacking.add(index)
                times[index].clear()
                continue
            if turn:
                times[index].append(seconds)
    return times


def clock_of(device: torch.device) -> Callable[[], float]:
    """Of processor time on one thread of the CPU; else of the time."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


# ---------------------------------------------------------------- figures


def cell(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.3f}" if seconds else "out of memory"


def clips_per_second(seconds: Sequence[float], size: Size) -> str:
    return f"{size.batch_size / statistics.median(seconds):.2f}" if seconds else "-"


def ratio(base: Sequence[float], seconds: Sequence[float]) -> str:
    """How many times as fast, by rounds: median, lowest and highest."""
    if not base or not seconds:
        return "-"
    ratios = sorted(slow / fast for slow, fast in zip(base, seconds, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def utilisation(operations: int, seconds: Sequence[float], peak: float) -> str:
    """Share of the peak of a matrix product that so many operations are."""
    return f"{100 * operations / statistics.median(seconds) / peak:.0f} %" if seconds else "-"


def operations_of(model: nn.Module, clip: torch.Tensor, training: bool) -> int:
    """Floating-point operations of a model's own matrix products, two for each multiply-add; a step is three passes."""
    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations}
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter, torch.set_grad_enabled(training):
        logits_of(model.train(training), clip)
    return counter.get_total_flops() * (3 if training else 1)


def _attention_operations(q: Sequence[int], k: Sequence[int], *_: Any, **__: Any) -> int:
    """Of shapes [batch, heads, tokens, d]: the CPU's kernel is the one that PyTorch's counter does not know."""
    return 4 * math.prod(q) * k[-2]


def peak_of(precision: str, device: torch.device) -> float:
    """Operations per second of a product of two large square matrices, the best of several."""
    side, dtype = 8192 if device.type == "cuda" else 2048, torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    fastest = min(seconds_of(lambda: left @ right, device, clock_of(device)) for _ in range(10))
    return 2 * side**3 / fastest


def memory_apart(size: Size, row: Contender, training: bool) -> str:
    """Peak of memory in gigabytes, see `measure_apart`."""
    return measure_apart(size, row, training, rounds=1)[1]


def measure_apart(size: Size, row: Contender, training: bool, rounds: int) -> tuple[list[float], str]:
    """Seconds, and the peak of memory in gigabytes, of a contender in a process of its own, "-" if it is short."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            seconds, memory = pool.submit(_measure, size, row, training, rounds, torch.get_num_threads()).result()
        except (BrokenProcessPool, torch.OutOfMemoryError):
            return [], "-"
    return seconds, f"{memory / 1e9:.2f}"


def _measure(size: Size, row: Contender, training: bool, rounds: int, threads: int) -> tuple[list[float], int]:
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = {row.who: build(size, torch.device("cpu"))[row.who].to(device)}
    reset_peak_memory(device)
    run = step_of(row, model, clip_of(size, device), training)
    return in_turn([run], rounds, device)[0], peak_memory(device)
