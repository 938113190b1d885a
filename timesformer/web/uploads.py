"""Limits of videos, the private file of an upload, and the list of example videos."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from timesformer.datasets.decoding.containers import VIDEO_EXTENSIONS
from timesformer.errors import UserError


class RefusedError(UserError):
    """A video that is not accepted. The message is for the visitor and names no files of the server."""


@dataclass(frozen=True)
class Limits:
    """What one video may be and cost to read."""

    megabytes: int = 100  # 2**20 bytes
    seconds: float = 300.0
    pixels: int = 4096 * 2304  # width times height of a frame
    decoding_seconds: float = 30.0
    decoding_bytes: int = 3 * 2**30

    def check_size(self, size: int) -> None:
        """Raises a RefusedError if a file of `size` bytes is empty or too large."""
        if size == 0:
            raise RefusedError("The file is empty (0 bytes). Save or export the video again.")
        if size > self.megabytes * 2**20:
            found = f"The file has {format_size(size)}, the limit is {self.megabytes} MB"
            raise RefusedError(f"{found}. Cut the video, or lower its resolution.")

    def check_frames(self, width: int, height: int, seconds: float) -> None:
        """Raises a RefusedError if the frames are too large or the video is too long; 0.0 seconds are unknown."""
        if width * height > self.pixels:
            found = f"A frame has {width} × {height} pixels, the limit is {self.pixels:,} pixels"
            raise RefusedError(f"{found}. Lower the resolution of the video.")
        if seconds > self.seconds:
            found = f"The video is {format_time(seconds)} long, the limit is {format_time(self.seconds)}"
            raise RefusedError(f"{found}. Cut out the part that shows the action.")


@contextmanager
def private_file() -> Iterator[Path]:
    """An empty file for an upload that only this user can read (mode 0600), removed at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="timesformer-upload-") as folder:  # mode 0700
        path = Path(folder, "video")
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield path


def find_examples(folder: Path, limit: int = 500) -> list[str]:
    """Sorted relative paths of up to `limit` videos at any depth; UserError if there is no folder or no video."""
    from timesformer.datasets.sources.clip_files import is_video_name, walk

    if not folder.is_dir():
        raise UserError(f"--examples {folder}: folder not found")
    paths = (Path(subfolder, name) for subfolder, _, files in walk(folder) for name in files)
    found = [path.as_posix() for path in paths if is_video_name(path.name)]
    if not found:
        raise UserError(f"--examples {folder}: no video files, expected {', '.join(VIDEO_EXTENSIONS)}")
    return sorted(found)[:limit]


def format_size(size: int) -> str:
    """A number of bytes as text, such as "3.0 MB"."""
    return f"{size / 2**20:.1f} MB" if size >= 2**20 / 10 else f"{size / 1024:.1f} kB"


def format_time(seconds: float) -> str:
    """A length of time as text, such as "2.5 s" or "1:30 min"."""
    if seconds < 59.5:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"
