"""Pixels of decoded frames: upright RGB images of one size."""

from math import cos, radians, sin

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from timesformer.datasets.decoding.base import scaled


class RgbConverter:
    """Converts frames of one stream; frames larger than `short_side` pixels are scaled down to it (0: as they are)."""

    def __init__(self, short_side: int = 0) -> None:
        self._short_side = short_side
        self._scaler, self._converter = VideoReformatter(), VideoReformatter()

    def __call__(self, frame: av.VideoFrame, coded_size: tuple[int, int]) -> np.ndarray:
        """Return an image, uint8 [height, width, 3], RGB; the display matrix is applied.

        `coded_size` is width and height of the first frame of the stream; other frames are scaled to it.
        """
        transposed, flip_x, flip_y = orientation(frame)
        size = scaled(*coded_size, self._short_side)
        # threads=1: by default the color conversion starts a thread for every core, and for every frame.
        if (frame.width, frame.height) != coded_size:  # as the program `ffmpeg` does it
            frame = self._converter.reformat(frame, *size, "rgb24", interpolation="BICUBIC", threads=1)
        elif size != coded_size:
            # First the size, in the colors the frame has: both at once take swscale several times as long.
            frame = self._scaler.reformat(frame, *size, interpolation="AREA", threads=1)
        image = self._converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        image = image.swapaxes(0, 1) if transposed else image
        return image[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Return whether rows become columns, and left and right, top and bottom are then swapped.

    Oblique angles are rounded. In a display matrix (ISO/IEC 14496-12, 8.2.2), a point (x, y) is shown at
    (a x + c y, b x + d y), y downwards.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # side data of a type that PyAV has no name for, such as EXIF data of Motion JPEG
        angle = radians(frame.rotation)  # counter-clockwise
        a, b, c, d = cos(angle), -sin(angle), sin(angle), cos(angle)
    else:
        if matrix is None:
            return False, False, False
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    return transposed, (c if transposed else a) < 0, (b if transposed else d) < 0
