"""Models of configurations: parameters, operations, time and memory; size and time of their checkpoints."""

import statistics
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from timesformer.benchmarks.tables import header, row
from timesformer.benchmarks.timing import clock_of, describe_machine, run_in_subprocess, select_device, time_in_turn
from timesformer.benchmarks.training import make_run
from timesformer.config import load_config
from timesformer.engine.checkpoint import Stateful, is_undamaged, save
from timesformer.engine.optim import ModelEma, construct_optimizer
from timesformer.engine.progress import Progress
from timesformer.errors import counted
from timesformer.models import build_model
from timesformer.models.complexity import count_multiply_adds, count_parameters
from timesformer.runtime.device import peak_memory

_OPTIMIZERS = {"SGD with momentum": "sgd", "AdamW": "adamw", "AdamW, average of the weights": "adamw"}


def model_table(paths: Sequence[Path], timed: bool, batch_size: int, rounds: int, threads: int) -> Iterator[str]:
    """Table with a row for each configuration; with time and memory if `timed`, each measured in a fresh process."""
    caption = ""
    columns = ["configuration", "model", "attention", "clip", "classes", "parameters (M)", "GFLOPs"]
    if timed:
        columns += ["forward (ms/clip)", "training step (ms/clip)", "peak memory (GB)"]
        device = select_device(threads)
        memory = "allocated on the GPU" if device.type == "cuda" else "of the whole process, PyTorch included"
        caption = (
            f"{describe_machine(device)}; clips at once: {batch_size}, float32, median of "
            f"{counted(rounds, 'round')} of {clock_of(device)[1]}; forward at DATA.TEST_CROP_SIZE, training step (SGD) "
            f"at DATA.TRAIN_CROP_SIZE, peak of memory {memory}."
        )
    yield from header(caption, columns, text_columns=4)
    for path in paths:
        cfg = load_config(path, check_values=False)
        with torch.device("meta"):
            model = build_model(cfg, fresh=True)
        frames, crop = cfg.DATA.NUM_FRAMES, cfg.DATA.TEST_CROP_SIZE
        operations = count_multiply_adds(model, (1, 3, frames, crop, crop))
        attention = getattr(getattr(model, "model", model), "attention_type", "-")
        cells = [path, cfg.MODEL.MODEL_NAME, attention, f"{frames}x{cfg.DATA.SAMPLING_RATE}, {crop}"]
        cells += [cfg.MODEL.NUM_CLASSES, f"{count_parameters(model) / 1e6:.2f}", f"{operations / 1e9:.2f}"]
        if timed:
            cells += run_in_subprocess(_measure, cfg, batch_size, rounds, threads) or ["out of memory", "-", "-"]
        yield row(cells)


def _measure(cfg: CfgNode, batch_size: int, rounds: int, threads: int) -> list[str]:
    """The cells of median time per clip of a forward pass and of a training step, and of peak memory."""
    device = select_device(threads)
    model = build_model(cfg, fresh=True).to(device)
    cells = []
    for crop, training in ((cfg.DATA.TEST_CROP_SIZE, False), (cfg.DATA.TRAIN_CROP_SIZE, True)):
        clip = torch.randn(batch_size, 3, cfg.DATA.NUM_FRAMES, crop, crop, device=device)
        seconds = time_in_turn({"": make_run(model, clip, training)}, rounds, device, clock_of(device)[0])[""]
        cells.append(f"{1e3 * statistics.median(seconds) / batch_size:.1f}" if seconds else "out of memory")
    return [*cells, f"{peak_memory(device) / 1e9:.2f}"]


def checkpoint_table(cfg: CfgNode, rounds: int) -> Iterator[str]:
    """Table of the checkpoints of a configuration's model, written to OUTPUT_DIR, with and without checksums.

    Medians of processor time, which other processes disturb less; the last column is the shortest wall-clock time.
    """
    cfg = cfg.clone()
    cfg.NUM_GPUS = 0
    model = build_model(cfg)
    columns = ["MB", "write", "without sums", "check", "load", "write, with the disk"]
    yield from header(describe_machine(), [f"{count_parameters(model) / 1e6:.0f} M parameters", *columns])
    for name, method in _OPTIMIZERS.items():
        cfg.SOLVER.OPTIMIZING_METHOD = method
        optimizer = construct_optimizer(model, cfg)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # creates the optimizer's state
        parts: dict[str, Stateful] = {"model": model, "optimizer": optimizer}
        if "average" in name:
            parts["ema"] = ModelEma(model, cfg.EMA.DECAY)
        write = partial(save, cfg, parts, Progress(epoch=1))
        seconds: dict[object, list[float]] = {}
        for checksums in (False, True):  # True is the default
            torch.serialization.set_crc32_options(checksums)
            seconds |= time_in_turn({checksums: write}, rounds, clock=time.process_time)
        path = write()
        load = partial(torch.load, path, map_location="cpu", weights_only=True)
        seconds |= time_in_turn({"check": partial(is_undamaged, path), "load": load}, rounds, clock=time.process_time)
        shown = [statistics.median(seconds[key]) for key in (True, False, "check", "load")]
        shown.append(min(time_in_turn({"": write}, rounds)[""]))
        yield row([name, f"{path.stat().st_size / 1e6:.0f}", *(f"{value:.2f} s" for value in shown)])
        path.unlink()
