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
from fvcore.common.config import CfgNode
from torch import Tensor

CENTER = 1  # spatial_idx of the centre crop
_WASTE = 16  # times the pixels of a crop that may be computed beside it; a panorama of 4:1 takes less


def resize(clip: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale every frame to `size` (height, width) bilinearly; dtype is kept."""
    if clip.shape[-2:] == size:
        return clip
    return F.interpolate(clip, size=size, mode="bilinear", align_corners=False)


def resize_short_side(clip: Tensor, size: int) -> Tensor:
    """Scale every frame so that its shorter side has `size` pixels; the other side is rounded down."""
    return resize(clip, _scaled(clip, size))


def resized_crop(clip: Tensor, size: tuple[int, int], top: int, left: int, crop_size: int) -> Tensor:
    """What `resize` to `size` and then cutting crop_size x crop_size pixels at (top, left) gives, at less cost.

    Source pixels beyond the far corner of the crop are left out. Those before its near corner are not: positions are
    computed from the corner of the frame, and would not be the same ones from another corner. Where those would be by
    far the most, as in a frame that is a thousand times as wide as high, only the crop's pixels are computed, with
    values that may differ by rounding.
    """
    if clip.shape[-2:] != size:
        if (top + crop_size) * (left + crop_size) > _WASTE * crop_size**2:
            return _crop_alone(clip, size, top, left, crop_size)
        parts, ends, scales = [], [], []
        for old, new, end in zip(clip.shape[-2:], size, (top + crop_size, left + crop_size), strict=True):
            # A pixel is made of two of the source: the second is less than a pixel past where the crop ends.
            parts.append(min(math.ceil(end * old / new) + 1, old))
            # PyTorch leaves a side as it is, whatever its scale, if its sizes before and after are equal.
            ends.append(end + 1 if parts[-1] == end < new else end)
            scales.append(new / old)
        # F.interpolate takes either sizes or scales; here the sizes are those of a part, the scales of the whole.
        part = clip[..., : parts[0], : parts[1]]
        clip = torch.ops.aten.upsample_bilinear2d(part, ends, False, *scales)
    return clip[..., top : top + crop_size, left : left + crop_size]


def _crop_alone(clip: Tensor, size: tuple[int, int], top: int, left: int, crop_size: int) -> Tensor:
    """The crop of `resized_crop`, at a cost that does not depend on where it lies."""
    sides = zip((-2, -1), size, (top, left), strict=True)
    dtype = clip.dtype
    for dim, new, start in sorted(sides, key=lambda side: -clip.shape[side[0]]):  # the longer one shrinks first
        old = clip.shape[dim]
        at = ((torch.arange(start, start + crop_size, dtype=torch.float64) + 0.5) * old / new - 0.5).clamp(0, old - 1)
        first = at.long()
        share = (at - first).float().view(-1, *[1] * (-dim - 1))
        second = clip.index_select(dim, (first + 1).clamp(max=old - 1)).float()
        clip = clip.index_select(dim, first).float().lerp(second, share)
    return clip if dtype.is_floating_point else clip.round().to(dtype)


def random_short_side_scale_jitter(
    clip: Tensor, min_size: int, max_size: int, rng: np.random.RandomState, inverse_uniform_sampling: bool = False
) -> Tensor:
    """Scale the shorter side to a size drawn from min_size..max_size, or from its inverses if that is asked for."""
    return resize_short_side(clip, _jittered(min_size, max_size, rng, inverse_uniform_sampling))


def random_crop(clip: Tensor, size: int, rng: np.random.RandomState) -> Tensor:
    """Cut a square of `size` pixels from a random place, the same in all frames."""
    full = _scaled(clip, max(size, min(clip.shape[-2:])))
    return resized_crop(clip, full, *_random_place(full, size, rng), size)


def uniform_crop(clip: Tensor, size: int, spatial_idx: int) -> Tensor:
    """Cut a square of `size` pixels at the left (top if the frame is tall), centre or right (bottom): 0, 1 or 2."""
    full = _scaled(clip, max(size, min(clip.shape[-2:])))
    return resized_crop(clip, full, *_uniform_place(full, size, spatial_idx), size)


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
    training = spatial_idx == -1
    short = _jittered(min_scale, max_scale, rng, inverse_uniform_sampling) if training else min_scale
    full = _scaled(clip, max(short, crop_size))
    place = _random_place(full, crop_size, rng) if training else _uniform_place(full, crop_size, spatial_idx)
    clip = resized_crop(clip, full, *place, crop_size)
    return horizontal_flip(clip, 0.5, rng) if training and random_horizontal_flip else clip


def tensor_normalize(clip: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std per channel of (..., C, T, H, W), where uint8 values are first divided by 255. Any device."""
    if clip.dtype == torch.uint8:  # scaling these few numbers instead of the clip, in place, takes half the time
        values = clip.float()
        return values.sub_(_by_channel(mean, values).mul_(255.0)).div_(_by_channel(std, values).mul_(255.0))
    return (clip - _by_channel(mean, clip)) / _by_channel(std, clip)


def _by_channel(numbers: Sequence[float], like: Tensor) -> Tensor:
    """The numbers as (C, 1, 1, 1). Filled in on the device, because copying them there would wait for it."""
    return torch.cat([like.new_full((1, 1, 1, 1), number) for number in numbers])


def _scaled(clip: Tensor, short_side: int) -> tuple[int, int]:
    """Height and width with a shorter side of `short_side` pixels; the other side is rounded down."""
    height, width = clip.shape[-2:]
    short = min(height, width)
    if short == short_side:  # else rounding could take a pixel off the other side
        return height, width
    return math.floor(height / short * short_side), math.floor(width / short * short_side)


def _jittered(min_size: int, max_size: int, rng: np.random.RandomState, inverse: bool) -> int:
    if inverse:
        return round(1.0 / rng.uniform(1.0 / max_size, 1.0 / min_size))
    return round(rng.uniform(min_size, max_size))


def _random_place(full: tuple[int, int], size: int, rng: np.random.RandomState) -> tuple[int, int]:
    """Top and left of a square of `size` in a frame of `full` (height, width) pixels."""
    # The last possible place is never drawn; kept, as a seed would otherwise give another crop than the original's.
    top, left = (int(rng.randint(0, side - size)) if side > size else 0 for side in full)
    return top, left


def _uniform_place(full: tuple[int, int], size: int, spatial_idx: int) -> tuple[int, int]:
    """Top and left of the square of `size` at the start, centre or end (0, 1, 2) of the longer side of a frame."""
    height, width = full
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if height > width:
        return (0, top, height - size)[spatial_idx], left
    return top, (0, left, width - size)[spatial_idx]


def normalize_clips(clip: Tensor, cfg: CfgNode, device: torch.device) -> Tensor:
    """A uint8 batch [batch, 3, frames, height, width] moved to the device and normalised there, float32."""
    return tensor_normalize(clip.to(device, non_blocking=True), cfg.DATA.MEAN, cfg.DATA.STD)
