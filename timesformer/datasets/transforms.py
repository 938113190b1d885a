"""From whole frames to a square clip: scale, crop and flip, on tensors whose last two dimensions are (H, W).

Clips are (A, B, H, W), where A and B are time and channels in any order, of dtype uint8 (0..255) or float. The rules,
and the order in which random numbers are drawn, are those of facebookresearch/TimeSformer, with one addition: a frame
that is smaller than the crop is enlarged to fit, so that every clip of a batch has the same size.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CENTER = 1  # spatial_idx of the centre crop


def resize(clip: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale every frame to `size` (height, width) bilinearly; dtype is kept."""
    if clip.shape[-2:] == size:
        return clip
    return F.interpolate(clip, size=size, mode="bilinear", align_corners=False)


def resize_short_side(clip: Tensor, size: int) -> Tensor:
    """Scale every frame so that its shorter side has `size` pixels; the other side is rounded down."""
    height, width = clip.shape[-2:]
    short = min(height, width)
    return resize(clip, (math.floor(height / short * size), math.floor(width / short * size)))


def random_short_side_scale_jitter(
    clip: Tensor, min_size: int, max_size: int, rng: np.random.RandomState, inverse_uniform_sampling: bool = False
) -> Tensor:
    """Scale the shorter side to a size drawn from min_size..max_size, or from its inverses if that is asked for."""
    if inverse_uniform_sampling:
        size = round(1.0 / rng.uniform(1.0 / max_size, 1.0 / min_size))
    else:
        size = round(rng.uniform(min_size, max_size))
    return resize_short_side(clip, size)


def random_crop(clip: Tensor, size: int, rng: np.random.RandomState) -> Tensor:
    """Cut a square of `size` pixels from a random place, the same in all frames."""
    clip = _at_least(clip, size)
    height, width = clip.shape[-2:]
    # The last possible place is never drawn; kept, as a seed would otherwise give another crop than the original's.
    top = int(rng.randint(0, height - size)) if height > size else 0
    left = int(rng.randint(0, width - size)) if width > size else 0
    return clip[..., top : top + size, left : left + size]


def uniform_crop(clip: Tensor, size: int, spatial_idx: int) -> Tensor:
    """Cut a square of `size` pixels at the left (top if the frame is tall), centre or right (bottom): 0, 1 or 2."""
    clip = _at_least(clip, size)
    height, width = clip.shape[-2:]
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if height > width:
        top = (0, top, height - size)[spatial_idx]
    else:
        left = (0, left, width - size)[spatial_idx]
    return clip[..., top : top + size, left : left + size]


def horizontal_flip(clip: Tensor, probability: float, rng: np.random.RandomState) -> Tensor:
    """Mirror the clip left to right with this probability."""
    return clip.flip(-1) if rng.uniform() < probability else clip


def spatial_sampling(
    clip: Tensor,
    spatial_idx: int,
    min_scale: int,
    max_scale: int,
    crop_size: int,
    rng: np.random.RandomState,
    random_horizontal_flip: bool = True,
    inverse_uniform_sampling: bool = False,
) -> Tensor:
    """Make a clip of crop_size x crop_size pixels.

    spatial_idx -1: training: jitter of the short side in min_scale..max_scale, random crop, random flip.
    spatial_idx 0, 1, 2: testing: short side scaled to min_scale (= max_scale), crop left/top, centre, right/bottom.
    """
    if spatial_idx == -1:
        clip = random_short_side_scale_jitter(clip, min_scale, max_scale, rng, inverse_uniform_sampling)
        clip = random_crop(clip, crop_size, rng)
        return horizontal_flip(clip, 0.5, rng) if random_horizontal_flip else clip
    return uniform_crop(resize_short_side(clip, min_scale), crop_size, spatial_idx)


def tensor_normalize(clip: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std per channel of (..., C, T, H, W), where uint8 values are first divided by 255. Any device."""
    values = clip.float() / 255.0 if clip.dtype == torch.uint8 else clip
    shape = (-1, 1, 1, 1)
    return (values - values.new_tensor(mean).view(shape)) / values.new_tensor(std).view(shape)


def _at_least(clip: Tensor, size: int) -> Tensor:
    return resize_short_side(clip, size) if min(clip.shape[-2:]) < size else clip
