"""Device, precision and peak memory of a run, and the copying of batches to the GPU."""

import os
import resource
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from timesformer.errors import UserError

MPS_FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK"
_PIXELS_AT_ONCE = 2**19  # of one channel; a clip of 8 frames with 224 x 224 has 401,408


def choose_device(cfg: CfgNode) -> torch.device:
    """Returns the CPU for NUM_GPUS 0, else the current GPU."""
    return torch.device("cuda" if cfg.NUM_GPUS > 0 else "cpu")


def select_device(name: str | torch.device | None = None) -> torch.device:
    """Returns a device by its name: `cuda`, `cuda:N`, `mps` or `cpu`; None: the CUDA GPU if there is one, else the CPU.

    Raises UserError, which lists the devices that exist, if it cannot be used.
    """
    try:
        found = torch.zeros(1, device=name or ("cuda" if torch.cuda.is_available() else "cpu"))
        found.cpu()  # impossible on "meta", which has no values
        return found.device
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        # PyTorch lists devices that do not exist here, or names its own operators.
        is_unclear = "xpected one of" in reason or isinstance(error, NotImplementedError)
        reason = "" if is_unclear else f" ({reason})"
        raise UserError(f"device {name} cannot be used, expected one of {', '.join(devices())}{reason}") from error


def devices() -> list[str]:
    """Returns the names of the devices that exist here."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def adapt_to_device(cfg: CfgNode, device: torch.device) -> list[str]:
    """Changes the options of a trained model to those of a device; returns notes on differences from its training."""
    cfg.NUM_GPUS = int(device.type == "cuda")
    precision, notes = cfg.TRAIN.MIXED_PRECISION, []
    if (device.type == "mps" and precision != "off") or (device.type == "cpu" and precision == "fp16"):
        cfg.TRAIN.MIXED_PRECISION = "off"
        unsupported = "CPUs do not support" if device.type == "cpu" else "is not used on mps"
        notes.append(f"trained in {precision}, which {unsupported}: computed in float32")
    if device.type == "mps" and os.environ.get(MPS_FALLBACK) != "1":
        notes.append(f"{MPS_FALLBACK} was not 1 when PyTorch was imported: operations that mps lacks are errors")
    return notes


def set_float32_precision(cfg: CfgNode) -> None:
    """Allows TF32 in float32 matrix products and convolutions on a GPU if TRAIN.TF32 is set."""
    if choose_device(cfg).type == "cuda":
        torch.set_float32_matmul_precision("high" if cfg.TRAIN.TF32 else "highest")
        torch.backends.cudnn.allow_tf32 = cfg.TRAIN.TF32


def autocast(cfg: CfgNode, device: torch.device) -> AbstractContextManager:
    """Returns the context for forward passes with TRAIN.MIXED_PRECISION."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(cfg.TRAIN.MIXED_PRECISION)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def prefetch_to_device(batches: Iterable[dict[str, Any]], device: torch.device) -> Iterator[dict[str, Any]]:
    """Yields a loader's batches with `clip`, `label` and `present` on the device.

    `present`, bool [batch], is False for padding clips. Batches in pinned memory are copied while the GPU computes.
    """
    copying = torch.cuda.Stream(device) if device.type == "cuda" else None
    for batch in batches:
        moved = {"clip": batch["clip"], "label": batch["label"], "present": batch["video"]}
        if not copying:
            moved = {name: tensor.to(device) for name, tensor in moved.items()}
        else:
            computing = torch.cuda.current_stream(device)
            with torch.cuda.stream(copying):
                moved = {name: tensor.to(device, non_blocking=True) for name, tensor in moved.items()}
            computing.wait_stream(copying)
            for tensor in moved.values():
                tensor.record_stream(computing)  # its memory must not be reused while the batch is computed
        yield {**batch, **moved, "present": moved["present"] >= 0}


def clips_at_once(clips: torch.Tensor) -> Sequence[torch.Tensor]:
    """Splits a batch [batch, 3, frames, height, width] into the parts that a model is best evaluated on.

    A CPU is up to a quarter faster if the activations of a part fit into its cache; on a GPU, the batch stays whole.
    """
    pixels = clips[0, 0].numel()
    return clips.split(max(1, _PIXELS_AT_ONCE // pixels)) if clips.device.type == "cpu" else [clips]


def reset_peak_memory(device: torch.device) -> None:
    """Restarts the measurement of `peak_memory`, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Returns the peak memory of this process in bytes: allocated on the GPU, or resident in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss starts at the peak of the parent process
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
