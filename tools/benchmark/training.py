"""Training steps and inference of the base model: time, memory and utilisation of all contenders."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from timesformer.datasets.loader import construct_loader, set_epoch
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.errors import UserError
from timesformer.runtime.device import peak_memory, prefetch_to_device, reset_peak_memory
from tools.benchmark.contenders import (
    HUGGING_FACE,
    ORIGINAL,
    OURS,
    Contender,
    Size,
    autocast,
    build_models,
    largest_difference,
    logits_of,
    random_clip,
)
from tools.benchmark.loading import dataset_of
from tools.benchmark.tables import header, row
from tools.benchmark.timing import (
    CPU,
    clock_for,
    describe_machine,
    run_in_subprocess,
    select_device,
    speedups,
    synchronize,
    time_in_turn,
)

_TOLERANCE = 1e-3  # of logits of about 1, in float32


def contenders(precisions: Sequence[str], compiled: bool, recompute: str, attention_type: str) -> list[Contender]:
    """The rows of the table, the baseline first: the original's way in fp32, or Hugging Face's for joint attention."""
    settings = [{}] + [{"compiled": True}] * compiled + [{"recompute": recompute}] * (recompute != "none")
    ours = [Contender(OURS, precision, **setting) for precision, setting in product(precisions, settings)]
    original = [Contender(ORIGINAL)] * (attention_type == "divided_space_time")
    return [*original, *(Contender(HUGGING_FACE, precision) for precision in precisions), *ours]


def training_table(size: Size, rows: Sequence[Contender], rounds: int, threads: int, memory: bool) -> Iterator[str]:
    """Two tables, of training steps and of inference; with peak memory if `memory`, each contender in a fresh process.

    Raises:
        UserError: if the contenders do not compute the same, or transformers is not installed.
    """
    device = select_device(threads)
    torch.backends.cudnn.allow_tf32 = False
    models, clip = build_models(size, device), random_clip(size, device)
    differences = {name: largest_difference(models[OURS], models[name], clip) for name in models if name != OURS}
    if max(differences.values()) > _TOLERANCE:
        raise UserError(f"the models do not compute the same, largest differences of logits: {differences}")
    peaks = {precision: matmul_peak(precision, device) for precision in sorted({one.precision for one in rows})}
    clock = clock_for(device)
    yield describe_machine(device)
    yield f"clips: {size}, base model, 400 classes; medians of {rounds} rounds of {clock.__name__.replace('_', ' ')}"
    yield "largest difference of logits: " + ", ".join(f"{value:.1e} ({name})" for name, value in differences.items())
    yield "measured peak of a matrix product: " + ", ".join(
        f"{peak / 1e12:.2f} TFLOP/s ({precision})" for precision, peak in peaks.items()
    )
    operations = {name: count_operations(model, clip) for name, model in models.items()}
    for passes, title in ((3, "training step"), (1, "inference")):
        training = passes > 1
        yield ""
        columns = ["seconds", "clips/s", f"times {rows[0].implementation}", "times Hugging Face"]
        yield from header([title, *columns, "memory (GB)", "utilisation"])
        shown = [one for one in rows if training or one.recompute == "none"]
        times = time_in_turn({one: one.prepare(models, clip, training) for one in shown}, rounds, device, clock)
        for one, seconds in times.items():
            if not seconds:
                yield row([one, "out of memory", *["-"] * 5])
                continue
            median, peer = statistics.median(seconds), times.get(Contender(HUGGING_FACE, one.precision), [])
            cells = [f"{median:.3f}", f"{size.batch_size / median:.2f}"]
            cells += [format_speedup(times[shown[0]], seconds), format_speedup(peer, seconds)]
            cells += [measure_memory(size, one, training) if memory else "-"]
            rate = passes * operations[one.implementation] / median
            yield row([one, *cells, f"{100 * rate / peaks[one.precision]:.0f} %"])


def data_lines(
    size: Size, files: Sequence[Path], folder: Path, workers: int, steps: int, precision: str, threads: int = 0
) -> Iterator[str]:
    """The share of time that training waits for clips of these files, over `steps` steps after one to warm up."""
    device = select_device(threads)
    paths = [files[index % len(files)] for index in range((steps + 1) * size.batch_size)]
    cfg = dataset_of(paths, folder)
    cfg.TRAIN.BATCH_SIZE, cfg.DATA_LOADER.NUM_WORKERS = size.batch_size, workers
    cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE = size.frames, size.crop
    cfg.DATA.TRAIN_JITTER_SCALES = [size.crop * 8 // 7, size.crop * 10 // 7]
    loader = construct_loader(cfg, "train")
    set_epoch(loader, 0)
    model = build_models(size, device)[OURS]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    waited = started = step_end = 0.0
    for index, batch in enumerate(prefetch_to_device(loader, device)):
        waited += time.perf_counter() - step_end
        with autocast(batch["clip"], precision):
            logits = model(normalize_clips(batch["clip"], cfg, device))
        nn.functional.cross_entropy(logits.float(), batch["label"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        if index == 0:
            synchronize(device)
            waited, started = 0.0, time.perf_counter()
        step_end = time.perf_counter()
    synchronize(device)
    seconds = time.perf_counter() - started
    yield describe_machine(device)
    rate, share = steps * size.batch_size / seconds, 100 * waited / seconds
    yield (
        f"Training on files, {size}, in {precision}, with {workers} DataLoader workers: {rate:.2f} clips/s over "
        f"{steps} steps, {share:.1f} % of the time waiting for data."
    )


def measure_memory(size: Size, contender: Contender, training: bool) -> str:
    """Peak memory of a contender in a fresh process, in gigabytes; "-" if it runs out of memory."""
    try:
        peak = run_in_subprocess(str(contender), _peak_of, size, contender, training, torch.get_num_threads())
    except UserError:
        return "-"
    return f"{peak / 1e9:.2f}"


def _peak_of(size: Size, contender: Contender, training: bool, threads: int) -> int:
    device = select_device(threads)
    model = build_models(size, CPU)[contender.implementation].to(device)
    reset_peak_memory(device)
    run = contender.prepare({contender.implementation: model}, random_clip(size, device), training)
    for _ in range(2):  # the optimizer's state is created by the first step
        run()
    return peak_memory(device)


def format_speedup(baseline: Sequence[float], seconds: Sequence[float]) -> str:
    """How many times as fast as the baseline: median (lowest to highest) of the rounds."""
    if not baseline:
        return "-"
    ratios = speedups(baseline, seconds)
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


@torch.no_grad()
def count_operations(model: nn.Module, clip: torch.Tensor) -> int:
    """Floating-point operations of the matrix products in a forward pass, two per multiply-add."""
    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_operations}
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        logits_of(model.eval(), clip)
    return counter.get_total_flops()


def _attention_operations(q: Sequence[int], k: Sequence[int], *_: Any, **__: Any) -> int:
    """For shapes [batch, heads, tokens, d]; PyTorch's counter lacks the CPU's kernel."""
    return 4 * math.prod(q) * k[-2]


def matmul_peak(precision: str, device: torch.device) -> float:
    """Operations per second of the fastest of ten products of two large square matrices."""
    side, dtype = 8192 if device.type == "cuda" else 2048, torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    (seconds,) = time_in_turn({"": lambda: left @ right}, 10, device, clock_for(device)).values()
    return 2 * side**3 / min(seconds)
