"""Where a run computes, and in which precision."""

from contextlib import AbstractContextManager

import torch
from fvcore.common.config import CfgNode

_LOWER = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(cfg: CfgNode) -> torch.device:
    """The CPU for NUM_GPUS 0, else the current GPU."""
    return torch.device("cuda" if cfg.NUM_GPUS > 0 else "cpu")


def set_float32_precision(cfg: CfgNode) -> None:
    """Lets a GPU's float32 matrix products and convolutions compute in TF32, or not, as TRAIN.TF32 says.

    TF32 has float32's range and 10 bits of mantissa where float32 has 23; sums stay float32. CPUs do not have it.
    """
    if choose_device(cfg).type == "cuda":
        torch.set_float32_matmul_precision("high" if cfg.TRAIN.TF32 else "highest")
        torch.backends.cudnn.allow_tf32 = cfg.TRAIN.TF32


def autocast(cfg: CfgNode, device: torch.device) -> AbstractContextManager:
    """The context for forward passes under TRAIN.MIXED_PRECISION."""
    lower = _LOWER.get(cfg.TRAIN.MIXED_PRECISION)
    return torch.autocast(device.type, lower, enabled=lower is not None)
