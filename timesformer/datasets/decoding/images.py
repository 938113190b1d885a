"""Frames stored as one image each, read by Pillow: a folder of them, or numbered ones."""

import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from timesformer.datasets.decoding.base import MAX_PIXELS, VideoReader, scaled
from timesformer.datasets.decoding.frame_series import select_frames
from timesformer.runtime.resource_limits import available_cores

MAX_THREADS = 4
# DIR/NAME_%06d.jpg#FIRST-LAST
_NUMBERED = re.compile(r"(?P<before>.*)%0?(?P<width>\d*)d(?P<after>[^%/]*)#(?P<first>\d+)-(?P<last>\d+)", re.DOTALL)


class FrameFiles(VideoReader):
    """A clip stored as one image per frame, all of one size.

    The EXIF orientation is applied, 16-bit gray images are scaled to 8 bits (value >> 8), and alpha is ignored. JPEG
    images are decoded at 1/2, 1/4 or 1/8 of their size if their short side stays at least `short_side` (0: never).
    """

    def __init__(self, path: str, files: Sequence[str | Path], short_side: int = 0, fps: float = 0.0) -> None:
        """files: paths of the images in the order shown, at least one."""
        super().__init__(path)
        self.files = files
        self._short_side = short_side
        self.num_frames = len(files)
        self.fps = fps

    def _frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        # In a DataLoader worker, the other workers have the other cores.
        threads = 1 if multiprocessing.parent_process() else min(available_cores(), MAX_THREADS, len(wanted))
        if threads == 1:
            yield from ((number, self._image(number)) for number in wanted)
            return
        with ThreadPoolExecutor(threads) as pool:
            yield from zip(wanted, pool.map(self._image, wanted), strict=True)

    def _image(self, number: int) -> np.ndarray:
        file = self.files[number]
        try:
            with Image.open(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"it claims {image.width}x{image.height} pixels, more than {MAX_PIXELS} in all")
                image.draft(None, scaled(*image.size, self._short_side))
                image.load()
                with suppress(Exception):  # damaged EXIF data raise errors of many types
                    ImageOps.exif_transpose(image, in_place=True)
                return rgb_pixels(image)
        # Pillow reports broken images by any of these.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise self._error(f"frame {os.path.basename(file)} is unreadable ({error})") from error


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """Return pixels as uint8 [height, width, 3], RGB; ValueError where their range is unknown."""
    # Older versions of Pillow open PNG files of 16 bits in mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are 32-bit numbers (mode {image.mode}): expected 8 or 16 bits")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def numbered_frames(path: str) -> list[str] | None:
    """Return the files of `DIR/NAME_%06d.jpg#FIRST-LAST`, LAST included; None where `path` is not of this form."""
    match = _NUMBERED.fullmatch(path)
    if match is None:
        return None
    width, numbers = int(match["width"] or 0), range(int(match["first"]), int(match["last"]) + 1)
    return [f"{match['before']}{number:0{width}d}{match['after']}" for number in numbers]


def frame_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the paths of the frames in `folder`, in order. VideoError as `select_frames`, OSError as os.listdir."""
    return [Path(folder, name) for name in select_frames(os.fspath(folder), os.listdir(folder))]
