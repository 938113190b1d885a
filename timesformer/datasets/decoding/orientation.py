"""How stored pictures are turned and mirrored before they are shown: EXIF orientation, display matrices of videos."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Orientation(NamedTuple):
    """One of the eight orientations: rows and columns are swapped first, then the result is flipped.

    Attributes:
        transposed: whether rows become columns.
        flip_x: whether left and right are swapped.
        flip_y: whether top and bottom are swapped.
    """

    transposed: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The picture as it is shown, a view of `image` of shape (H, W, ...)."""
        if self.transposed:
            image = image.swapaxes(0, 1)
        return image[:: -1 if self.flip_y else 1, :: -1 if self.flip_x else 1]

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the shown picture."""
        return (height, width) if self.transposed else (width, height)


UPRIGHT = Orientation()
# Values 1 to 8 of the EXIF tag Orientation (0x0112): where the first row and the first column are shown.
_EXIF = (
    UPRIGHT,
    Orientation(flip_x=True),
    Orientation(flip_x=True, flip_y=True),
    Orientation(flip_y=True),
    Orientation(transposed=True),
    Orientation(transposed=True, flip_x=True),
    Orientation(transposed=True, flip_x=True, flip_y=True),
    Orientation(transposed=True, flip_y=True),
)


def from_exif(value: object) -> Orientation:
    """Orientation of a value of the EXIF tag 0x0112; upright where the value is none of 1 to 8."""
    return _EXIF[value - 1] if isinstance(value, int) and 1 <= value <= len(_EXIF) else UPRIGHT


def from_display_matrix(matrix: Sequence[int]) -> Orientation:
    """Orientation of the nine numbers of a display matrix (ISO/IEC 14496-12, 8.2.2); the nearest one if it is oblique.

    A point (x, y) of the stored picture is shown at (a x + c y, b x + d y), where y grows downwards.
    """
    a, b, _, c, d = (int(number) for number in matrix[:5])
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    return Orientation(transposed, (c if transposed else a) < 0, (b if transposed else d) < 0)
