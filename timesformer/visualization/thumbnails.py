"""Small pictures of frames at even distances over a video."""

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from timesformer.datasets.decoding.open import Video, VideoError, open_video

_QUALITY = 80  # of JPEG


@dataclass(frozen=True)
class Thumbnail:
    """A picture of the frame that is shown at a time."""

    time: float  # seconds from the start of the file
    jpeg: bytes


def read_thumbnails(video: Video, fps: float | None = None, number: int = 12, height: int = 120) -> list[Thumbnail]:
    """Returns thumbnails from the middles of `number` equal parts of a video; none if its frames cannot be read.

    They are `height` pixels high, or less if the video is smaller. `fps` is the frame rate of a video without one.
    """
    try:
        with open_video(video, short_side=height, allow_cut_short=True) as reader:
            reader.fps = reader.fps or fps or 0.0
            parts = min(number, reader.num_frames)
            numbers = [int((part + 0.5) * reader.num_frames / parts) for part in range(parts)]
            frames, times = reader.read(numbers), reader.times(numbers)
            delay = reader.delay
    except VideoError:
        return []
    times = [0.0 if math.isnan(time) else delay + time for time in times]
    return [Thumbnail(time, _jpeg(frame, height)) for time, frame in zip(times, frames, strict=True)]


def _jpeg(frame: np.ndarray, height: int) -> bytes:
    image, file = Image.fromarray(np.ascontiguousarray(frame)), io.BytesIO()
    if image.height > height:  # `short_side` is the width of an upright video
        image = image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.BOX)
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
