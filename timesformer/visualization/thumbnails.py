"""Small pictures of frames at even distances over a video of unknown length."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

_QUALITY = 80  # of JPEG


@dataclass(frozen=True)
class Thumbnail:
    """A picture of the frame that is shown at a time."""

    time: float  # seconds
    jpeg: bytes


class Thumbnails:
    """Collects thumbnails while a video is decoded. Memory does not depend on its length."""

    def __init__(self, number: int = 12, height: int = 120) -> None:
        """number: how many to show; height: in pixels."""
        self._number, self._height = number, height
        self._interval, self._next = 0.0, -math.inf  # seconds
        self._found: list[Thumbnail] = []

    def add(self, time: float, image: Callable[[], np.ndarray]) -> None:
        """Takes a frame, uint8 [height, width, 3], at a time in seconds; `image` is called for few of them."""
        if time < self._next:
            return
        self._found.append(Thumbnail(time, _shrink(image(), self._height)))
        if len(self._found) == 4 * self._number:
            self._found = self._found[::2]
            self._interval = (self._found[-1].time - self._found[0].time) / (len(self._found) - 1)
        self._next = self._found[-1].time + 0.999 * self._interval

    def spread(self) -> list[Thumbnail]:
        """Returns up to `number` thumbnails, evenly spaced from the first to the last frame taken."""
        places = np.linspace(0, len(self._found) - 1, min(self._number, len(self._found)))
        return [self._found[round(place)] for place in places]


def _shrink(frame: np.ndarray, height: int) -> bytes:
    image, file = Image.fromarray(np.ascontiguousarray(frame)), io.BytesIO()
    width = max(1, round(image.width * height / image.height))
    image.resize((width, height), Image.Resampling.BOX).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
