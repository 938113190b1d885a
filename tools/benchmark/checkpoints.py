"""Checkpoints: their size, and the seconds to write, check and load them."""

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from fvcore.common.config import CfgNode

from timesformer.engine.checkpoint import Stateful, is_undamaged, save
from timesformer.engine.optim import ModelEma, construct_optimizer
from timesformer.engine.progress import Progress
from timesformer.models import build_model
from timesformer.models.complexity import count_parameters
from tools.benchmark.tables import header, row
from tools.benchmark.timing import describe_machine, time_in_turn

_OPTIMIZERS = {"SGD with momentum": "sgd", "AdamW": "adamw", "AdamW, average of the weights": "adamw"}


def checkpoint_table(cfg: CfgNode, rounds: int) -> Iterator[str]:
    """Table of the checkpoints of a configuration's model, written to its OUTPUT_DIR.

    Medians of processor time, which other processes disturb less; the last column is the shortest wall-clock time.
    "Without sums" writes without checksums of the tensors.
    """
    cfg = cfg.clone()
    cfg.NUM_GPUS = 0
    torch.manual_seed(0)
    model = build_model(cfg)
    yield describe_machine()
    yield ""
    parameters = f"{count_parameters(model) / 1e6:.0f} M parameters"
    yield from header([parameters, "MB", "write", "without sums", "check", "load", "write, with the disk"])
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
        without = time_in_turn({"": partial(_without_checksums, write)}, rounds, clock=time.process_time)
        path = write()
        load = partial(torch.load, path, map_location="cpu", weights_only=True)
        runs = {"write": write, "check": partial(is_undamaged, path), "load": load}
        taken = {**time_in_turn(runs, rounds, clock=time.process_time), "without": without[""]}
        seconds = [statistics.median(taken[key]) for key in ("write", "without", "check", "load")]
        seconds += [min(time_in_turn({"": write}, rounds)[""])]
        yield row([name, f"{path.stat().st_size / 1e6:.0f}", *(f"{value:.2f} s" for value in seconds)])
        path.unlink()


def _without_checksums(write: Callable[[], object]) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        write()
    finally:
        torch.serialization.set_crc32_options(True)
