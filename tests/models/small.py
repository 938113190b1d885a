"""Small models with random weights, none of which is zero, so that a tensor in the wrong place shows."""

from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from timesformer.models.videomae import VideoMAETransformer
from timesformer.models.vit import VisionTransformer
from timesformer.models.vivit import VideoTransformer

Model = TypeVar("Model", bound=nn.Module)
SIZE = {"img_size": 32, "num_classes": 5, "embed_dim": 24, "depth": 2, "num_heads": 4, "num_frames": 4}


def randomize(model: Model, seed: int = 0, std: float = 0.2) -> Model:
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random) * std
    return model.eval()


def small_timesformer(
    attention_type: str = "divided_space_time", seed: int = 0, **changes: object
) -> VisionTransformer:
    options = SIZE | {"patch_size": 8, "qkv_bias": True, "norm_layer": partial(nn.LayerNorm, eps=1e-6)} | changes
    return randomize(VisionTransformer(**options, attention_type=attention_type), seed)


def small_vivit(attention_type: str = "joint", seed: int = 0, **changes: object) -> VideoTransformer:
    options = SIZE | {"tubelet_size": (2, 8, 8), "temporal_depth": 1} | changes
    return randomize(VideoTransformer(**options, attention_type=attention_type), seed)


def small_videomae(seed: int = 0, **changes: object) -> VideoMAETransformer:
    return randomize(VideoMAETransformer(**SIZE | {"tubelet_size": (2, 8, 8)} | changes), seed)


def small_clip(frames: int = 4, size: int = 32) -> Tensor:
    return torch.randn(2, 3, frames, size, size, generator=torch.Generator().manual_seed(1))


def save(content: object, folder: Path) -> Path:
    path = folder / "weights.pyth"
    torch.save(content, path)
    return path
