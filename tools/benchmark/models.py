"""Models of configurations: parameters, operations, time and memory."""

import statistics
from collections.abc import Iterator, Sequence

import torch
from fvcore.common.config import CfgNode

from timesformer.config import load_config
from timesformer.models import build_model
from timesformer.models.complexity import count_multiply_adds, count_parameters
from timesformer.runtime.device import peak_memory
from tools.benchmark.contenders import forward_pass, training_step
from tools.benchmark.tables import header, row
from tools.benchmark.timing import describe_machine, run_in_subprocess, select_device, time_in_turn

_SIZE_COLUMNS = ["configuration", "model", "attention", "clip", "classes", "parameters (M)", "GFLOPs"]
_COST_COLUMNS = ["forward (ms/clip)", "training step (ms/clip)", "peak memory (GB)"]


def model_table(
    paths: Sequence[str], timed: bool, batch_size: int = 1, rounds: int = 5, threads: int = 0, use_gpu: bool = True
) -> Iterator[str]:
    """Table with a row for each configuration; with time and memory if `timed`, each measured in a fresh process.

    Raises:
        UserError: if a configuration cannot be loaded, built or measured.
    """
    device = select_device(threads, use_gpu)
    if timed:
        memory = "allocated on the GPU" if device.type == "cuda" else "of the whole process, PyTorch included"
        yield (
            f"{describe_machine(device)}; clips at once: {batch_size}, float32, median of {rounds}; forward at "
            f"DATA.TEST_CROP_SIZE, training step (SGD) at DATA.TRAIN_CROP_SIZE, peak of memory {memory}."
        )
        yield ""
    yield from header([*_SIZE_COLUMNS, *(_COST_COLUMNS if timed else [])], text_columns=4)
    for path in paths:
        cfg = load_config(path, check_values=False)
        cells = [path, *size_cells(cfg)]
        if timed:
            forward, step, memory = run_in_subprocess(path, measure, cfg, batch_size, rounds, threads, use_gpu)
            cells += [f"{1e3 * forward:.1f}", f"{1e3 * step:.1f}", f"{memory / 1e9:.2f}"]
        yield row(cells)


def size_cells(cfg: CfgNode) -> list[str]:
    """The columns that need no computation: the model is built on the meta device."""
    with torch.device("meta"):
        model = build_model(cfg, fresh=True)
    frames, crop = cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE
    operations = count_multiply_adds(model, (1, 3, frames, crop, crop))
    attention = getattr(getattr(model, "model", model), "attention_type", "-")
    clip, classes = f"{frames}x{cfg.DATA.SAMPLING_RATE}, {crop}", str(cfg.MODEL.NUM_CLASSES)
    sizes = [f"{count_parameters(model) / 1e6:.2f}", f"{operations / 1e9:.2f}"]
    return [cfg.MODEL.MODEL_NAME, attention, clip, classes, *sizes]


def measure(cfg: CfgNode, batch_size: int, rounds: int, threads: int, use_gpu: bool = True) -> tuple[float, float, int]:
    """Median seconds per clip of a forward pass and of a training step, and peak memory in bytes."""
    device = select_device(threads, use_gpu)
    torch.manual_seed(0)
    model = build_model(cfg, fresh=True).to(device)
    medians = []
    for crop, make in ((cfg.DATA.TEST_CROP_SIZE, forward_pass), (cfg.DATA.TRAIN_CROP_SIZE, training_step)):
        clip = torch.randn(batch_size, 3, cfg.DATA.NUM_FRAMES, crop, crop, device=device)
        (seconds,) = time_in_turn({"": make(model, clip)}, rounds, device).values()
        if not seconds:
            raise torch.OutOfMemoryError
        medians.append(statistics.median(seconds) / batch_size)
    return *medians, peak_memory(device)
