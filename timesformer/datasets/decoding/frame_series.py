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

import numpy as np

from timesformer.datasets.decoding.base import VideoError

FRAME_EXTENSIONS = (".jpg", ".jpeg", ".png")  # in order of preference: a PNG may be a mask

_INTEGER = re.compile(r"(\d+)")
# With decimals as one number, but not the parts of a date such as 2020.01.31.
_DECIMAL = re.compile(r"((?<!\d\.)\d+\.\d+(?!\.?\d)|\d+)")
# Text, a number and an extension.
_NUMBERED = re.compile(r"(.*?)([0-9]+)(\.\w+)", re.DOTALL)
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
    if numbered := _sort_by_number(names):
        return numbered
    names = sorted(filter(is_image_name, names))
    pattern, number = (_DECIMAL, Decimal) if _have_decimals(names) else (_INTEGER, int)
    images = []
    for name in names:
        stem, extension = os.path.splitext(name)
        parts = pattern.split(stem)  # text and numbers in turn
        images.append(_Image(name, _words(tuple(parts[::2])), tuple(map(number, parts[1::2])), extension.lower()))
    images = _select_extension(folder, _select_series(folder, images))
    return [image.name for image in sorted(images, key=lambda image: image.numbers)]


def _sort_by_number(names: Sequence[str]) -> list[str]:
    """The names, sorted, if all are those of images and differ in a whole number alone; else an empty list."""
    match = _NUMBERED.fullmatch(names[0]) if names and is_image_name(names[0]) else None
    if match is None:
        return []
    before, digits, after = match.groups()
    if _have_form(names, before, len(digits), after):
        return sorted(names)
    if "." in before or not all(name.startswith(before) and name.endswith(after) for name in names):
        return []  # the numbers may be decimals
    texts = [name[len(before) : -len(after)] for name in names]
    numbers = {int(text): name for text, name in zip(texts, names, strict=True) if _INTEGER.fullmatch(text)}
    # 1 and 01 are two images of one number.
    return [numbers[number] for number in sorted(numbers)] if len(numbers) == len(names) else []


def _have_form(names: Sequence[str], before: str, digits: int, after: str) -> bool:
    """Whether the names differ in a number of so many digits alone; faster than to look at one after the other."""
    start, end = (text.encode("utf-8", "surrogateescape") for text in ("/" + before, after))
    text = np.frombuffer(("/" + "/".join(names)).encode("utf-8", "surrogateescape"), np.uint8)
    if len(text) != len(names) * (len(start) + digits + len(end)):
        return False
    table = text.reshape(len(names), -1)  # a slash at the start of each row shows that it is a name
    number = table[:, len(start) : len(start) + digits] - ord("0")  # wraps around below "0"
    is_start, is_end = (np.frombuffer(part, np.uint8) for part in (start, end))
    return bool(
        (number <= 9).all() and (table[:, : len(start)] == is_start).all() and (table[:, -len(end) :] == is_end).all()
    )


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
