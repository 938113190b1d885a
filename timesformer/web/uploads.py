"""What visitors may upload, and the private file that an upload lies in while it is read."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from timesformer.datasets.decoding.containers import VIDEO_EXTENSIONS
from timesformer.datasets.sources.clip_files import is_video_name, walk
from timesformer.errors import UserError


class RefusedError(UserError):
    """A video that the page does not take; the message says why, to the visitor, without naming files."""


@dataclass(frozen=True)
class Limits:
    """What one video may be and cost.

    megabytes: size of the file, in 2**20 bytes.
    seconds: length of the video.
    pixels: width times height of a frame.
    decoding_seconds: time that reading it may take, after which it is given up.
    decoding_bytes: memory that reading it may take.
    """

    megabytes: int = 100
    seconds: float = 300.0
    pixels: int = 4096 * 2304
    decoding_seconds: float = 30.0
    decoding_bytes: int = 3 * 2**30

    def check_size(self, size: int) -> None:
        """RefusedError if a file of `size` bytes is too large, or empty."""
        if size == 0:
            raise RefusedError("The file is empty (0 bytes). Save or export the video again.")
        if size > self.megabytes * 2**20:
            raise RefusedError(
                f"The file is too large: {megabytes(size)}, and at most {self.megabytes} MB are taken here. "
                "Cut the video, or save it in a lower resolution."
            )

    def check_frames(self, width: int, height: int, seconds: float) -> None:
        """RefusedError if frames are too large (pixels), or the video too long; seconds 0.0: not known."""
        if width * height > self.pixels:
            raise RefusedError(
                f"The resolution is too high: {width} × {height} pixels, and at most {self.pixels:,} pixels a frame "
                "are taken here. Save the video in a lower resolution."
            )
        if seconds > self.seconds:
            raise RefusedError(
                f"The video is too long: {clock(seconds)}, and at most {clock(self.seconds)} are taken here. "
                "Cut out the part that shows the action."
            )


@contextmanager
def private_file(content: bytes | memoryview) -> Iterator[Path]:
    """A file with this content that no other user of the machine can read, in a folder of its own.

    Both are gone afterwards, whatever happens in between. The name says nothing about the upload, as a name chosen by a
    visitor is no name for a file here.
    """
    with tempfile.TemporaryDirectory(prefix="timesformer-upload-") as folder:  # mode 0700
        path = Path(folder, "video")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        yield path


def find_examples(folder: Path, limit: int = 500) -> list[str]:
    """Paths, from `folder`, of the first `limit` video files in it and its subfolders, sorted.

    Raises UserError if there is no such folder, or no video in it.
    """
    if not folder.is_dir():
        raise UserError(f"--examples {folder}: no such folder; give one with video files in it, or leave it out")
    found = [
        name if place == "." else f"{place}/{name}"
        for place, _, files in walk(folder)
        for name in files
        if is_video_name(name)
    ]
    if not found:
        raise UserError(f"--examples {folder}: no video files in it; expected {', '.join(VIDEO_EXTENSIONS)}")
    return sorted(found)[:limit]


def megabytes(size: int) -> str:
    """Bytes as people say them."""
    return f"{size / 2**20:.1f} MB" if size >= 2**20 / 10 else f"{size / 1024:.1f} kB"


def clock(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 59.5:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
