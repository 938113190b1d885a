"""What every reader of frames promises, whatever the clip is stored as."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from timesformer.errors import UserError

MAX_PIXELS = 2**26  # of a frame (8192 x 8192); a broken header may claim any size, and memory would be taken for it


class VideoError(UserError):
    """A clip that cannot be read; the message names the file."""


@dataclass(frozen=True)
class StreamTiming:
    """Frames, frame rate and duration of a stream, from the container's header, and the time of each frame.

    Attributes:
        num_frames: number of frames, at least 1.
        fps: mean frame rate in frames per second, above 0.
        duration: duration in ticks of the stream's time base, above 0.
        times: presentation times of the frames in ticks, rising; empty where the container does not store them, as AVI
            with reordered frames. The frames are then taken to be evenly spread over the duration.
    """

    num_frames: int
    fps: float
    duration: int
    times: Sequence[int] = ()

    def shown_between(self, start: float, end: float) -> tuple[int, int]:
        """Return the numbers of the first and the last frame that facebookresearch/TimeSformer decodes for a clip.

        Its decoder turns both positions into whole ticks, keeps the frames shown from the first tick to the second, and
        the one frame after them.

        Args:
            start: position of the clip's first frame, 0 to num_frames - 1; fractions are allowed.
            end: position of its last frame.

        Returns:
            The two numbers, first <= last. Both are the last frame where no frame is shown as late as `start`.
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


class VideoReader(ABC):
    """Frames of one clip, by number in the order shown; use it as a context manager.

    num_frames: frames of the clip, at least 1; corrected by `read` when fewer can be decoded than the file promises.
    fps: frames per second, 0.0 where unknown (folders of frames).
    timing: when frames are shown; None where the container has no duration, and for folders of frames.
    """

    num_frames: int
    fps: float
    timing: StreamTiming | None = None

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Return the frames of these numbers as uint8 (T, H, W, 3) RGB; numbers may repeat and come in any order.

        Raises VideoError when one of them cannot be decoded, IndexError when one is outside 0..num_frames-1.
        """
        wanted = sorted({int(index) for index in indices})
        if not wanted or wanted[0] < 0 or wanted[-1] >= self.num_frames:
            raise IndexError(f"frames {list(indices)} of {self.path}: expected numbers from 0 to {self.num_frames - 1}")
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(int(index), []).append(place)
        clip = np.empty(0, np.uint8)
        # One by one, as memory of its own for every frame takes longer than to copy it.
        for number, image in self._frames(wanted):
            if not clip.size:
                clip = np.empty((len(indices), *image.shape), np.uint8)
            self._check_size(image, clip.shape[1:])
            for place in places[number]:
                clip[place] = image
        return clip

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames that `read` returns, in pixels; VideoError as `read` has it."""
        height, width, _ = self.read([0])[0].shape
        return width, height

    def times(self, numbers: Sequence[int]) -> tuple[float, ...]:
        """When the frames of these numbers are shown, in seconds after the first frame; NaN where that is unknown.

        Raises VideoError when that can only be found by decoding, and decoding fails.
        """
        return tuple(number / self.fps if self.fps else math.nan for number in numbers)

    @property
    def seconds(self) -> float:
        """For how long the clip is shown, in seconds; 0.0 where that is unknown."""
        return self.num_frames / self.fps if self.fps else 0.0

    def frames(self) -> Iterator[np.ndarray]:
        """Yield every frame in order, uint8 (H, W, 3) RGB, one at a time; VideoError as `read` has it."""
        shape: tuple[int, ...] = ()
        for image in self._every_image():
            self._check_size(image, shape or image.shape)
            shape = image.shape
            yield image

    def verify(self) -> None:
        """Decode every frame, keeping none; VideoError when one is missing or broken.

        Afterwards, `num_frames` is the number of frames that can be decoded.
        """
        for _ in self.frames():
            pass

    def close(self) -> None:  # noqa: B027  # not abstract: some readers have nothing to close
        """Let go of the file and of what was read of it."""

    def _every_image(self) -> Iterator[np.ndarray]:
        """Yield every frame in order, uint8 (H, W, 3), of any size."""
        for number in range(self.num_frames):
            yield self.read([number])[0]

    @abstractmethod
    def _frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield number and picture, uint8 (H, W, 3), of each of these frames (rising, each once), in any order.

        A picture may be yielded again, and may change when the next one is asked for.
        """

    def _check_size(self, image: np.ndarray, shape: Sequence[int]) -> None:
        """Raise VideoError for a frame that has another shape than (H, W, 3) = `shape`."""
        if image.shape != tuple(shape):
            sizes = f"{image.shape[1]}x{image.shape[0]} and {shape[1]}x{shape[0]}"
            raise self._error(f"its frames differ in size ({sizes} pixels): expected one size; scale or remove some")

    def _error(self, reason: str) -> VideoError:
        return VideoError(f"{self.path}: {reason}")


def scaled(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return (width, height) scaled down so that the shorter of them is `short_side`; as they are if it is smaller.

    short_side 0 stands for no scaling. Nothing is ever enlarged, and no side is rounded below `short_side`.
    """
    short = min(width, height)
    if not short_side or short <= short_side:
        return width, height
    return round(width * short_side / short), round(height * short_side / short)
