"""Corruptions of time: frames of a clip that are dropped or in another order, and videos of other frame rates."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from timesformer.datasets.decoding.base import VideoError, VideoReader
from timesformer.datasets.transforms.frame_order import shuffled_frames


def dropped(frames: int, share: float, key: Sequence[int]) -> np.ndarray:
    """Numbers of the frames of a clip, int64 (frames,), a share of which is lost and replaced by the one before.

    The first frame is never lost. `key` is (seed, video, view).
    """
    lost = 1 + np.random.default_rng(key).permutation(frames - 1)[: round(share * (frames - 1))]
    order = np.arange(frames)
    order[lost] = 0
    return np.maximum.accumulate(order)


def shuffled(frames: int, share: float, key: Sequence[int]) -> np.ndarray:
    """Numbers of the frames of a clip, int64 (frames,), a share of which (two at least) is in random order.

    With share 1 the order is that of TEST.MEASURE_ORDER. `key` is (seed, video, view).
    """
    moved = min(frames, max(2, round(share * frames)))
    chosen = np.sort(np.random.default_rng(key).permutation(frames)[:moved])
    order = np.arange(frames)
    order[chosen] = chosen[shuffled_frames(moved, *key)]
    return order


def backwards(frames: int, share: float, key: Sequence[int]) -> np.ndarray:
    """Numbers of the frames of a clip, int64 (frames,), the first share of which (two at least) runs backwards."""
    turned = min(frames, max(2, math.ceil(share * frames - 1e-9)))
    return np.concatenate([np.arange(turned)[::-1], np.arange(turned, frames)])


class RetimedReader(VideoReader):
    """A video whose frame n is a frame of another one.

    Args:
        reader: of the other video.
        source: number of a frame to that of the other video; rising.
        length: number of frames of the other video to that of this one.
        keeps_times: whether frames are shown at the same times as before.
    """

    def __init__(
        self, reader: VideoReader, source: Callable[[int], int], length: Callable[[int], int], keeps_times: bool
    ) -> None:
        super().__init__(reader.path)
        self._reader, self._source, self._length = reader, source, length
        self.fps, self.timing = reader.fps, reader.timing if keeps_times else None
        self.num_frames = length(reader.num_frames)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        try:
            return self._reader.read(self._sources(indices))
        except VideoError:
            self.num_frames = self._length(self._reader.num_frames)
            raise

    def times(self, numbers: Sequence[int]) -> tuple[float, ...]:
        return self._reader.times(self._sources(numbers))

    def close(self) -> None:
        self._reader.close()

    def _sources(self, numbers: Sequence[int]) -> list[int]:
        last = self._reader.num_frames - 1  # which a rounded factor may exceed
        return [min(self._source(number), last) for number in numbers]

    def _frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        yield from zip(wanted, self.read(wanted), strict=True)


def low_frame_rate(reader: VideoReader, every: float) -> VideoReader:
    """The video with every N-th frame only, each shown N times as long."""
    return RetimedReader(reader, lambda number: int(number // every * every), lambda length: length, keeps_times=True)


def faster(reader: VideoReader, factor: float) -> VideoReader:
    """The video with 1 / factor of its frames, shown at the same frame rate; a factor below 1 repeats frames."""
    return RetimedReader(
        reader, lambda number: int(number * factor), lambda length: math.ceil(length / factor), keeps_times=False
    )


def slower(reader: VideoReader, factor: float) -> VideoReader:
    """The video with each frame repeated, so that it lasts `factor` times as long at the same frame rate."""
    return faster(reader, 1 / factor)
