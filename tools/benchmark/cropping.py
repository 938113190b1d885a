"""Processor time from decoded frames to a normalised clip: in this project's order, and whole float frames first."""

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from timesformer.config import get_cfg
from timesformer.datasets.transforms.spatial import (
    CENTER,
    horizontal_flip,
    random_crop,
    random_short_side_scale_jitter,
    resize_short_side,
    spatial_sampling,
    tensor_normalize,
    uniform_crop,
)
from tools.benchmark.machine import one_core
from tools.benchmark.made_clips import scene

Transform = Callable[[np.ndarray, bool, np.random.RandomState], Tensor]

CLIPS = 5
"""Clips that each way makes in a row: the memory of the other one is then out of its way."""

_DATA = get_cfg().DATA


def crop_table(rounds: int, num_frames: int = 8, width: int = 340, height: int = 256) -> Iterator[str]:
    """Lines of a Markdown table below a line that says what was measured; medians over `rounds`, in turn."""
    yield (
        f"Clips of {num_frames} frames of {width}x{height} pixels, scaled, cropped, in training mirrored half of the "
        f"time, and normalised, in processor time of one core: medians of {rounds} rounds of {CLIPS} clips, both ways "
        "in turn."
    )
    yield ""
    yield "| clip | whole float frames first (ms) | this project (ms) | share | largest difference (levels of 255) |"
    yield "|---|---:|---:|---:|---:|"
    frames = np.stack(list(scene(num_frames, width, height)))
    low, high = _DATA.TRAIN_JITTER_SCALES
    names = {
        True: f"training: short side {low} to {high}, {_DATA.TRAIN_CROP_SIZE}x{_DATA.TRAIN_CROP_SIZE} at random",
        False: f"testing: short side {_DATA.TRAIN_CROP_SIZE}, the centre",
    }
    with one_core():
        for training, name in names.items():
            whole, ours, difference = compare(frames, training, rounds)
            yield f"| {name} | {1e3 * whole:.1f} | {1e3 * ours:.1f} | {ours / whole:.2f} | {difference:.2f} |"


def compare(frames: np.ndarray, training: bool, rounds: int) -> tuple[float, float, float]:
    """Median seconds of both ways, and the largest difference of a pixel before normalisation, in levels of 255."""
    levels = torch.tensor(_DATA.STD).view(-1, 1, 1, 1) * 255
    seconds: dict[Transform, list[float]] = {whole_float_frames_first: [], this_project: []}
    difference = 0.0
    for first in range(0, rounds * CLIPS, CLIPS):
        seeds = range(first, first + CLIPS)
        for transform, times in seconds.items():
            start = time.process_time()
            for seed in seeds:
                transform(frames, training, np.random.RandomState(seed))
            times.append((time.process_time() - start) / CLIPS)
        whole, ours = (transform(frames, training, np.random.RandomState(first)) for transform in seconds)
        difference = max(difference, float(((whole - ours) * levels).abs().max()))
    whole_s, ours_s = (statistics.median(times) for times in seconds.values())
    return whole_s, ours_s, difference


def this_project(frames: np.ndarray, training: bool, rng: np.random.RandomState) -> Tensor:
    """As ClipDataset, and the engine after it, do it: float32 (3, T, H, W)."""
    size, scales = _DATA.TRAIN_CROP_SIZE, _DATA.TRAIN_JITTER_SCALES
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)
    if training:
        clip = spatial_sampling(clip, -1, *scales, size, rng)
    else:
        clip = spatial_sampling(clip, CENTER, size, size, size, rng)
    return tensor_normalize(clip.transpose(0, 1).contiguous(), _DATA.MEAN, _DATA.STD)


def whole_float_frames_first(frames: np.ndarray, training: bool, rng: np.random.RandomState) -> Tensor:
    """The same clip in the order of facebookresearch/TimeSformer: normalise, scale whole frames, then crop."""
    clip = (torch.from_numpy(frames).float() / 255 - torch.tensor(_DATA.MEAN)) / torch.tensor(_DATA.STD)
    clip = clip.permute(3, 0, 1, 2)
    if training:
        clip = random_short_side_scale_jitter(clip, *_DATA.TRAIN_JITTER_SCALES, rng)
        return horizontal_flip(random_crop(clip, _DATA.TRAIN_CROP_SIZE, rng), 0.5, rng).contiguous()
    return uniform_crop(resize_short_side(clip, _DATA.TRAIN_CROP_SIZE), _DATA.TRAIN_CROP_SIZE, CENTER).contiguous()
