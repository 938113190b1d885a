"""Samplers: which frames of a video make a clip. Rules of facebookresearch/TimeSformer are marked as the original's."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry
from numpy.random import RandomState

from timesformer.config.load import ConfigError
from timesformer.datasets.decoding.base import StreamTiming

SAMPLER_REGISTRY = Registry("SAMPLER")
"""Subclasses of `Sampler`. DATA.SAMPLER and DATA.TEST_SAMPLER are their names in lower case."""


class VideoInfo(NamedTuple):
    """The frames that a sampler chooses from: those of a video, or the timeline made of them by DATA.PRE_SAMPLING.

    `length` is at least 1; `fps` is 0 if unknown; `timing` tells when the frames of a video stream are shown.
    """

    length: int
    fps: float = 0.0
    timing: StreamTiming | None = None


@dataclass(frozen=True)
class Sampler(ABC):
    """Chooses the frames of a clip. Register a subclass with `@SAMPLER_REGISTRY.register()`.

    Args:
        num_frames: frames of a clip.
        rate: distance between two frames of a clip, in frames of a video of `target_fps`.
        start: `first`, `center` or `random` start of the window of a single dense or uniform clip.
        ordered: whether random positions are in time order.
        training: whether the clips are training clips.
        num_views: clips of one video in testing.
        target_fps: frame rate that `rate` refers to in dense clips, and that of folders of frames.
        window: `full` or `fit`: what dense does with a video that is shorter than the window.
    """

    num_frames: int
    rate: int
    start: str = "first"
    ordered: bool = True
    training: bool = False
    num_views: int = 1
    target_fps: float = 30.0
    window: str = "full"

    needs_fps: ClassVar[bool] = False  # whether the positions depend on the frame rate of the video

    @classmethod
    def from_config(cls, cfg: CfgNode, **common: Any) -> "Sampler":
        """Build the sampler; override this to read further options. `common` has the arguments of `Sampler`."""
        return cls(**common)

    @property
    def name(self) -> str:
        """Name of the sampler in lower case."""
        return type(self).__name__.lower()

    @abstractmethod
    def positions(self, video: VideoInfo, rng: RandomState, view: int = 0) -> list[int]:
        """Return `num_frames` positions from 0 to video.length - 1 for a view; frames of short videos repeat."""

    def available(self, video: VideoInfo, rng: RandomState, view: int = 0) -> list[int]:
        """Return positions without the repetitions that fill up a clip of a short video: 1 to `num_frames`."""
        short = video.length < self.num_frames
        return list(range(video.length)) if short else self.positions(video, rng, view)

    def window_length(self, fps: float) -> float:
        """Return the length of a clip in frames of a video of `fps` frames per second (0: unknown)."""
        return self.num_frames * self.rate

    def window_start(self, length: float, window: float, rng: RandomState, view: int) -> float:
        """Return the start of a window, as get_start_end_idx of the original; several views are spread evenly."""
        free = max(length - window, 0)
        if self.num_views == 1 and self.start == "center":
            return free / 2
        if self.num_views == 1 and self.start == "random":
            return rng.uniform(0, free)
        return free * view / self.num_views


@SAMPLER_REGISTRY.register()
class Dense(Sampler):
    """Positions spread evenly over num_frames * rate * fps / target_fps frames, as in the original.

    In a video shorter than this window, `full` repeats the last frame as the original does; `fit` shortens the window.
    """

    needs_fps = True

    def positions(self, video: VideoInfo, rng: RandomState, view: int = 0) -> list[int]:
        first, offsets, last = self._decoded(video, rng, view)
        return [first + min(offset, last - first) for offset in offsets]

    def available(self, video: VideoInfo, rng: RandomState, view: int = 0) -> list[int]:
        first, offsets, last = self._decoded(video, rng, view)
        return sorted({first + offset for offset in offsets if first + offset <= last})

    def window_length(self, fps: float) -> float:
        window = super().window_length(fps)
        return window / self.target_fps * fps if fps else window

    def _decoded(self, video: VideoInfo, rng: RandomState, view: int) -> tuple[int, list[int], int]:
        """First frame that the original decodes for the clip, positions counted from it, and last decoded frame."""
        length, fps, timing = video
        total, fps = (timing.num_frames, timing.fps) if timing else (length, fps)
        window = self.window_length(fps)
        if self.window == "fit":
            if timing and timing.num_frames > length:  # after a cut, a header may count frames that are not shown
                timing, total = None, length
            window = min(window, total)
        start = self.window_start(total, window, rng, view)
        if timing is None:
            return 0, linspace_positions(start, start + window - 1, self.num_frames), length - 1
        first, last = timing.shown_between(start, start + window - 1)
        last = min(last, length - 1)
        return min(first, last), linspace_positions(0, window - 1, self.num_frames), last


@SAMPLER_REGISTRY.register()
class Uniform(Sampler):
    """Every `rate`-th frame; the last frame of a short video repeats."""

    def positions(self, video: VideoInfo, rng: RandomState, view: int = 0) -> list[int]:
        start = math.floor(self.window_start(video.length, self.window_length(video.fps), rng, view))
        return [min(start + i * self.rate, video.length - 1) for i in range(self.num_frames)]

    def available(self, video: VideoInfo, rng: RandomState, view: int = 0) -> list[int]:
        start = self.positions(video, rng, view)[0]
        return list(range(start, video.length, self.rate))[: self.num_frames]


@SAMPLER_REGISTRY.register()
class Equidistant(Sampler):
    """int(i * length / num_frames); a short video starts again. Several views interleave."""

    def positions(self, video: VideoInfo, rng: RandomState, view: int = 0) -> list[int]:
        if video.length < self.num_frames:
            return [i % video.length for i in range(self.num_frames)]
        return [int((i + view / self.num_views) * video.length / self.num_frames) for i in range(self.num_frames)]


@SAMPLER_REGISTRY.register()
class Random(Sampler):
    """Drawn without replacement, from a short video with replacement, for each view; in time order if `ordered`."""

    def positions(self, video: VideoInfo, rng: RandomState, view: int = 0) -> list[int]:
        drawn = rng.choice(video.length, self.num_frames, replace=video.length < self.num_frames).tolist()
        return sorted(drawn) if self.ordered else drawn

    def available(self, video: VideoInfo, rng: RandomState, view: int = 0) -> list[int]:
        if video.length < self.num_frames and not self.ordered:
            return rng.permutation(video.length).tolist()
        return super().available(video, rng, view)


@SAMPLER_REGISTRY.register()
class Segment(Sampler):
    """One frame of each of num_frames equal segments (TSN, arXiv 1608.00859), as the original's Something-Something.

    Training draws it; view v is the point (v + 1) / (num_views + 1) of each segment: a single view is its middle.
    """

    def positions(self, video: VideoInfo, rng: RandomState, view: int = 0) -> list[int]:
        edges = [int(np.round((video.length - 1) / self.num_frames * i)) for i in range(self.num_frames + 1)]
        if self.training:
            return [int(rng.randint(low, high + 1)) for low, high in pairwise(edges)]
        return [low + (high - low) * (view + 1) // (self.num_views + 1) for low, high in pairwise(edges)]


def build_sampler(cfg: CfgNode, split: str) -> Sampler:
    """Build the sampler of `split` ("train", "val" or "test"). Raises ConfigError for an unknown name."""
    data, training = cfg.DATA, split == "train"
    dataset = cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET
    key, name = "DATA.SAMPLER", data.SAMPLER or default_sampler(dataset)
    if data.TEST_SAMPLER and not training:
        key, name = "DATA.TEST_SAMPLER", data.TEST_SAMPLER
    if name not in sampler_names():
        names = ", ".join(sampler_names())
        raise ConfigError([f"{key} is {name!r}, expected one of {names}, or one that --import or IMPORTS registers"])
    sampler = next(sampler for registered, sampler in SAMPLER_REGISTRY if registered.lower() == name)
    return sampler.from_config(
        cfg,
        num_frames=data.NUM_FRAMES,
        rate=data.SAMPLING_RATE,
        start=data.SAMPLER_START or ("random" if training else "first"),
        ordered=data.SAMPLER_ORDERED,
        training=training,
        num_views=cfg.TEST.NUM_ENSEMBLE_VIEWS if split == "test" else 1,
        target_fps=data.TARGET_FPS,
        window=data.SAMPLER_WINDOW or default_window(dataset),
    )


def sampler_names() -> list[str]:
    """Return the names of all registered samplers in lower case."""
    return [name.lower() for name, _ in SAMPLER_REGISTRY]


def default_sampler(dataset: str) -> str:
    """Return the sampler of a dataset where DATA.SAMPLER is empty."""
    return {"ssv2": "segment", "hmdb_simp": "uniform"}.get(dataset, "dense")


def default_window(dataset: str) -> str:
    """Return the window of the dense sampler for a dataset where DATA.SAMPLER_WINDOW is empty."""
    return "full" if dataset == "kinetics" else "fit"


def sampler_change(saved: Mapping[str, Any], cfg: CfgNode) -> str:
    """Return how tests of `cfg` sample differently from tests of a checkpoint's configuration; empty if they do not.

    `saved` has the options of the checkpoint by dotted key, as `config.differences.read_saved` returns them.
    """
    dataset = saved.get("TEST.DATASET", "")
    name = saved.get("DATA.TEST_SAMPLER") or saved.get("DATA.SAMPLER") or default_sampler(dataset)
    then = _describe(name.lower(), saved.get("DATA.SAMPLER_WINDOW") or default_window(dataset))
    sampler = build_sampler(cfg, "test")
    now = _describe(sampler.name, sampler.window)
    return "" if then == now else f"the sampler of tests was {then}, is {now} (DATA.SAMPLER, DATA.TEST_SAMPLER)"


def _describe(name: str, window: str) -> str:
    return f"{name} with the {window} window" if name == "dense" else name


def linspace_positions(start: float, end: float, num: int) -> list[int]:
    """Return `num` positions spread evenly from start to end, cut to whole numbers (temporal_sampling of the original).

    float32 arithmetic from both ends to the middle as in torch.linspace, but the same on every processor.
    """
    first, last = np.float32(start), np.float32(end)
    step = (last - first) / np.float32(max(num - 1, 1))
    i = np.arange(num, dtype=np.float32)
    from_start, from_end = first + step * i, last - step * (np.float32(num - 1) - i)
    positions = np.where(i < num // 2, from_start, from_end) if num > 1 else from_start
    return positions.astype(int).tolist()
