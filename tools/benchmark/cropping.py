"""Processor time from decoded frames to a normalised clip, in the order of this project and of the original."""

import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from timesformer.config import get_cfg
from timesformer.datasets.transforms import spatial
from tools.benchmark.made_clips import moving_scene
from tools.benchmark.tables import header, row
from tools.benchmark.timing import one_core, time_in_turn

CLIPS = 5
"""Clips that one way makes before the other way's turn, so that caches hold its own data."""
_DATA = get_cfg().DATA


def crop_table(rounds: int, num_frames: int = 8, width: int = 340, height: int = 256) -> Iterator[str]:
    """Table of both orders; medians over `rounds`."""
    yield (
        f"Clips of {num_frames} frames of {width}x{height} pixels, scaled, cropped, in training mirrored half of the "
        f"time, and normalised, in processor time of one core: medians of {rounds} rounds of {CLIPS} clips, both ways "
        "in turn."
    )
    yield ""
    columns = ["clip", "whole float frames first (ms)", "this project (ms)", "share"]
    yield from header([*columns, "largest difference (levels of 255)"])
    frames = np.stack(list(moving_scene(num_frames, width, height)))
    low, high, size = *_DATA.TRAIN_JITTER_SCALES, _DATA.TRAIN_CROP_SIZE
    for training, name in (
        (True, f"training: short side {low} to {high}, {size}x{size} at random"),
        (False, f"testing: short side {size}, the centre"),
    ):
        runs = {
            crop: lambda crop=crop, training=training: [crop(frames, training, seed) for seed in range(CLIPS)]
            for crop in (crop_floats, crop_bytes)
        }
        with one_core():
            seconds = time_in_turn(runs, rounds, clock=time.process_time)
        floats, ours = (statistics.median(times) / CLIPS for times in seconds.values())
        difference = max(largest_difference(frames, training, seed) for seed in range(CLIPS))
        yield row([name, f"{1e3 * floats:.1f}", f"{1e3 * ours:.1f}", f"{ours / floats:.2f}", f"{difference:.2f}"])


def largest_difference(frames: np.ndarray, training: bool, seed: int) -> float:
    """Largest difference of a pixel between both orders before normalisation, in levels of 255."""
    difference = crop_bytes(frames, training, seed) - crop_floats(frames, training, seed)
    return float((difference * torch.tensor(_DATA.STD).view(-1, 1, 1, 1) * 255).abs().max())


def crop_bytes(frames: np.ndarray, training: bool, seed: int) -> Tensor:
    """Crops uint8 frames [T, H, W, 3], then normalises, as this project does: float32 [3, T, size, size]."""
    size, rng = _DATA.TRAIN_CROP_SIZE, np.random.RandomState(seed)
    view, scales = (-1, _DATA.TRAIN_JITTER_SCALES) if training else (spatial.CENTER, (size, size))
    clip = spatial.spatial_sampling(torch.from_numpy(frames).permute(0, 3, 1, 2), view, *scales, size, rng)
    return spatial.tensor_normalize(clip.transpose(0, 1).contiguous(), _DATA.MEAN, _DATA.STD)


def crop_floats(frames: np.ndarray, training: bool, seed: int) -> Tensor:
    """The same clip in the order of facebookresearch/TimeSformer: normalise, scale whole frames, then crop."""
    size, rng = _DATA.TRAIN_CROP_SIZE, np.random.RandomState(seed)
    clip = (torch.from_numpy(frames).float() / 255 - torch.tensor(_DATA.MEAN)) / torch.tensor(_DATA.STD)
    clip = clip.permute(3, 0, 1, 2)
    if training:
        clip = spatial.random_short_side_scale_jitter(clip, *_DATA.TRAIN_JITTER_SCALES, rng)
        return spatial.horizontal_flip(spatial.random_crop(clip, size, rng), 0.5, rng).contiguous()
    return spatial.uniform_crop(spatial.resize_short_side(clip, size), size, spatial.CENTER).contiguous()
