"""Frames stored as one image each, by Pillow: a folder of them, or numbered ones."""

import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from timesformer.datasets.reading.base import MAX_PIXELS, VideoReader, scaled

FRAME_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png"})
MOST_THREADS = 4
# DIR/NAME_%06d.jpg#FIRST-LAST
_NUMBERED = re.compile(r"(?P<before>.*)%0?(?P<width>\d*)d(?P<after>[^%/]*)#(?P<first>\d+)-(?P<last>\d+)", re.DOTALL)


class FrameFiles(VideoReader):
    """A clip stored as one image per frame.

    JPEG images are decoded at 1/2, 1/4 or 1/8 of their size where their short side stays at `short_side` at least
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
                return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        # Pillow reports broken images by any of these.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise self._error(f"frame {os.path.basename(file)} is unreadable ({error})") from error


def _idle_cores() -> int:
    """Cores for the threads of this process: one for a loading process, as the others have the rest."""
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
    """Frames in `folder`, in natural order; hidden files are left out."""
    return [Path(folder, name) for name in frame_names(folder)]


def frame_names(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the frames in `folder`, in natural order (frame2 before frame10); hidden files are left out."""
    names = (name for name in os.listdir(folder) if not name.startswith("."))
    return sorted((name for name in names if os.path.splitext(name)[1].lower() in FRAME_EXTENSIONS), key=_natural_key)


def _natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    # Every other part of the split is digits, so that numbers are only ever compared with numbers.
    parts = re.split(r"(\d+)", os.path.splitext(name)[0])
    return [(int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts)], name
