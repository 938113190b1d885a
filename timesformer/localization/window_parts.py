"""Reads the windows of videos in parts, also in processes that may hang or crash over a damaged file."""

import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import count
from typing import NamedTuple

import torch
from fvcore.common.config import CfgNode

from timesformer.datasets.clips import timeout_message
from timesformer.datasets.decoding.open import Source, VideoError, name_of
from timesformer.datasets.workers.time_limit import TimeLimit, TookTooLongError
from timesformer.localization.window_length import default_window
from timesformer.localization.window_reader import WindowClips, WindowReader

_LONGEST = 1.0  # seconds after which a part ends, also before a window is complete


class PartRequest(NamedTuple):
    """Asks a `PartReader` for the next part of a video."""

    video: int  # number of the video
    source: Source
    part: int  # from 0


class Part(NamedTuple):
    """Windows that follow each other; none if a window takes longer to read than a part."""

    windows: list[WindowClips]
    duration: float = 0.0  # of the video in seconds, 0 if unknown
    is_last: bool = False
    problem: str = ""  # of the last part, why the video cannot be read, or not to its end


class PartReader:
    """Returns the parts of one video after another; it can be pickled before the first.

    A part has as many windows as are computed together, or as are complete after a second of reading.
    """

    def __init__(
        self, cfg: CfgNode, window: float | None, stride: float | None, fps: float | None, clip_seconds: float = 0.0
    ) -> None:
        """Takes the arguments of `score_windows` and `default_window`."""
        self._cfg, self._window, self._stride, self._fps, self._clip_seconds = cfg, window, stride, fps, clip_seconds
        self._video: int | None = None
        self._duration = 0.0
        self._reader: WindowReader | None = None
        self._windows: Iterator[WindowClips | None] = iter(())

    def __call__(self, request: PartRequest) -> Part:
        """Reads a part; raises VideoError if it is not the one that follows, as after a crash."""
        found: list[WindowClips] = []
        try:
            if request.part == 0:
                self._begin(request)
            elif request.video != self._video:
                raise VideoError(f"{name_of(request.source)}: the decoder crashed")
            clips, end = 0, time.monotonic() + _LONGEST
            for window in self._windows:
                if window is not None:
                    found.append(window)
                    clips += len(window.clips)
                if clips >= self._cfg.TEST.BATCH_SIZE or time.monotonic() > end:
                    return Part(found, self._duration)
        except VideoError as error:
            self.close()
            return Part(found, is_last=True, problem=str(error))
        self.close()
        return Part(found, self._duration, is_last=True)

    def close(self) -> None:
        """Closes the video."""
        if self._reader:
            self._reader.__exit__()
        self._video = self._reader = None

    def _begin(self, request: PartRequest) -> None:
        self.close()
        self._reader = reader = WindowReader(self._cfg, request.source, self._fps)
        self._duration = reader.seconds  # before decoding begins
        window = self._window or default_window(self._cfg, reader.fps, self._clip_seconds)[0]
        self._windows, self._video = reader.steps(window, self._stride or window / 2), request.video


def read_parts(reader: PartReader, source: Source, time_limit: float) -> Iterator[Part]:
    """Yields the parts of a video, read in this process; `time_limit` is that of a part in seconds, 0: none."""
    with closing(TimeLimit(time_limit)) as limited:
        for number in count():
            try:
                part = limited(partial(reader, PartRequest(0, source, number)))
            except TookTooLongError:  # the thread keeps reading, so the video stays open
                part = Part([], is_last=True, problem=timeout_message(name_of(source), time_limit))
            try:
                yield part
            except GeneratorExit:
                reader.close()
                raise
            if part.is_last:
                return


def read_in_worker(reader: PartReader, request: PartRequest) -> Part:
    """Reads a part in another process; returns arrays instead of tensors."""
    torch.set_num_threads(1)  # there is a process for each core
    part = reader(request)
    return part._replace(windows=[window.to_arrays() for window in part.windows])
