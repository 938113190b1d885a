"""Frames stored as one image each: a folder of them, or numbered ones."""

import io
import multiprocessing
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from timesformer.datasets.decoding.base import MAX_PIXELS, VideoReader, scaled
from timesformer.datasets.decoding.frame_series import select_frames
from timesformer.datasets.decoding.jpeg import NAMES, Place, decode_jpeg
from timesformer.runtime.resource_limits import available_cores

MAX_THREADS = 4
# The last number in a name, and the text around it.
_LAST_NUMBER = re.compile(r"(.*?)([0-9]+)([^0-9\r\n]*)")
# DIR/NAME_%06d.jpg#FIRST-LAST
_NUMBERED = re.compile(r"(?P<before>.*)%0?(?P<width>\d*)d(?P<after>[^%/]*)#(?P<first>\d+)-(?P<last>\d+)", re.DOTALL)


class FrameFiles(VideoReader):
    """A clip stored as one image per frame, all of one size.

    The EXIF orientation is applied, 16-bit gray images are scaled to 8 bits (value >> 8), and alpha is ignored. JPEG
    images are decoded at 1/2, 1/4 or 1/8 of their size if their short side stays at least `short_side` (0: never).
    """

    def __init__(self, path: str, files: Sequence[str], short_side: int = 0, fps: float = 0.0) -> None:
        """files: paths of the images in the order shown, at least one."""
        super().__init__(path)
        self.files = files
        self._short_side = short_side
        self.num_frames = len(files)
        self.fps = fps

    def read(self, indices: Sequence[int]) -> np.ndarray:
        positions = self._positions(indices)
        clips: list[np.ndarray] = []  # one, as soon as the size of a frame is known
        lock = Lock()

        def decode(number: int) -> None:
            def place(shape: tuple[int, ...]) -> np.ndarray:
                with lock:
                    clips[:] = clips or [np.empty((len(indices), *shape), np.uint8)]
                self._check_size(shape, clips[0].shape[1:])
                return clips[0][positions[number][0]]

            self._decode(number, place)
            first, *others = positions[number]
            for other in others:
                clips[0][other] = clips[0][first]

        # In a DataLoader worker, the other workers have the other cores.
        threads = 1 if multiprocessing.parent_process() else min(available_cores(), MAX_THREADS, len(positions))
        if threads == 1:
            for number in positions:
                decode(number)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(decode, positions))
        return clips[0]

    def _frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        yield from zip(wanted, self.read(wanted), strict=True)

    def _decode(self, number: int, place: Place) -> None:
        file = self.files[number]
        try:
            content = self._content(file)
            if file.lower().endswith(NAMES) and decode_jpeg(content, place, self._short_side):
                return
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"it claims {image.width}x{image.height} pixels, more than {MAX_PIXELS} in all")
                image.draft(None, scaled(*image.size, self._short_side))
                image.load()
                with suppress(Exception):  # damaged EXIF data raise errors of many types
                    ImageOps.exif_transpose(image, in_place=True)
                pixels = rgb_pixels(image)
        except UnidentifiedImageError as error:
            raise self._error(f"frame {os.path.basename(file)} is unreadable (it is not an image)") from error
        # Pillow reports broken images by any of these.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise self._error(f"frame {os.path.basename(file)} is unreadable ({error})") from error
        place(pixels.shape)[:] = pixels

    def _content(self, file: str) -> bytes:
        """The content of one of the files. Raises OSError."""
        with open(file, "rb", buffering=0) as stream:
            return stream.read()


def rgb_pixels(image: Image.Image) -> np.ndarray:
    """Return pixels as uint8 [height, width, 3], RGB; ValueError where their range is unknown."""
    # Older versions of Pillow open PNG files of 16 bits in mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels are 32-bit numbers (mode {image.mode}): expected 8 or 16 bits")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


class _NumberedFiles(Sequence[str]):
    """Files whose names differ in a number alone, each name made on access."""

    def __init__(self, form: str, numbers: range) -> None:
        """form: with the number's %d."""
        self._form = form
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices
        return self._form % self._numbers[index]


def numbered_frames(path: str) -> Sequence[str] | None:
    """Return the files of `DIR/NAME_%06d.jpg#FIRST-LAST`, LAST included; None where `path` is not of this form."""
    match = _NUMBERED.fullmatch(path)
    if match is None:
        return None
    before, after = (match[name].replace("%", "%%") for name in ("before", "after"))
    form = f"{before}%0{int(match['width'] or 0)}d{after}"
    return _NumberedFiles(form, range(int(match["first"]), int(match["last"]) + 1))


def numbering(names: Sequence[str]) -> str:
    """Return `NAME_%06d.jpg#FIRST-LAST`, which `numbered_frames` turns into these names; empty if there is none."""
    match = _LAST_NUMBER.fullmatch(names[0]) if names else None
    if match is None:
        return ""
    before, digits, after = match.groups()
    width, first = f"0{len(digits)}" if len(digits) > 1 else "", int(digits)
    pattern = f"{before}%{width}d{after}#{first}-{first + len(names) - 1}"
    return pattern if list(numbered_frames(pattern) or ()) == names else ""


def frame_files(folder: str | os.PathLike[str]) -> list[str]:
    """Return the paths of the frames in `folder`, in order. VideoError as `select_frames`, OSError as os.listdir."""
    start = os.path.join(folder, "")
    return [start + name for name in select_frames(os.fspath(folder), os.listdir(folder))]
