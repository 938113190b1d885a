"""What a checkpoint costs: its size, and the seconds to write, check and load it."""

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from timesformer.config import get_cfg
from timesformer.engine.checkpoint import Progress, is_undamaged, save
from timesformer.engine.update import Update
from timesformer.models import build_model
from timesformer.models.complexity import count_parameters
from tools.benchmark.machine import describe_machine

_KINDS = {"SGD with momentum": "sgd", "AdamW": "adamw", "AdamW, average of the weights": "adamw"}


def checkpoint_table(cfg: CfgNode, rounds: int) -> Iterator[str]:
    """Lines of a Markdown table of the checkpoints of a configuration's model with several optimizers.

    They are written to its OUTPUT_DIR, `rounds` times each: medians of the processor's time, which other work on the
    machine disturbs less, and the shortest time that writing took, with the disk's part. "Without sums" is writing
    without the check sums of the tensors.
    """
    cfg = cfg.clone()
    cfg.NUM_GPUS = 0
    torch.manual_seed(0)
    model = build_model(cfg)
    yield describe_machine()
    yield ""
    parameters = f"{count_parameters(model) / 1e6:.0f} M parameters"
    yield f"| {parameters} | MB | write | without sums | check | load | write, with the disk |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for kind, method in _KINDS.items():
        cfg.SOLVER.OPTIMIZING_METHOD, cfg.EMA.ENABLED = method, "average" in kind
        update = Update(cfg, model)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        update.step(0.0)  # so that there are moments
        parts = {"model": model, **update.parts}
        path = save(cfg, parts, Progress(epoch=1))
        ways: list[Callable[[], object]] = [
            lambda parts=parts: _save_without_sums(cfg, parts),
            lambda parts=parts: save(cfg, parts, Progress(epoch=1)),
            lambda path=path: _check(path),
            lambda path=path: torch.load(path, map_location="cpu", weights_only=True),
        ]
        without, write, check, load = ([_seconds(way) for _ in range(rounds)] for way in ways)
        figures = [statistics.median(busy for busy, _ in taken) for taken in (write, without, check, load)]
        figures.append(min(whole for _, whole in write))
        yield f"| {kind} | {path.stat().st_size / 1e6:.0f} | {' | '.join(f'{figure:.2f} s' for figure in figures)} |"
        path.unlink()


def default_run(folder: Path) -> CfgNode:
    """The base model of the defaults, which is saved in this folder."""
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    return cfg


def _check(path: Path) -> None:
    assert is_undamaged(path)


def _save_without_sums(cfg: CfgNode, parts: dict) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        save(cfg, parts, Progress(epoch=1))
    finally:
        torch.serialization.set_crc32_options(True)


def _seconds(way: Callable[[], object]) -> tuple[float, float]:
    """Of the processor, and in all."""
    busy, start = time.process_time(), time.perf_counter()
    way()
    return time.process_time() - busy, time.perf_counter() - start
