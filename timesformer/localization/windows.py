"""Class scores of overlapping windows over a long video."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch
from fvcore.common.config import CfgNode

from timesformer.datasets.decoding.open import Video, VideoError, to_source
from timesformer.inference.classifier import Classifier, Summary
from timesformer.localization.window_parts import Part, PartReader, read_parts
from timesformer.localization.window_reader import WindowClips
from timesformer.numeric_arguments import check_positive


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
    on_part: Callable[[Part], object] | None = None,
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
        on_part: called with every part of the windows before it is scored.

    Raises:
        UserError: if `window` or `stride` is not above 0.
        VideoError: if the video cannot be read, or a part takes longer than DATA.DECODE_TIMEOUT; after the windows
            before it.
    """
    check_lengths(window, stride)
    cfg = cfg or classifier.cfg
    source, batch = to_source(video, fps), WindowBatch(classifier, cfg)
    with closing(
        read_parts(PartReader(cfg, window, stride, fps, classifier.clip_seconds), source, cfg.DATA.DECODE_TIMEOUT)
    ) as parts:
        for part in parts:
            if on_part:
                on_part(part)
            yield from batch.score(part)
            if part.problem:
                raise VideoError(part.problem)


def check_lengths(window: float | None, stride: float | None) -> None:
    """Raises UserError if a length in seconds is not above 0; None is a default."""
    for name, seconds in (("window", window), ("stride", stride)):
        if seconds is not None:
            check_positive(name, seconds)


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

    def score(self, part: Part) -> Iterator[WindowScores]:
        """Adds the windows of a part; yields the scores of all that are complete, after the last part of all."""
        for window in part.windows:
            self.add(window)
            if self.is_full:
                yield from self.compute()
        if part.is_last:
            yield from self.compute()

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
