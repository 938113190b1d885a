"""Pre-sampling augmentation: short clips are stretched as descriptions of frames, and only sampled ones get pixels.

A clip that is too short is lengthened by these methods, in the given order and repeated until it is long enough:

    interpolate   one mean frame between each two neighbours: n frames become 2n - 1
    reverse       the frames backwards are appended without repeating the last: 2n - 1
    brightness    a copy of the whole list is appended for every gain: n (1 + gains)

The result is cut to the wanted length, as in the HMDB_simp study (github.com/Sayzal28/EEEM068_Action_Recognition).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from timesformer.datasets.decoding.base import VideoError


@dataclass(frozen=True)
class Mean:
    """The mean of two frames, pixel by pixel."""

    first: "Frame"
    second: "Frame"


@dataclass(frozen=True)
class Gain:
    """A frame times a factor, clipped to 0..255."""

    frame: "Frame"
    factor: float


Frame = int | Mean | Gain  # an int is the number of a source frame


class Timeline(Sequence[Frame]):
    """Descriptions of the frames of a clip, stretched to `length` frames if it is shorter and the methods can.

    A clip that is long enough stays whole; one that the methods cannot lengthen stays short. From the second round on,
    methods work on clipped but not on rounded values: pixels are rounded once. `factors` are the gains of `brightness`.

    Raises VideoError if `num_frames`, the number of source frames, is 0.
    """

    def __init__(
        self, num_frames: int, length: int = 0, methods: Sequence[str] = (), factors: Sequence[float] = ()
    ) -> None:
        if num_frames < 1:
            raise VideoError("a clip without frames cannot be stretched: remove it from the split files")
        growth: dict[str, Callable[[int], int]] = {
            "interpolate": lambda n: 2 * n - 1,
            "reverse": lambda n: 2 * n - 1,
            "brightness": lambda n: n * (1 + len(factors)),
        }
        self._factors = tuple(factors)
        self._steps: list[tuple[str, int]] = []  # (method, number of frames that it was applied to)
        frames, before = num_frames, 0
        while frames < length and frames != before:
            before = frames
            for method in methods:
                if frames < length:
                    self._steps.append((method, frames))
                    frames = growth[method](frames)
        self._length = max(num_frames, min(frames, length))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> Frame:  # type: ignore[override]  # no slices
        if not 0 <= position < self._length:
            raise IndexError(f"position {position} of a timeline of {self._length} frames")
        return self._describe(position, len(self._steps))

    def _describe(self, position: int, steps: int) -> Frame:
        """Frame at `position` of the list that the first `steps` steps make."""
        if not steps:
            return position
        method, length = self._steps[steps - 1]
        if method == "interpolate":
            first = self._describe(position // 2, steps - 1)
            return Mean(first, self._describe(position // 2 + 1, steps - 1)) if position % 2 else first
        if method == "reverse":
            return self._describe(position if position < length else 2 * length - 2 - position, steps - 1)
        copy, position = divmod(position, length)
        frame = self._describe(position, steps - 1)
        return Gain(frame, self._factors[copy - 1]) if copy else frame


def render(frames: Sequence[Frame], read: Callable[[tuple[int, ...]], np.ndarray]) -> np.ndarray:
    """Make the pixels of `frames`, uint8 [frames, height, width, 3].

    `read` returns source frames by number (rising, each once), uint8 [N, height, width, 3]; it is called once.
    """
    numbers = tuple(sorted(needed_frames(frames)))
    pixels: dict[Frame, np.ndarray] = dict(zip(numbers, read(numbers), strict=True))
    images = (_pixels(frame, pixels) for frame in frames)
    return np.stack([image if image.dtype == np.uint8 else np.rint(image).astype(np.uint8) for image in images])


def source_numbers(frames: Sequence[Frame]) -> tuple[int, ...]:
    """Return the number of the source frame that each of `frames` is, or of the first that it is made of."""
    return tuple(next(_sources(frame)) for frame in frames)


def renumber(frame: Frame, numbers: Sequence[int]) -> Frame:
    """Return the frame made of `numbers[i]` instead of each source frame i."""
    if isinstance(frame, Mean):
        return Mean(renumber(frame.first, numbers), renumber(frame.second, numbers))
    if isinstance(frame, Gain):
        return Gain(renumber(frame.frame, numbers), frame.factor)
    return numbers[frame]


def needed_frames(frames: Iterable[Frame]) -> set[int]:
    """Return the numbers of all source frames that `frames` are made of."""
    return {number for frame in frames for number in _sources(frame)}


def _sources(frame: Frame) -> Iterator[int]:
    if isinstance(frame, Mean):
        yield from _sources(frame.first)
        yield from _sources(frame.second)
    elif isinstance(frame, Gain):
        yield from _sources(frame.frame)
    else:
        yield frame


def _pixels(frame: Frame, known: dict[Frame, np.ndarray]) -> np.ndarray:
    if frame not in known:
        if isinstance(frame, Mean):
            first, second = _pixels(frame.first, known), _pixels(frame.second, known)
            known[frame] = (first.astype(np.float32) + second) / np.float32(2)
        elif isinstance(frame, Gain):
            known[frame] = np.clip(_pixels(frame.frame, known).astype(np.float32) * np.float32(frame.factor), 0, 255)
    return known[frame]
