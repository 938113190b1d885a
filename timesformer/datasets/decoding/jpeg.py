"""Fast decoding of JPEG images by simplejpeg (libjpeg-turbo), with the pixels of Pillow."""

from collections.abc import Callable

import numpy as np

from timesformer.datasets.decoding.base import MAX_PIXELS, scaled

try:
    import simplejpeg
except ImportError:  # Pillow reads all images
    simplejpeg = None

NAMES = (".jpg", ".jpeg")
_COLORS = frozenset({"YCbCr", "Gray", "RGB"})
_APP1, _FILL, _START_OF_SCAN = 0xE1, 0xFF, 0xDA  # markers


Place = Callable[[tuple[int, ...]], np.ndarray]
"""Returns the contiguous uint8 array of this shape for the pixels."""


def decode_jpeg(content: bytes, place: Place, short_side: int = 0) -> bool:
    """Decode an image whose pixels need no interpretation.

    Args:
        content: of the file.
        place: called with the shape, [height, width, 3], once it is known; the pixels are RGB.
        short_side: decode at 1/2, 1/4 or 1/8 of the size if the short side stays at least so many pixels; 0: never.

    Returns whether the image is decoded. Not decoded, and left to Pillow, are damaged images, other formats, CMYK,
    images with EXIF or XMP data, which may rotate them, and images of more than MAX_PIXELS; all without simplejpeg.
    """
    if simplejpeg is None or _has_metadata(content):
        return False
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
        if colors not in _COLORS or height * width > MAX_PIXELS:
            return False
        height, width = _decoded_size(height, width, short_side)
        # simplejpeg chooses the smallest scale that is no smaller than this: exactly this.
        simplejpeg.decode_jpeg(content, min_height=height, min_width=width, buffer=place((height, width, 3)))
    except ValueError:
        return False
    return True


def _has_metadata(content: bytes) -> bool:
    """Whether there are EXIF or XMP data (APP1) before the pixels, or anything else than segments (ITU T.81, B.1)."""
    position = 2
    while content[position : position + 1] == b"\xff":
        marker = content[position + 1] if position + 1 < len(content) else _FILL
        if marker in (_APP1, _FILL, _START_OF_SCAN):
            return marker != _START_OF_SCAN
        position += 2 + int.from_bytes(content[position + 2 : position + 4], "big")
    return True


def _decoded_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Height and width at the scale that Pillow's `Image.draft` chooses."""
    least_width, least_height = scaled(width, height, short_side)
    limit = min(width // least_width, height // least_height)
    scale = next(scale for scale in (8, 4, 2, 1) if scale <= limit)
    return -(-height // scale), -(-width // scale)
