"""From whole frames to a square clip: scale, crop and flip.

Clips are [A, B, height, width], A and B time and channels in any order, uint8 (0 to 255) or float. Rules and order of
random numbers are those of facebookresearch/TimeSformer; frames smaller than the crop are enlarged.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from fvcore.common.config import CfgNode
from numpy.random import RandomState
from torch import Tensor

CENTER = 1  # spatial_idx of the center crop
MAX_ASPECT_RATIO = 64  # of a frame that is scaled; broken files claim frames of one row, which would take all memory


def resize(clip: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale every frame to `size` (height, width) bilinearly; dtype is kept."""
    if clip.shape[-2:] == size:
        return clip
    return F.interpolate(clip, size=size, mode="bilinear", align_corners=False)


def resize_short_side(clip: Tensor, size: int) -> Tensor:
    """Scale every frame so that its shorter side has `size` pixels; the other side is rounded down."""
    return resize(clip, _scaled(clip, size))


def resized_crop(clip: Tensor, size: tuple[int, int], top: int, left: int, crop_size: int) -> Tensor:
    """Return the pixels of `resize` to `size` and a crop of crop_size x crop_size at (top, left), at less cost.

    Source pixels beyond the far corner of the crop are left out. Those before its near corner are not, because
    positions are computed from the corner of the frame and would be rounded differently.
    """
    if clip.shape[-2:] != size:
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


def random_short_side_scale_jitter(
    clip: Tensor, min_size: int, max_size: int, rng: RandomState, inverse_uniform_sampling: bool = False
) -> Tensor:
    """Scale the shorter side to a size drawn from min_size..max_size, uniformly or uniformly in its inverse."""
    return resize_short_side(clip, _jittered(min_size, max_size, rng, inverse_uniform_sampling))


def random_crop(clip: Tensor, size: int, rng: RandomState) -> Tensor:
    """Cut a square of `size` pixels at a random position, the same in all frames."""
    full = _scaled(clip, max(size, min(clip.shape[-2:])))
    return resized_crop(clip, full, *_random_position(full, size, rng), size)


def uniform_crop(clip: Tensor, size: int, spatial_idx: int) -> Tensor:
    """Cut a square of `size` pixels at the left (top if the frame is tall), center or right (bottom): 0, 1 or 2."""
    full = _scaled(clip, max(size, min(clip.shape[-2:])))
    return resized_crop(clip, full, *_uniform_position(full, size, spatial_idx), size)


def horizontal_flip(clip: Tensor, probability: float, rng: RandomState) -> Tensor:
    """Mirror the clip left to right with this probability."""
    return clip.flip(-1) if rng.uniform() < probability else clip


def spatial_sampling(
    clip: Tensor,
    spatial_idx: int,
    min_scale: int,
    max_scale: int,
    crop_size: int,
    rng: RandomState,
    random_horizontal_flip: bool = True,
    inverse_uniform_sampling: bool = False,
) -> Tensor:
    """Make a clip of crop_size x crop_size pixels.

    spatial_idx -1: training: jitter of the short side in min_scale..max_scale, random crop, random flip.
    spatial_idx 0, 1, 2: testing: short side scaled to min_scale (= max_scale), crop left/top, center, right/bottom.

    Raises ValueError if one side of the frames is more than MAX_ASPECT_RATIO times the other.
    """
    training = spatial_idx == -1
    short = _jittered(min_scale, max_scale, rng, inverse_uniform_sampling) if training else min_scale
    full = _scaled(clip, max(short, crop_size))
    position = _random_position(full, crop_size, rng) if training else _uniform_position(full, crop_size, spatial_idx)
    clip = resized_crop(clip, full, *position, crop_size)
    return horizontal_flip(clip, 0.5, rng) if training and random_horizontal_flip else clip


def normalize_clips(clip: Tensor, cfg: CfgNode, device: torch.device) -> Tensor:
    """Move a uint8 batch [batch, 3, frames, height, width] to the device and normalize it there; float32."""
    return tensor_normalize(clip.to(device, non_blocking=device.type == "cuda"), cfg.DATA.MEAN, cfg.DATA.STD)


def tensor_normalize(clip: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (x - mean) / std per channel of [..., 3, frames, height, width]; uint8 values are divided by 255 first."""
    if clip.dtype == torch.uint8:  # scaling these few numbers instead of the clip, in place, takes half the time
        values = clip.float()
        return values.sub_(_by_channel(mean, values).mul_(255.0)).div_(_by_channel(std, values).mul_(255.0))
    return (clip - _by_channel(mean, clip)) / _by_channel(std, clip)


def _by_channel(numbers: Sequence[float], like: Tensor) -> Tensor:
    # Filled in on the device, because copying them there would wait for it.
    return rearrange([like.new_full((1,), number) for number in numbers], "c 1 -> c 1 1 1")


def _scaled(clip: Tensor, short_side: int) -> tuple[int, int]:
    """Height and width with a shorter side of `short_side` pixels; the other side is rounded down."""
    height, width = clip.shape[-2:]
    short = min(height, width)
    if max(height, width) > MAX_ASPECT_RATIO * short:
        raise ValueError(f"frames of {width}x{height} pixels: one side is over {MAX_ASPECT_RATIO} times the other")
    if short == short_side:  # else rounding could take a pixel off the other side
        return height, width
    return math.floor(height / short * short_side), math.floor(width / short * short_side)


def _jittered(min_size: int, max_size: int, rng: RandomState, inverse: bool) -> int:
    if inverse:
        return round(1.0 / rng.uniform(1.0 / max_size, 1.0 / min_size))
    return round(rng.uniform(min_size, max_size))


def _random_position(full: tuple[int, int], size: int, rng: RandomState) -> tuple[int, int]:
    """Top and left of a random square of `size` in a frame of `full` (height, width) pixels."""
    # The last position is never drawn, as in the original, whose crops a seed should give.
    top, left = (int(rng.randint(0, side - size)) if side > size else 0 for side in full)
    return top, left


def _uniform_position(full: tuple[int, int], size: int, spatial_idx: int) -> tuple[int, int]:
    """Top and left of the square of `size` at the start, center or end (0, 1, 2) of the longer side of a frame."""
    height, width = full
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if height > width:
        return (0, top, height - size)[spatial_idx], left
    return top, (0, left, width - size)[spatial_idx]
