"""Which frames of a video make a clip.

Positions are numbers of frames in a timeline: the frames of a video, or what pre-sampling augmentation made of them.
Where a rule is that of facebookresearch/TimeSformer, the function says so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.config.load import earlier_sampler
from timesformer.datasets.decoding.stream_timing import StreamTiming

SAMPLERS = ("dense", "uniform", "equidistant", "random", "segment")
STARTS = ("first", "center", "random")
WINDOWS = ("full", "fit")


@dataclass(frozen=True)
class Sampler:
    """Chooses `num_frames` positions of a timeline; the fields are the options of the configuration's DATA section.

    Args:
        name: one of

            * dense: `num_frames` positions spread evenly over a window of num_frames * rate * fps / target_fps frames,
              as in facebookresearch/TimeSformer;
            * uniform: every `rate`-th frame; a video that is too short repeats its last frame;
            * equidistant: int(i * length / num_frames); a video that is too short starts again;
            * random: drawn without replacement, or with replacement from a video that is too short; in time order if
              `ordered`;
            * segment: one frame of each of num_frames equal segments: a random one in training, else the middle one.
        num_frames: frames of a clip.
        rate: distance between two frames of a clip, in frames of a video of `target_fps`.
        start: dense and uniform: `first`, `center` or `random` start of the window.
        ordered: random: positions in time order.
        training: whether segment draws frames at random.
        num_views: clips of one video in testing. Several dense or uniform views start evenly spread, whatever `start`
            is; equidistant views interleave; segment views divide the segments evenly; random views are drawn
            independently. Dense and uniform views of a video no longer than the window are equal.
        target_fps: dense: frame rate in frames per second that `rate` refers to; that of folders of frames.
        window: dense: in a video shorter than the window, `full` repeats the last frame, as in the original, and `fit`
            shortens the window to the video.
    """

    name: str
    num_frames: int
    rate: int
    start: str = "first"
    ordered: bool = True
    training: bool = False
    num_views: int = 1
    target_fps: float = 30.0
    window: str = "full"

    def __post_init__(self) -> None:
        for value, choices in ((self.name, SAMPLERS), (self.start, STARTS), (self.window, WINDOWS)):
            if value not in choices:
                raise ValueError(f"unknown sampler option {value!r}: expected one of {choices}")

    @classmethod
    def from_cfg(cls, cfg: CfgNode, split: str) -> "Sampler":
        """Sampler of `split` ("train", "val" or "test")."""
        training = split == "train"
        dataset = cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET
        return cls(
            name=(not training and cfg.DATA.TEST_SAMPLER) or cfg.DATA.SAMPLER or default_sampler(dataset),
            num_frames=cfg.DATA.NUM_FRAMES,
            rate=cfg.DATA.SAMPLING_RATE,
            start=cfg.DATA.SAMPLER_START or ("random" if training else "first"),
            ordered=cfg.DATA.SAMPLER_ORDERED,
            training=training,
            num_views=cfg.TEST.NUM_ENSEMBLE_VIEWS if split == "test" else 1,
            target_fps=cfg.DATA.TARGET_FPS,
            window=cfg.DATA.SAMPLER_WINDOW or default_window(dataset),
        )

    def window_length(self, fps: float) -> float:
        """Length of a clip in frames of a video of `fps` frames per second (0: unknown, taken for `target_fps`)."""
        window = self.num_frames * self.rate
        return window / self.target_fps * fps if self.name == "dense" and fps else window

    def positions(
        self,
        length: int,
        rng: np.random.RandomState,
        view: int = 0,
        fps: float = 0.0,
        timing: StreamTiming | None = None,
    ) -> list[int]:
        """Return `num_frames` positions for a view.

        Args:
            length: frames of the timeline, at least 1.
            rng: the source of randomness.
            view: number of the view, 0 to num_views - 1.
            fps: frames per second of the timeline; 0: unknown.
            timing: of the video stream, where the timeline consists of its frames.
        """
        if self.name == "dense":
            first, offsets, last = self._dense(length, rng, view, fps, timing)
            return [first + min(offset, last - first) for offset in offsets]
        if self.name == "uniform":
            start = self._start(length, self.window_length(fps), rng, view)
            return [min(start + i * self.rate, length - 1) for i in range(self.num_frames)]
        if self.name == "segment":
            return segment_positions(length, self.num_frames, rng if self.training else None, view, self.num_views)
        if self.name == "equidistant":
            if length < self.num_frames:
                return [i % length for i in range(self.num_frames)]
            return [int((i + view / self.num_views) * length / self.num_frames) for i in range(self.num_frames)]
        drawn = rng.choice(length, self.num_frames, replace=length < self.num_frames).tolist()
        return sorted(drawn) if self.ordered else drawn

    def available(
        self,
        length: int,
        rng: np.random.RandomState,
        view: int = 0,
        fps: float = 0.0,
        timing: StreamTiming | None = None,
    ) -> list[int]:
        """Like `positions`, but without the repetitions that fill up a clip: 1 to `num_frames` positions."""
        if self.name == "dense":
            first, offsets, last = self._dense(length, rng, view, fps, timing)
            return sorted({first + offset for offset in offsets if first + offset <= last})
        if self.name == "uniform":
            start = self._start(length, self.window_length(fps), rng, view)
            return list(range(start, length, self.rate))[: self.num_frames]
        if length >= self.num_frames:
            return self.positions(length, rng, view)
        return rng.permutation(length).tolist() if self.name == "random" and not self.ordered else list(range(length))

    def _dense(
        self, length: int, rng: np.random.RandomState, view: int, fps: float, timing: StreamTiming | None
    ) -> tuple[int, list[int], int]:
        """First frame that the original decodes for a clip, positions counted from it, and the last such frame."""
        total, fps = (timing.num_frames, timing.fps) if timing else (length, fps)
        window = self.window_length(fps)
        if self.window == "fit":
            if timing and timing.num_frames > length:  # after a cut, a header may count frames that are not shown
                timing, total = None, length
            window = min(window, total)
        start = self._start(total, window, rng, view)
        if timing is None:
            return 0, linspace_positions(start, start + window - 1, self.num_frames), length - 1
        first, last = timing.shown_between(start, start + window - 1)
        last = min(last, length - 1)
        return min(first, last), linspace_positions(0, window - 1, self.num_frames), last

    def _start(self, length: int, window: float, rng: np.random.RandomState, view: int) -> float:
        """Start of the window: a real number for dense, a whole one for uniform."""
        if self.num_views == 1 and self.start == "center":
            start = max(length - window, 0) / 2
        elif self.num_views == 1 and self.start == "random":
            start = random_start(length, window, rng)
        else:
            start = view_start(length, window, view, self.num_views)
        return start if self.name == "dense" else math.floor(start)


def default_sampler(dataset: str) -> str:
    """Sampler of a dataset (a name as in TRAIN.DATASET) where DATA.SAMPLER is empty."""
    return {"ssv2": "segment", "hmdb_simp": "uniform"}.get(dataset, "dense")


def default_window(dataset: str) -> str:
    """Window of the dense sampler for a dataset where DATA.SAMPLER_WINDOW is empty."""
    return "full" if dataset == "kinetics" else "fit"


def sampler_change(saved: Mapping[str, Any], cfg: CfgNode) -> str:
    """Return how tests of `cfg` sample differently from tests of a saved configuration; empty if they do not.

    Args:
        saved: sections of the configuration that a checkpoint holds; its DATA section may be one of an earlier version
            or of the original.
        cfg: the present configuration.
    """
    data, dataset = saved.get("DATA", {}), saved.get("TEST", {}).get("DATASET", "")
    default = default_sampler(dataset)
    if "SAMPLER" in data and "SAMPLER_WINDOW" not in data:  # saved before there was `dense`
        default = earlier_sampler(dataset)
    name = data.get("TEST_SAMPLER") or data.get("SAMPLER") or default
    then = _described(name, data.get("SAMPLER_WINDOW") or default_window(dataset))
    sampler = Sampler.from_cfg(cfg, "test")
    now = _described(sampler.name, sampler.window)
    return "" if then == now else f"the sampler of tests was {then}, is {now} (DATA.SAMPLER, DATA.TEST_SAMPLER)"


def _described(name: str, window: str) -> str:
    return f"{name} with the {window} window" if name == "dense" else name


def view_start(length: int, window: float, view: int, num_views: int) -> float:
    """Start of test clip `view` of `num_views`, each of `window` frames (get_start_end_idx of the original)."""
    return max(length - window, 0) * view / num_views


def random_start(length: int, window: float, rng: np.random.RandomState) -> float:
    """Start of a training clip of `window` frames (get_start_end_idx of the original)."""
    return rng.uniform(0, max(length - window, 0))


def linspace_positions(start: float, end: float, num: int) -> list[int]:
    """`num` positions spread evenly from start to end, cut to whole numbers (temporal_sampling of the original).

    The arithmetic is float32 from both ends to the middle, as in torch.linspace, whose last bit depends on the
    processor's instruction set; here it does not.
    """
    first, last = np.float32(start), np.float32(end)
    step = (last - first) / np.float32(max(num - 1, 1))
    i = np.arange(num, dtype=np.float32)
    from_start, from_end = first + step * i, last - step * (np.float32(num - 1) - i)
    positions = np.where(i < num // 2, from_start, from_end) if num > 1 else from_start
    return positions.astype(int).tolist()


def segment_positions(
    length: int, num: int, rng: np.random.RandomState | None = None, view: int = 0, num_views: int = 1
) -> list[int]:
    """One position of each of `num` segments, as the original's Something-Something: random, or the middle if no rng.

    (TSN, arXiv 1608.00859.) With several views, view v takes the point (v + 1) / (num_views + 1) of each segment.
    """
    edges = [int(np.round((length - 1) / num * i)) for i in range(num + 1)]
    segments = list(pairwise(edges))
    if rng is not None:
        return [int(rng.randint(low, high + 1)) for low, high in segments]
    return [low + (high - low) * (view + 1) // (num_views + 1) for low, high in segments]
