"""Where a run computes, and in which precision."""

from contextlib import AbstractContextManager

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from timesformer.datasets.transforms import tensor_normalize


def choose_device(cfg: CfgNode) -> torch.device:
    """The CPU for NUM_GPUS 0, else the current GPU."""
    return torch.device("cuda" if cfg.NUM_GPUS > 0 else "cpu")


def autocast(cfg: CfgNode, device: torch.device) -> AbstractContextManager:
    """The context for forward passes under TRAIN.MIXED_PRECISION."""
    return torch.autocast(device.type, torch.bfloat16, enabled=cfg.TRAIN.MIXED_PRECISION == "bf16")


def normalized(clip: Tensor, cfg: CfgNode, device: torch.device) -> Tensor:
    """A uint8 batch [batch, 3, frames, height, width] moved to the device and normalised there, float32."""
    return tensor_normalize(clip.to(device, non_blocking=True), cfg.DATA.MEAN, cfg.DATA.STD)
