"""Clips whose frames are shuffled or averaged, to measure how much a model gains from their order."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

FrameOrder = Literal["original", "shuffled", "averaged"]


def reorder_frames(clips: Tensor, order: FrameOrder, seed: int, videos: Tensor, views: Tensor) -> Tensor:
    """Clips, uint8 [batch, 3, frames, height, width], with their frames in this order.

    "shuffled" permutes the frames of each clip by `shuffled_frames` of `seed` and its entries in `videos` and `views`,
    int64 [batch]. "averaged" replaces each frame by the mean of the clip's frames, rounded to the nearest integer, and
    halfway between two integers to the even one, as np.rint.
    """
    if order == "original":
        return clips
    frames = clips.shape[2]
    if order == "averaged":
        total = clips.sum(dim=2, keepdim=True, dtype=torch.float32)  # exact, unlike the mean on some devices
        return (total / frames).round().to(clips.dtype).expand_as(clips)
    if frames == 1:
        return clips
    keys = zip(videos.tolist(), views.tolist(), strict=True)
    numbers = torch.from_numpy(np.stack([shuffled_frames(frames, seed, *key) for key in keys]))
    return clips.take_along_dim(numbers.to(clips.device)[:, None, :, None, None], dim=2)


def shuffled_frames(frames: int, seed: int, video: int, view: int) -> np.ndarray:
    """A random order of the frames of a view of a video, int64 (frames,); with 2 frames or more never 0, 1, 2, ...

    It depends on the arguments only, so not on the batch, the rank or the DataLoader worker.
    """
    rng, original = np.random.default_rng((seed, video, view)), np.arange(frames)
    shuffled = rng.permutation(frames)
    while frames > 1 and np.array_equal(shuffled, original):
        shuffled = rng.permutation(frames)
    return shuffled
