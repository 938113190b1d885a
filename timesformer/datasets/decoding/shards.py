"""Clips inside tar shards: their paths, `SHARD.tar/NAME#bytes=FIRST-LAST`, and their bytes, read from there alone.

The bytes are those of a video file, or those of all frames in a folder, with their headers.
"""

import posixpath
import re
import tarfile
from dataclasses import dataclass
from typing import BinaryIO

from timesformer.byte_ranges import open_range, read_range
from timesformer.datasets.decoding.base import VideoError
from timesformer.datasets.decoding.containers import VIDEO_EXTENSIONS
from timesformer.fetch import DownloadError

BLOCK = tarfile.BLOCKSIZE
"""Bytes of a header in a tar file, and what the size of all files in it is rounded up to."""

_PATH = re.compile(r"(?P<shard>.+?\.tar)/(?P<name>.+)#bytes=(?P<first>\d+)-(?P<last>\d+)", re.DOTALL)
_LONGEST_NAME = 100  # of a plain header
_AGAIN = "copy it again, or, if it was replaced, start again"


def clip_name(name: str) -> str:
    """The name in a shard of a clip that a list calls `name`: without `./`, `../` and a slash at the start."""
    if name[:1] in "./" or name[-1:] == "/" or "//" in name or "/." in name:
        return posixpath.normpath(f"/{name}").lstrip("/")
    return name


def clip_path(shard: str, name: str, start: int, size: int) -> str:
    """The path of a clip, with the first and the last byte, as in the Range header of HTTP."""
    return f"{shard}/{name}#bytes={start}-{start + size - 1}"


@dataclass(frozen=True)
class ShardFile:
    """A part of a shard, `size` bytes from byte `start` on: a video file, or a folder of frames."""

    shard: str
    name: str
    start: int
    size: int

    @classmethod
    def parse(cls, path: str) -> "ShardFile | None":
        """The file of a path; None if it is not that of a file in a shard."""
        match = _PATH.fullmatch(path)
        if match is None:
            return None
        first, last = int(match["first"]), int(match["last"])
        return cls(match["shard"], match["name"], first, last + 1 - first)

    @property
    def path(self) -> str:
        """The path, as `clip_path`."""
        return clip_path(self.shard, self.name, self.start, self.size)

    @property
    def is_video(self) -> bool:
        """Whether it is a video file, by its name; else it is a folder of frames."""
        return self.name.lower().endswith(VIDEO_EXTENSIONS)

    def read(self) -> bytes:
        """The content of a video file. Raises VideoError if it is not there or cannot be read."""
        content = self.between(self.start - BLOCK, self.start + self.size)
        self._check(content[:BLOCK])
        if len(content) < BLOCK + self.size:
            raise self.cut_short()
        return content[BLOCK:]

    def open(self) -> BinaryIO:
        """The content of a video file as a file, of which only the parts that are needed are read. Errors as `read`."""
        self._check(self.between(self.start - BLOCK, self.start))
        if not self.between(self.start + self.size - 1, self.start + self.size):
            raise self.cut_short()
        return open_range(self.shard, self.start, self.size, self.name)

    def between(self, start: int, stop: int) -> bytes:
        """The bytes `start` to `stop` - 1 of the shard, fewer if it ends before. Raises VideoError."""
        try:
            return read_range(self.shard, start, stop)
        except FileNotFoundError as error:
            raise VideoError(f"{self.path}: the shard does not exist: {_AGAIN}") from error
        except (OSError, DownloadError) as error:
            raise VideoError(f"{self.path}: the shard cannot be read ({error})") from error

    def _check(self, block: bytes) -> None:
        """VideoError if this is not the header of the file, as the shard has changed since it was indexed."""
        if len(block) < BLOCK:
            raise self.cut_short()
        try:
            header = tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
        except tarfile.HeaderError as error:
            raise VideoError(f"{self.path}: the shard is damaged, it has no file there ({error}): {_AGAIN}") from error
        plain = self.name.isascii() and len(header.name) < _LONGEST_NAME
        if header.size != self.size or (plain and clip_name(header.name) != self.name):
            found = f"the shard has {header.name} ({header.size} bytes) there"
            raise VideoError(f"{self.path}: {found}, as it has changed: {_AGAIN}")

    def cut_short(self) -> VideoError:
        """The error of a shard that ends too early."""
        return VideoError(f"{self.path}: the shard is cut short: {_AGAIN}")
