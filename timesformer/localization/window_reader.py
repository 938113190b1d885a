"""The clips of overlapping windows over a long video, which is decoded once, in order."""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, count
from typing import NamedTuple

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from timesformer.datasets.clips import ClipMaker, as_video_error
from timesformer.datasets.decoding.base import StreamedFrame, StreamTiming
from timesformer.datasets.decoding.open import Frames, Video, VideoError, name_of, to_source
from timesformer.datasets.transforms.sampling import VideoInfo
from timesformer.datasets.transforms.timeline import Frame, needed_frames
from timesformer.localization.window_clips import WindowClipMaker, last_end, window_info

TOLERANCE = 1e-6  # seconds; times of frames and borders of windows are rounded


class WindowClips(NamedTuple):
    """The clips of one window."""

    start: float  # seconds
    end: float
    clips: list[Tensor]  # uint8 [3, frames, height, width], all different
    views: list[int]  # for each view, the number of its clip

    def to_arrays(self) -> "WindowClips":
        """Returns them with NumPy arrays as clips, to send them to another process."""
        return self._replace(clips=[clip.numpy() for clip in self.clips])

    def to_tensors(self) -> "WindowClips":
        """Undoes `to_arrays`."""
        return self._replace(clips=[torch.from_numpy(clip) for clip in self.clips])


@dataclass
class _Window:
    """A window that is being read, or will be soon."""

    start: float  # seconds after the first frame
    end: float
    first: int  # number of its first frame
    stop: int  # number of the frame after its last
    plans: list[list[Frame]]  # the frames of each view
    needed: set[int]  # the frames that `plans` are made of


