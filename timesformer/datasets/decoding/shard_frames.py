"""Folders of frames inside tar shards."""

import os
import tarfile
from collections.abc import Callable, Iterator

from timesformer.byte_ranges import is_address, open_range
from timesformer.datasets.decoding.base import VideoError
from timesformer.datasets.decoding.frame_series import select_frames
from timesformer.datasets.decoding.images import FrameFiles
from timesformer.datasets.decoding.shards import BLOCK, ShardFile, clip_name
from timesformer.fetch import DownloadError

LARGEST_READ = 2**26  # bytes; of larger folders, only the frames that are needed are read
_BUFFER = 4096  # bytes read at a header
_PLAIN = b"0\0"  # types of files whose header is a single block


class ShardFrames(FrameFiles):
    """A folder of frames in a shard, in which they follow each other. A folder in a remote shard is read at once."""

    def __init__(self, part: ShardFile, short_side: int = 0, fps: float = 0.0) -> None:
        """Raises VideoError if the frames are not there, and as `select_frames`."""
        self._part, self._read = part, b""
        try:
            if not is_address(part.shard):
                with open(part.shard, "rb", buffering=0) as file:
                    found = _plain_files(
                        lambda start, size: os.pread(file.fileno(), size, part.start + start), part.size
                    )
            elif part.size <= LARGEST_READ:
                self._read = read = part.between(part.start, part.start + part.size)
                found = _plain_files(lambda start, size: read[start : start + size], part.size)
            else:
                found = []
            found = found or list(_files(part))
        except (tarfile.TarError, OSError, EOFError, ValueError, DownloadError) as error:
            raise VideoError(f"{part.path}: the shard is damaged or has changed ({error}): copy it again") from error
        folder = f"{part.name}/"
        names = (clip_name(name) for name, _, _ in found)
        self._spans = {
            name.removeprefix(folder): (start, size)
            for name, (_, start, size) in zip(names, found, strict=True)
            if name.startswith(folder)
        }
        files = select_frames(part.path, list(self._spans))
        if not files:
            raise VideoError(f"{part.path}: the shard has no frames there, as it has changed: start again")
        super().__init__(part.path, files, short_side, fps)

    def _content(self, file: str) -> bytes:
        start, size = self._spans[file]
        if self._read:
            return self._read[start : start + size]
        return self._part.between(self._part.start + start, self._part.start + start + size)


def _plain_files(read: Callable[[int, int], bytes], end: int) -> list[tuple[str, int, int]]:
    """Name, start and size of each file in a part of a tar file of `end` bytes; none if a header is not a plain one.

    `read` returns the bytes from a start, of a size. Raises EOFError if the part is cut short. tarfile is slower.
    """
    found, position = [], 0
    while position < end:
        header = read(position, BLOCK)
        if len(header) < BLOCK:
            raise EOFError("cut short")
        name, size, kind, magic, prefix = (
            header[:100],
            header[124:136],
            header[156:157],
            header[257:262],
            header[345:500],
        )
        if magic != b"ustar" or kind not in _PLAIN or size[0] & 0x80 or prefix[0]:
            return []
        length = int(size.rstrip(b" \0") or b"0", 8)
        found.append((name.rstrip(b"\0").decode("utf-8", "surrogateescape"), position + BLOCK, length))
        position += BLOCK + -(-length // BLOCK) * BLOCK
    return found


def _files(part: ShardFile) -> Iterator[tuple[str, int, int]]:
    file = open_range(part.shard, part.start, part.size, part.name, _BUFFER)
    with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as archive:
        yield from ((member.name, member.offset_data, member.size) for member in archive if member.isreg())
