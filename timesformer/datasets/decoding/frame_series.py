"""Which images in a folder are the frames of its clip, and in which order.

Some tools write several series of images into one folder: RGB frames and optical flow, depth maps, masks. A series is
the images whose names have the same words: `flow_x_00012.jpg` has the words "flow" and "x", and the number 12.
"""

import functools
import os
import re
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from timesformer.datasets.decoding.base import VideoError

FRAME_EXTENSIONS = (".jpg", ".jpeg", ".png")  # in order of preference: a PNG may be a mask

_INTEGER = re.compile(r"(\d+)")
# With decimals as one number, but not the parts of a date such as 2020.01.31.
_DECIMAL = re.compile(r"((?<!\d\.)\d+\.\d+(?!\.?\d)|\d+)")
_WORD = re.compile(r"[^\W\d_]+")
_RGB = frozenset({"color", "colour", "frame", "frames", "image", "images", "img", "im", "rgb"})
_NO_RGB = frozenset(
    {"flow", "flowx", "flowy", "optical", "opticalflow", "u", "v", "x", "y"}  # optical flow
    | {"depth", "disparity", "infrared", "ir", "thermal"}  # other sensors
    | {"annotation", "annotations", "gt", "heatmap", "label", "labels", "mask", "masks", "normal", "normals"}
    | {"pose", "seg", "segmentation", "skeleton", "thumb", "thumbnail"}
)


class _Image(NamedTuple):
    name: str
    words: tuple[str, ...]
    numbers: tuple[Decimal | int, ...]
    extension: str


def is_image_name(name: str) -> bool:
    """Return whether `name` is that of a visible image file, of which a clip may consist."""
    return os.path.splitext(name)[1].lower() in FRAME_EXTENSIONS and not name.startswith(".")


def select_frames(folder: str, names: Sequence[str]) -> list[str]:
    """Return the names of the frames of the clip in `folder`, in order of the numbers in them: 2 before 10.

    Of several series, one is chosen by these rules, in this order:
        1. Images without a number are no frames if others have one.
        2. Series of optical flow, depth, masks and other annotations are left out, unless there is nothing else.
        3. Series that have no number in common are one clip.
        4. A series with one of the words img, image, frame, rgb or color is chosen if it is the only such series.
        5. Of images that differ in their extension alone, the extension of most images is chosen, or else .jpg.

    Raises VideoError, which names the series or files, where these rules leave more than one.
    """
    names = sorted(filter(is_image_name, names))
    pattern, number = (_DECIMAL, Decimal) if _have_decimals(names) else (_INTEGER, int)
    images = []
    for name in names:
        stem, extension = os.path.splitext(name)
        parts = pattern.split(stem)  # text and numbers in turn
        images.append(_Image(name, _words(tuple(parts[::2])), tuple(map(number, parts[1::2])), extension.lower()))
    images = _select_extension(folder, _select_series(folder, images))
    return [image.name for image in sorted(images, key=lambda image: image.numbers)]


@functools.lru_cache(maxsize=256)  # most names of a clip have the same text
def _words(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for text in texts for word in _WORD.findall(text.lower()))


def _have_decimals(names: Sequence[str]) -> bool:
    """Whether points between digits are decimal points: `0.5`, `0.25`; but not `1.9`, `1.10`, which are two numbers."""
    stems = (os.path.splitext(name)[0] for name in names)
    numbers = [number for stem in stems if "." in stem for number in _DECIMAL.findall(stem)]
    fractions = {number.partition(".")[2] for number in numbers if "." in number}
    # Decimals are either printed with as many digits each, or without zeros at their end.
    same_width = len({len(fraction) for fraction in fractions}) == 1
    return bool(fractions) and (same_width or not any(len(f) > 1 and f.endswith("0") for f in fractions))


def _select_series(folder: str, images: list[_Image]) -> list[_Image]:
    series: dict[tuple[str, ...], list[_Image]] = {}
    for image in images:
        series.setdefault(image.words, []).append(image)
    if len(series) == 1:
        return images
    series = {words: members for words, members in series.items() if any(i.numbers for i in members)} or series
    series = {words: members for words, members in series.items() if _NO_RGB.isdisjoint(words)} or series
    numbers = [{image.numbers for image in members if image.numbers} for members in series.values()]
    if sum(map(len, numbers)) == len(set().union(*numbers)):
        return [image for members in series.values() for image in members]
    rgb = [words for words in series if not _RGB.isdisjoint(words)]
    if len(rgb) != 1:
        described = ", ".join(f"{members[0].name} ({len(members)} images)" for members in series.values())
        raise VideoError(
            f"{folder}: several series of frames: {described}; expected one: move the others to folders of their own"
        )
    return series[rgb[0]]


def _select_extension(folder: str, images: list[_Image]) -> list[_Image]:
    if not _duplicates(images):
        return images
    counts = Counter(image.extension for image in images)
    chosen = max(FRAME_EXTENSIONS, key=lambda extension: counts[extension])
    images = [image for image in images if image.extension == chosen]
    if duplicates := _duplicates(images):
        first, second = duplicates
        raise VideoError(f"{folder}: {first} and {second} have the same number: remove or rename one of them")
    return images


def _duplicates(images: Sequence[_Image]) -> tuple[str, str] | None:
    """Names of two images of one series with the same number."""
    seen: dict[tuple[object, ...], str] = {}
    for image in images:
        other = seen.setdefault((image.words, image.numbers), image.name)
        if other != image.name:
            return other, image.name
    return None