class WindowReader:
    """Reads the windows of a video; a context manager.

    Frames are cropped and resized as they are decoded, and kept as long as a window needs them. Where the file does not
    tell when its frames are shown, all frames of the last `window` seconds are kept.
    """

    def __init__(self, cfg: CfgNode, video: Video, fps: float | None = None) -> None:
        """Opens a video, as `open_video` does, with the options of a test.

        `fps` is the frame rate of a video without one; default: DATA.TARGET_FPS for folders of frames. Raises
        VideoError, also for frames in memory without a frame rate.
        """
        maker = ClipMaker(cfg, "test")
        self._maker = WindowClipMaker(cfg, maker)
        source = to_source(video, fps)
        with as_video_error(name_of(source)):
            self._reader = maker.open_source(source, fps, allow_cut_short=True)
        self._sampled_fps = self._reader.fps
        if not self._reader.fps and not isinstance(source, Frames):
            self._reader.fps = cfg.DATA.TARGET_FPS  # as the dense sampler takes it
        self._window = self._stride = 0.0
        self._ticks: Sequence[int] = []  # when all frames are shown, or those so far
        self._time_base = Fraction(1)
        self._kept: dict[int, list[Tensor]] = {}  # by number of the frame, from `WindowClipMaker.prepare`
        self._planned: deque[_Window] = deque()  # being read, or ahead
        self._unplanned: Iterator[_Window] = iter(())

    def __enter__(self) -> "WindowReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    @property
    def fps(self) -> float:
        """Frame rate; VideoError if it is unknown."""
        return self._reader.fps or float(1 / self._reader.time_base)

    @property
    def seconds(self) -> float:
        """Duration of the video, 0 if it is unknown."""
        return self._reader.delay + self._reader.seconds if self._reader.seconds else 0.0

    def read(self, window: float, stride: float) -> Iterator[WindowClips]:
        """Yields the clips of windows of `window` seconds, `stride` seconds apart; can be called once.

        Raises VideoError at damage, or where a file is cut short, after the windows before it.
        """
        return (clips for clips in self.steps(window, stride) if clips is not None)

    def steps(self, window: float, stride: float) -> Iterator[WindowClips | None]:
        """Yields what `read` yields, and None after each frame, so that reading can pause within a window."""
        self._window, self._stride = window, stride
        is_known = self._reader.known_ticks() is not None
        with closing(self._frames(self._needs if is_known else None)) as frames:
            first = next(frames)  # decoding it may show that the file does not tell about others
            self._time_base, known = self._reader.time_base, self._reader.known_ticks()
            self._ticks = [] if known is None else known
            self._unplanned = (self._plan(*span) for span in self._spans())
            read = self._read_unknown if known is None else self._read_known
            yield from read(chain([first], frames))

    def read_at(self, spans: Iterable[tuple[float, float]]) -> Iterator[WindowClips]:
        """Yields the clips of windows anywhere in the video, by start and end in seconds after the first frame.

        Only the frames that they need are decoded. Raises VideoError where the file does not tell when its frames are
        shown, and at damage.
        """
        if not self._find_ticks():
            path = self._reader.path
            raise VideoError(f"{path}: it does not tell when its frames are shown: convert it to MP4")
        known = self._ticks
        for start, end in spans:
            window = self._plan(start, end)
            numbers = sorted(window.needed)
            with as_video_error(self._reader.path):
                images = self._reader.read(numbers)
            for number, image in zip(numbers, images, strict=True):
                self._keep(StreamedFrame(number, known[number], lambda image=image: image))
            yield self._clips(window)
            self._kept.clear()

    def spans(self, window: float, stride: float) -> list[tuple[float, float]]:
        """Returns start and end of the windows of `read`, in seconds after the first frame.

        The list is empty where the file does not tell when its frames are shown. Raises VideoError as `read_at`.
        """
        self._window, self._stride = window, stride
        return list(self._spans()) if self._find_ticks() else []

    def _find_ticks(self) -> bool:
        """Finds when all frames are shown, unless the file does not tell."""
        with as_video_error(self._reader.path):
            self._reader.read([0])  # which may show that the file does not tell about others
            self._time_base, known = self._reader.time_base, self._reader.known_ticks()
        self._ticks = [] if known is None else known
        return known is not None

    def _frames(self, needs: Callable[[int], bool] | None) -> Iterator[StreamedFrame]:
        frames = self._reader.stream(needs)
        while True:
            with as_video_error(self._reader.path):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame

    def _read_known(self, frames: Iterator[StreamedFrame]) -> Iterator[WindowClips | None]:
        for frame in frames:
            if self._needs(frame.number):
                self._keep(frame)
            # Only at its end, so that damage within a window is found before.
            while self._planned and self._planned[0].stop <= frame.number + 1:
                yield self._clips(self._planned.popleft())
            self._drop_before(self._planned[0].first if self._planned else frame.number + 1)
            yield None

    def _needs(self, number: int) -> bool:
        """Whether a window needs this frame. All windows that contain it are planned."""
        while not self._planned or self._planned[-1].first <= number:
            following = next(self._unplanned, None)
            if following is None:
                break
            self._planned.append(following)
        return any(number in window.needed for window in self._planned)

    def _read_unknown(self, frames: Iterator[StreamedFrame]) -> Iterator[WindowClips | None]:
        self._ticks, finished = [], 0
        for frame in frames:
            self._ticks.append(frame.tick)
            seconds = float((frame.tick - self._ticks[0]) * self._time_base)
            while (end := finished * self._stride + self._window) <= seconds + TOLERANCE:
                yield self._clips(self._plan(finished * self._stride, end))
                finished += 1
            self._keep(frame)
            self._drop_before(self._number_at(seconds - self._window) - 1)
            yield None
        for span in list(self._spans())[finished:]:
            yield self._clips(self._plan(*span))

    def _spans(self) -> Iterator[tuple[float, float]]:
        """Yields start and end of all windows, in seconds after the first frame; the last one ends with the video."""
        duration = float((self._end_tick() - self._ticks[0]) * self._time_base)
        end = 0.0
        for number in count():
            start = number * self._stride
            if start + self._window > duration + TOLERANCE:
                break
            end = start + self._window
            yield start, end
        if self._number_at(end) < len(self._ticks):
            yield max(0.0, duration - self._window), duration

    def _end_tick(self) -> int:
        """When the last frame ends: it is taken to be shown for as long as the others are on average."""
        ticks, timing = self._ticks, self._reader.timing
        if len(ticks) > 1:
            return last_end(ticks[0], ticks[-1], len(ticks))
        return ticks[0] + (timing.duration if timing else max(1, round(1 / (self._reader.fps * self._time_base))))

    def _number_at(self, seconds: float) -> int:
        """Number of the first frame that is first shown at this time after the first frame, or later."""
        return bisect_left(self._ticks, self._ticks[0] + (seconds - TOLERANCE) / float(self._time_base))

    def _plan(self, start: float, end: float) -> _Window:
        first, stop = self._number_at(start), self._number_at(end)
        if first == stop:  # no frame begins in this time: the one before it is shown
            first, stop = max(first - 1, 0), max(first, 1)
        plans = self._maker.plans(self._info(first, stop), range(first, stop))
        return _Window(start, end, first, stop, plans, needed_frames(frame for plan in plans for frame in plan))

    def _info(self, first: int, stop: int) -> VideoInfo:
        """What a file with these frames alone would say of them."""
        length, timing = stop - first, self._reader.timing
        if timing is None:
            return VideoInfo(length, self._sampled_fps)
        if not timing.times:
            share = StreamTiming(length, timing.fps, max(1, round(timing.duration * length / timing.num_frames)))
            return VideoInfo(length, self._sampled_fps, share)
        end = self._ticks[stop] if stop < len(self._ticks) else self._end_tick()
        return window_info(self._ticks[first:stop], end, self._time_base)

    def _keep(self, frame: StreamedFrame) -> None:
        with as_video_error(self._reader.path):
            self._kept[frame.number] = self._maker.prepare(frame.image())

    def _drop_before(self, first: int) -> None:
        for number in [number for number in self._kept if number < first]:
            del self._kept[number]

    def _clips(self, window: _Window) -> WindowClips:
        with as_video_error(self._reader.path):
            clips, views = self._maker.clips(window.plans, self._kept)
        delay = self._reader.delay
        return WindowClips(delay + window.start, delay + window.end, clips, views)
