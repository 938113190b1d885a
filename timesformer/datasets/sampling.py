"""Which positions of a timeline make a clip.

Where a rule is that of facebookresearch/TimeSformer, the function says so.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from fvcore.common.config import CfgNode

SAMPLERS = ("uniform", "equidistant", "random", "segment")


@dataclass(frozen=True)
class Sampler:
    """Chooses `num_frames` positions out of 0..length-1; the fields are those of the configuration's DATA section.

    name: uniform      every `rate`-th frame from a start (`first`, `center` or `random`) on; a clip that is too short
                       repeats its last frame
          equidistant  int(i * length / num_frames); a clip that is too short starts again
          random       drawn without repetition, or with it from a clip that is too short; in time order if `ordered`
          segment      one frame of each of num_frames equal segments: a random one in training, else the middle one
    num_views: clips taken along the time of one video in testing. Several uniform views start evenly spread, whatever
               `start` says; equidistant ones lie between each other, segment ones divide their segments evenly, and
               random ones are drawn anew. Views of a clip that is exactly as long as a view (as stretched ones are)
               are the same in uniform sampling.
    """

    name: str
    num_frames: int
    rate: int
    start: str = "first"
    ordered: bool = True
    training: bool = False
    num_views: int = 1

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS or self.start not in ("first", "center", "random"):
            raise ValueError(f"unknown sampler {self.name!r} or start {self.start!r}: expected one of {SAMPLERS}")

    @classmethod
    def from_cfg(cls, cfg: CfgNode, split: str) -> "Sampler":
        """Sampler of `split` ("train", "val" or "test")."""
        training = split == "train"
        dataset = cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET
        name = cfg.DATA.SAMPLER or ("segment" if dataset == "ssv2" else "uniform")
        return cls(
            name=name if training else cfg.DATA.TEST_SAMPLER or name,
            num_frames=cfg.DATA.NUM_FRAMES,
            rate=cfg.DATA.SAMPLING_RATE,
            start=cfg.DATA.SAMPLER_START or ("random" if training else "first"),
            ordered=cfg.DATA.SAMPLER_ORDERED,
            training=training,
            num_views=cfg.TEST.NUM_ENSEMBLE_VIEWS if split == "test" else 1,
        )

    def positions(self, length: int, rng: np.random.RandomState, view: int = 0) -> list[int]:
        """Exactly `num_frames` positions in a timeline of `length` >= 1 frames, for view 0..num_views-1."""
        if self.name == "uniform":
            start = self._first(length, rng, view)
            return linspace_positions(start, start + (self.num_frames - 1) * self.rate, self.num_frames, length)
        if self.name == "segment":
            return segment_positions(length, self.num_frames, rng if self.training else None, view, self.num_views)
        if self.name == "equidistant":
            if length < self.num_frames:
                return [i % length for i in range(self.num_frames)]
            return [int((i + view / self.num_views) * length / self.num_frames) for i in range(self.num_frames)]
        drawn = rng.choice(length, self.num_frames, replace=length < self.num_frames).tolist()
        return sorted(drawn) if self.ordered else drawn

    def available(self, length: int, rng: np.random.RandomState, view: int = 0) -> list[int]:
        """Like `positions`, but without the repetitions by which they fill up: 1 to `num_frames` positions."""
        if self.name == "uniform":
            start = self._first(length, rng, view)
            return list(range(start, length, self.rate))[: self.num_frames]
        if length >= self.num_frames:
            return self.positions(length, rng, view)
        return rng.permutation(length).tolist() if self.name == "random" and not self.ordered else list(range(length))

    def _first(self, length: int, rng: np.random.RandomState, view: int) -> int:
        window = self.num_frames * self.rate
        if self.num_views == 1 and self.start == "center":
            return max(length - window, 0) // 2
        if self.num_views == 1 and self.start == "random":
            return math.floor(random_start(length, window, rng))
        return math.floor(view_start(length, window, view, self.num_views))


def view_start(length: int, window: int, view: int, num_views: int) -> float:
    """Start of test clip `view` of `num_views`, each of `window` frames (get_start_end_idx of the original)."""
    return max(length - window, 0) * view / num_views


def random_start(length: int, window: int, rng: np.random.RandomState) -> float:
    """Start of a training clip of `window` frames (get_start_end_idx of the original)."""
    return rng.uniform(0, max(length - window, 0))


def linspace_positions(start: float, end: float, num: int, length: int) -> list[int]:
    """`num` positions spread evenly from start to end, both within, cut to 0..length-1 (temporal_sampling)."""
    return np.linspace(start, end, num).clip(0, length - 1).astype(int).tolist()


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
