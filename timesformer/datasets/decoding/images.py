"""Frames stored as one image each, by Pillow: a folder of them, or numbered ones."""

import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from timesformer.datasets.decoding.base import MAX_PIXELS, VideoReader, scaled
from timesformer.datasets.decoding.frame_series import select_frames
from timesformer.datasets.decoding.orientation import UPRIGHT, Orientation, from_exif

MOST_THREADS = 4
# DIR/NAME_%06d.jpg#FIRST-LAST
_NUMBERED = re.compile(r"(?P<before>.*)%0?(?P<width>\d*)d(?P<after>[^%/]*)#(?P<first>\d+)-(?P<last>\d+)", re.DOTALL)


class FrameFiles(VideoReader):
    """A clip stored as one image per frame, all of one size.

    The EXIF orientation is applied. 16-bit grey images are scaled to 8 bits (value >> 8), and alpha is ignored. JPEG
    images are decoded at 1/2, 1/4 or 1/8 of their size where their short side stays at `short_side` at least
    (0: never).
    """

    fps = 0.0

    def __init__(self, path: str, files: Sequence[str], short_side: int = 0, fps: float = 0.0) -> None:
        """files: paths of the images in the order shown, at least one."""
        super().__init__(path)
        self._files = files
        self._short_side = short_side
        self.num_frames = len(files)
        self.fps = fps

    def _frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        threads = min(_idle_cores(), MOST_THREADS, len(wanted))
        if threads == 1:
            yield from ((number, self._image(number)) for number in wanted)
            return
        with ThreadPoolExecutor(threads) as pool:
            yield from zip(wanted, pool.map(self._image, wanted), strict=True)

    def _image(self, number: int) -> np.ndarray:
        file = self._files[number]
        try:
            with Image.open(file) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"it claims {image.width}x{image.height} pixels, more than {MAX_PIXELS} in all")
                image.draft(None, scaled(*image.size, self._short_side))
                return _orientation(image).apply(_rgb(image))
        # Pillow reports broken images by any of these.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise self._error(f"frame {os.path.basename(file)} is unreadable ({error})") from error


def _orientation(image: Image.Image) -> Orientation:
    try:
        return from_exif(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # damaged EXIF data raise errors of many types, and say nothing about the pixels
        return UPRIGHT


def _rgb(image: Image.Image) -> np.ndarray:
    """Pixels as uint8 (H, W, 3) RGB; ValueError where they have no known range."""
    # Older versions of Pillow open PNG files of 16 bits in mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are 32-bit numbers (mode {image.mode}): expected 8 or 16 bits")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _idle_cores() -> int:
    """Cores for the threads of this process: one for a DataLoader worker, as the others have the rest."""
    if multiprocessing.parent_process() is not None:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def numbered_frames(path: str) -> list[str] | None:
    """Paths that `DIR/NAME_%06d.jpg#FIRST-LAST` stands for; None where `path` is not of this form.

    The pattern is one of C's printf (`%d` or `%06d`) for the numbers FIRST to LAST, which both belong to the clip.
    """
    match = _NUMBERED.fullmatch(path)
    if match is None:
        return None
    width = int(match["width"] or 0)
    numbers = range(int(match["first"]), int(match["last"]) + 1)
    return [f"{match['before']}{number:0{width}d}{match['after']}" for number in numbers]


def frame_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Paths of the frames in `folder`, as `frame_names` gives them."""
    return [Path(folder, name) for name in frame_names(folder)]


def frame_names(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the frames of the clip in `folder`, in order; hidden files are left out.

    Raises VideoError where the folder holds several clips, see `select_frames`; OSError where it cannot be listed.
    """
    return select_frames(os.fspath(folder), os.listdir(folder))
