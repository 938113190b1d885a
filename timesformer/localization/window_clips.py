"""The clips of one window of a video, from its frames and when they are shown."""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from timesformer.datasets.clips import ClipMaker, clip_rng
from timesformer.datasets.decoding.base import StreamTiming
from timesformer.datasets.transforms.sampling import VideoInfo
from timesformer.datasets.transforms.timeline import Frame, render, renumber


class WindowClipMaker:
    """Samples and crops the frames of a window as if they were a file of their own."""

    def __init__(self, cfg: CfgNode, maker: ClipMaker | None = None) -> None:
        """`cfg` has the options of a test; `maker` is its `ClipMaker`, if there is one."""
        self._maker, self._seed = maker or ClipMaker(cfg, "test"), cfg.RNG_SEED
        self._unused_rng = clip_rng(cfg.RNG_SEED)  # only the frames of a test are random, not the crops
        self._is_stretched = cfg.DATA.PRE_SAMPLING.ENABLED  # frames are mixed before they are cropped

    def prepare(self, image: np.ndarray) -> list[Tensor]:
        """Return what windows need of a frame, uint8 [height, width, 3]: its crops, [1, 3, crop_size, crop_size].

        With DATA.PRE_SAMPLING, it is the frame itself. Raises ValueError or RuntimeError if it cannot be cropped.
        """
        if self._is_stretched:
            return [torch.from_numpy(np.ascontiguousarray(image))]
        crops = range(self._maker.num_crops)
        return [self._maker.crop(image[None], crop, self._unused_rng) for crop in crops]

    def plans(self, info: VideoInfo, numbers: Sequence[int]) -> list[list[Frame]]:
        """Return the frames of each view of a window, made of frames with these numbers."""
        views = range(self._maker.num_views)
        plans = (self._maker.plan(info, view, clip_rng(self._seed, 0, 0, view)) for view in views)
        return [[renumber(frame, numbers) for frame in plan] for plan in plans]

    def clips(
        self, plans: Sequence[Sequence[Frame]], prepared: Mapping[int, list[Tensor]]
    ) -> tuple[list[Tensor], list[int]]:
        """Return the different clips of a window, uint8 [3, frames, crop_size, crop_size], and for each view its clip.

        Args:
            plans: from `plans`.
            prepared: from `prepare`, by number of the frame.
        """
        clips: list[Tensor] = []
        found: dict[tuple[tuple[Frame, ...], int], int] = {}
        for view, plan in enumerate(plans):
            key = tuple(plan), view % self._maker.num_crops
            if key not in found:
                found[key] = len(clips)
                clips.append(self._clip(plan, view, prepared))
        return clips, [found[tuple(plan), view % self._maker.num_crops] for view, plan in enumerate(plans)]

    def _clip(self, plan: Sequence[Frame], view: int, prepared: Mapping[int, list[Tensor]]) -> Tensor:
        if self._is_stretched:
            pixels = render(plan, lambda numbers: np.stack([prepared[number][0].numpy() for number in numbers]))
            frames = self._maker.crop(pixels, view, self._unused_rng)
        else:
            frames = torch.cat([prepared[number][view % self._maker.num_crops] for number in plan])
        return self._maker.to_clip(frames, self._unused_rng)


def window_info(ticks: Sequence[int], end: int, time_base: Fraction) -> VideoInfo:
    """Return what a file with these frames alone would say of them.

    `ticks` are when they are shown, rising; `end` is when the last one ends; `time_base` is the duration of a tick.
    """
    duration = end - ticks[0]
    fps = float(1 / (Fraction(duration, len(ticks)) * time_base))
    return VideoInfo(len(ticks), fps, StreamTiming(len(ticks), fps, duration, [tick - ticks[0] for tick in ticks]))


def last_end(first: int, last: int, number: int) -> int:
    """Return when the last of `number` frames ends: it is shown for as long as the others are on average."""
    return last + max(1, round((last - first) / max(number - 1, 1)))
