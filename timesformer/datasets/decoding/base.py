"""The interface of readers of frames, whatever a clip is stored as."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from timesformer.errors import UserError

MAX_PIXELS = 2**26  # of a frame (8192 x 8192); a broken header may claim any size


class VideoError(UserError):
    """A clip that cannot be read; the message names the file."""


@dataclass(frozen=True)
class StreamTiming:
    """What the header of a video file says of its stream, and when its frames are shown.

    `num_frames` is at least 1; the mean `fps` and the `duration` in ticks of the stream's time base are above 0.
    `times` are presentation times in ticks, rising; if empty, frames are spread evenly over the duration.
    """

    num_frames: int
    fps: float
    duration: int
    times: Sequence[int] = ()

    def shown_between(self, start: float, end: float) -> tuple[int, int]:
        """Return the first and the last frame that facebookresearch/TimeSformer decodes for a clip.

        `start` and `end` are positions of its first and last frame, from 0, or between frames. Both become whole ticks;
        the frames shown from the first to the second and the one after them are kept. Both results are the last frame
        if no frame is shown as late as `start`.
        """
        step = self.duration / self.num_frames
        from_tick, to_tick = int(start * step), int(end * step)
        if self.times:
            last_frame = len(self.times) - 1
            first, last = bisect_left(self.times, from_tick), bisect_right(self.times, to_tick)
        else:
            last_frame = self.num_frames - 1
            first, last = math.ceil(from_tick / step), math.floor(to_tick / step) + 1
        first = min(first, last_frame)
        return first, max(first, min(last, last_frame))


class Content(Protocol):
    """The content of a video file that has no path of its own: in memory, or a part of another file."""

    def open(self) -> BinaryIO:
        """Return it as a file, which has an attribute `name`: its extension may decide which of two formats it is."""


class StreamedFrame(NamedTuple):
    """A frame of a video that is decoded in order."""

    number: int
    tick: int  # when it is shown, in units of the reader's `time_base`; ticks rise
    image: Callable[[], np.ndarray]  # converts it to uint8 [height, width, 3], RGB; until the next frame is taken


class VideoReader(ABC):
    """Frames of one clip, by number in the order shown; a context manager.

    `num_frames` is at least 1; `read` corrects it when fewer decode than the file promises. `fps` is 0.0 if unknown.
    `timing` is None for files without a duration and for folders of frames. `delay` is the time in seconds from the
    start of the file, such as its sound, to the first frame.
    """

    num_frames: int
    fps: float
    timing: StreamTiming | None = None
    delay: float = 0.0

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Return frames as uint8 [frames, height, width, 3], RGB; indices may repeat and come in any order.

        Raises VideoError when one cannot be decoded, IndexError when one is outside 0..num_frames-1.
        """
        positions = self._positions(indices)
        clip = np.empty(0, np.uint8)
        for number, image in self._frames(list(positions)):  # copied one by one, which is faster than stacking them
            if not clip.size:
                clip = np.empty((len(indices), *image.shape), np.uint8)
            self._check_size(image.shape, clip.shape[1:])
            clip[positions[number]] = image
        return clip

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames in pixels; VideoError if the first one cannot be decoded."""
        height, width, _ = self.read([0])[0].shape
        return width, height

    def times(self, numbers: Sequence[int]) -> tuple[float, ...]:
        """Return when frames are shown, in seconds after the first frame; NaN where unknown."""
        return tuple(number / self.fps if self.fps else math.nan for number in numbers)

    @property
    def seconds(self) -> float:
        """Duration of the clip in seconds; 0.0 where unknown."""
        return self.num_frames / self.fps if self.fps else 0.0

    def frames(self) -> Iterator[np.ndarray]:
        """Yield every frame in order, uint8 [height, width, 3], RGB; VideoError as `read`."""
        shape: tuple[int, ...] = ()
        for image in self._every_image():
            self._check_size(image.shape, shape or image.shape)
            shape = image.shape
            yield image

    @property
    def time_base(self) -> Fraction:
        """Duration of a tick of `known_ticks` and `stream` in seconds; VideoError if the frame rate is unknown."""
        if not self.fps:
            raise self._error("its frame rate is unknown: give it (--fps, in Python fps=25)")
        return 1 / Fraction(self.fps)

    def known_ticks(self) -> Sequence[int] | None:
        """Return when each frame is shown, as `stream` yields it; None if that is unknown before frames are decoded.

        If needed, call it before `stream`: all packets of a large file are read for it, except of MP4 and QuickTime.
        """
        return range(self.num_frames)

    def stream(self, needs: Callable[[int], bool] | None = None) -> Iterator[StreamedFrame]:
        """Yield every frame in order, decoded once; only frames whose `image` is called are converted.

        `needs` tells by its number whether a frame is needed. It is called after the first frame has been yielded, with
        numbers ahead of those yielded; frames that are not needed may be left out. Raises VideoError at a frame that
        cannot be decoded.
        """
        for number in range(self.num_frames):
            yield StreamedFrame(number, number, lambda number=number: self.read([number])[0])

    def verify(self) -> None:
        """Decode every frame and correct `num_frames`; VideoError when one is missing or broken."""
        for _ in self.frames():
            pass

    def close(self) -> None:  # noqa: B027  # not abstract: some readers have nothing to close
        """Release the file and what was read of it."""

    def _every_image(self) -> Iterator[np.ndarray]:
        for number in range(self.num_frames):
            yield self.read([number])[0]

    def _positions(self, indices: Sequence[int]) -> dict[int, list[int]]:
        """Where each frame is in `indices`, by its number, rising; IndexError as `read`."""
        positions = defaultdict(list)
        for position, index in enumerate(indices):
            positions[int(index)].append(position)
        if not positions or min(positions) < 0 or max(positions) >= self.num_frames:
            raise IndexError(f"frames {list(indices)} of {self.path}: expected numbers from 0 to {self.num_frames - 1}")
        return dict(sorted(positions.items()))

    @abstractmethod
    def _frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield number and image, uint8 [height, width, 3], of these frames (rising, each once), in any order."""

    def _check_size(self, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if found != expected:
            sizes = f"{found[1]}x{found[0]} and {expected[1]}x{expected[0]}"
            raise self._error(f"its frames differ in size ({sizes} pixels): expected one size; scale or remove some")

    def _error(self, reason: str) -> VideoError:
        return VideoError(f"{self.path}: {reason}")


def scaled(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return width and height scaled down to a shorter side of `short_side` pixels; nothing is enlarged. 0: as is."""
    short = min(width, height)
    if not short_side or short <= short_side:
        return width, height
    return round(width * short_side / short), round(height * short_side / short)
