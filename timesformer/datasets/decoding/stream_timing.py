"""When the frames of a video stream are shown, as its container says."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


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
