"""Class scores of overlapping windows over a long video."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch
from fvcore.common.config import CfgNode

from timesformer.datasets.decoding.open import Video, VideoError
from timesformer.datasets.transforms.sampling import build_sampler
from timesformer.errors import UserError
from timesformer.inference.classifier import Classifier, Summary
from timesformer.localization.window_reader import OnFrame, WindowClips, WindowReader

FALLBACK_SECONDS = 2.0
"""Length of a window of a sampler that stretches over whole clips, where the length of training clips is unknown."""


@dataclass(frozen=True, eq=False)
class WindowScores:
    """Probabilities of the classes in one window of a video."""

    start: float  # in seconds on the clock of a player: 0 is the start of the file
    end: float
    probabilities: np.ndarray  # float32 [classes], calibrated as in a prediction


def score_windows(
    classifier: Classifier,
    video: "Video",
    *,
    window: float | None = None,
    stride: float | None = None,
    fps: float | None = None,
    cfg: CfgNode | None = None,
    on_open: Callable[[float], object] | None = None,
    on_frame: OnFrame | None = None,
) -> Iterator[WindowScores]:
    """Yields the scores of windows of a video in order of time; the video is decoded once, in constant memory.

    A window has all frames that are first shown from its start to before its end; if there are none, the frame that is
    shown all the time. Its clips are sampled and cropped as if it were a file of its own: its probabilities equal the
    prediction for this part of the video, cut out without loss. The last window ends with the video. A video shorter
    than a window is one window.

    Args:
        classifier: the model.
        video: anything that `predict` accepts.
        window: length in seconds; default: `default_window`.
        stride: seconds from the start of a window to that of the next; default: half of `window`.
        fps: frame rate of a video without one; default: DATA.TARGET_FPS for folders of frames.
        cfg: other views, from `Classifier.options`; default: the views of the checkpoint's tests.
        on_open: called with the duration in seconds, 0 if it is unknown, before frames are decoded.
        on_frame: called with the time and the pixels of every frame, in order.

    Raises:
        UserError: if `window` or `stride` is not above 0.
        VideoError: if the video cannot be read; at damage, after the windows before it.
    """
    for name, seconds in (("window", window), ("stride", stride)):
        if seconds is not None and not 0 < seconds < float("inf"):
            raise UserError(f"{name} of {seconds:g} seconds: expected a number above 0")
    cfg = cfg or classifier.cfg
    batch = WindowBatch(classifier, cfg)
    with WindowReader(cfg, video, fps) as reader:
        if on_open:
            on_open(reader.seconds)
        window = window or default_window(cfg, reader.fps)[0]
        with closing(reader.read(window, stride or window / 2, on_frame)) as windows:
            try:
                for clips in windows:
                    batch.add(clips)
                    if batch.is_full:
                        yield from batch.compute()
            except VideoError:
                yield from batch.compute()
                raise
    yield from batch.compute()


def default_window(cfg: CfgNode, fps: float) -> tuple[float, str]:
    """Returns the length of a window in seconds, and a note if it is a guess.

    It is the span of a clip for the dense and uniform samplers in a video of `fps` frames per second.
    """
    sampler = build_sampler(cfg, "test")
    if sampler.name in ("dense", "uniform"):
        return sampler.window_length(fps) / fps, ""
    return FALLBACK_SECONDS, (
        f"windows of {FALLBACK_SECONDS:g} seconds: the {sampler.name} sampler stretches over a whole clip, and the "
        "length of training clips is unknown; set --window to it"
    )


@dataclass
class WindowBatch:
    """Windows that are computed together."""

    classifier: Classifier
    cfg: CfgNode
    windows: list[WindowClips] = field(default_factory=list)

    def add(self, window: WindowClips) -> None:
        self.windows.append(window)

    @property
    def is_full(self) -> bool:
        return sum(len(window.clips) for window in self.windows) >= self.cfg.TEST.BATCH_SIZE

    def compute(self) -> Iterator[WindowScores]:
        """Yields the scores of the windows, and removes them."""
        windows, self.windows = self.windows, []
        clips = [clip for window in windows for clip in window.clips]
        size = self.cfg.TEST.BATCH_SIZE
        parts = [clips[start : start + size] for start in range(0, len(clips), size)]
        logits = [row for part in parts for row in self.classifier.compute(torch.stack(part))[0]]
        for window in windows:
            rows, logits = torch.stack(logits[: len(window.clips)]), logits[len(window.clips) :]
            summary = Summary(self.cfg)
            summary.add(rows[window.views], None, range(len(window.views)))
            yield WindowScores(window.start, window.end, self.classifier.prediction("", summary, 1).probabilities)
