"""Which images in a folder are the frames of its clip, and in which order.

Some tools write several series of images into one folder: RGB frames and optical flow, depth maps, masks. A series is
the images whose names have the same words: `flow_x_00012.jpg` has the words "flow" and "x", and the number 12.
"""

import functools
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from decimal import Decimal
from typing import NamedTuple

from timesformer.datasets.decoding.base import VideoError

FRAME_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png"})
_PREFERENCE = (".jpg", ".jpeg", ".png")  # of series that are complete in several formats: a PNG may be a mask

_INTEGER = re.compile(r"(\d+)")
# With decimals as one number, but not the parts of a date such as 2020.01.31.
_DECIMAL = re.compile(r"((?<!\d\.)\d+\.\d+(?!\.?\d)|\d+)")
_WORD = re.compile(r"[^\W\d_]+")
_RGB = frozenset({"color", "colour", "frame", "frames", "image", "images", "img", "im", "rgb"})
_NO_RGB = frozenset(
    # optical flow
    {"flow", "flowx", "flowy", "optical", "opticalflow", "u", "v", "x", "y"}
    # other sensors
    | {"depth", "disparity", "infrared", "ir", "thermal"}
    # annotations
    | {"annotation", "annotations", "gt", "heatmap", "label", "labels", "mask", "masks", "normal", "normals"}
    | {"pose", "seg", "segmentation", "skeleton", "thumb", "thumbnail"}
)

Words = tuple[str, ...]


class _Image(NamedTuple):
    """A file's name in parts; `order` has text and numbers by turns, so that only numbers are compared with numbers."""

    name: str
    words: Words
    numbers: tuple[Decimal | int, ...]
    order: Sequence[str | Decimal | int]
    extension: str


def is_image_name(name: str) -> bool:
    """Whether `name` is that of a visible image file, of which a clip may consist."""
    return os.path.splitext(name)[1].lower() in FRAME_EXTENSIONS and not name.startswith(".")


def select_frames(folder: str, names: Sequence[str]) -> list[str]:
    """Names of the frames of the clip in `folder`, in order of the numbers in them: 2 before 10, 0.25 before 0.5.

    Of several series, one is chosen by these rules, in this order:
        1. Images without a number are no frames if others have one.
        2. Series of optical flow (flow_x, flow_y, x, y, u, v), depth, masks and other annotations are left out, unless
           there is nothing else.
        3. Series that have no number in common are one clip.
        4. A series with one of the words img, image, frame, rgb or color is chosen if it is the only such series.
        5. Of images that differ in their extension alone, the extension of most images is chosen, or else .jpg.

    names: of files in the folder; other files are left out.

    Raises VideoError, which names the series or files, where these rules leave more than one.
    """
    names = sorted(name for name in names if is_image_name(name))  # a folder is listed in any order
    pattern, number = (_DECIMAL, Decimal) if _have_decimals(names) else (_INTEGER, int)
    images = [_parse(name, pattern, number) for name in names]
    if len({image.words for image in images}) > 1:
        images = _select_series(folder, images)
    images = _select_extension(folder, images)
    if len({image.words for image in images}) > 1:  # I-frame_001, P-frame_002: the words do not order them
        images = sorted(images, key=lambda image: image.numbers)
    else:
        images = sorted(images, key=lambda image: image.order)
    return [image.name for image in images]


def _parse(name: str, pattern: re.Pattern[str], number: type[Decimal] | type[int]) -> _Image:
    stem, extension = os.path.splitext(name)
    order: list[str | Decimal | int] = list(pattern.split(stem))
    order[1::2] = map(number, order[1::2])
    return _Image(name, _words(tuple(order[::2])), tuple(order[1::2]), order, extension.lower())


@functools.lru_cache(maxsize=256)  # of the frames of a clip, nearly all names have the same text
def _words(texts: tuple[str, ...]) -> Words:
    return tuple(word for text in texts for word in _WORD.findall(text.lower()))


def _have_decimals(names: Sequence[str]) -> bool:
    """Whether points between digits are decimal points: `0.5`, `0.25`; but not `1.9`, `1.10`, which are two numbers."""
    stems = (os.path.splitext(name)[0] for name in names)
    numbers = [number for stem in stems if "." in stem for number in _DECIMAL.findall(stem)]
    fractions = {number.partition(".")[2] for number in numbers if "." in number}
    # Decimals are either printed with as many digits each, or without zeros at their end.
    same_width = len({len(fraction) for fraction in fractions}) == 1
    return bool(fractions) and (same_width or not any(len(f) > 1 and f.endswith("0") for f in fractions))


def _select_series(folder: str, images: Sequence[_Image]) -> list[_Image]:
    series: dict[Words, list[_Image]] = {}
    for image in images:
        series.setdefault(image.words, []).append(image)
    numbered = {words: members for words, members in series.items() if any(image.numbers for image in members)}
    series = numbered or series
    series = {words: members for words, members in series.items() if _NO_RGB.isdisjoint(words)} or series
    if _share_numbers(series.values()):
        rgb = [words for words in series if not _RGB.isdisjoint(words)]
        if len(rgb) != 1:
            described = ", ".join(f"{members[0].name} ({len(members)} images)" for members in series.values())
            raise VideoError(
                f"{folder}: several series of frames, and no rule that tells which one is the clip: {described}; "
                "expected one series: move the others to folders of their own"
            )
        return series[rgb[0]]
    return [image for members in series.values() for image in members]


def _share_numbers(series: Collection[Sequence[_Image]]) -> bool:
    numbers = [{image.numbers for image in members if image.numbers} for members in series]
    return sum(map(len, numbers)) > len(set().union(*numbers))


def _select_extension(folder: str, images: Sequence[_Image]) -> Sequence[_Image]:
    if not _repeated(images):
        return images
    counts = Counter(image.extension for image in images)
    chosen = max(_PREFERENCE, key=lambda extension: counts[extension])  # the first of equal ones
    images = [image for image in images if image.extension == chosen]
    if repeated := _repeated(images):
        raise VideoError(
            f"{folder}: {repeated[0]} and {repeated[1]} have the same number: expected one image for each frame; "
            "remove or rename one of them"
        )
    return images


def _repeated(images: Sequence[_Image]) -> tuple[str, str] | None:
    """Names of two images of one series and number, None where there are none."""
    seen: dict[tuple[Words, tuple[Decimal | int, ...]], str] = {}
    for image in images:
        other = seen.setdefault((image.words, image.numbers), image.name)
        if other != image.name:
            return other, image.name
    return None
