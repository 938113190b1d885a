"""Folders of frames inside tar shards."""

import tarfile
from collections.abc import Iterator

from timesformer.byte_ranges import open_range
from timesformer.datasets.decoding.base import VideoError
from timesformer.datasets.decoding.frame_series import select_frames
from timesformer.datasets.decoding.images import FrameFiles
from timesformer.datasets.decoding.shards import BLOCK, ShardFile
from timesformer.fetch import DownloadError

LARGEST_READ = 2**26  # bytes; of larger folders, only the frames that are needed are read
_BUFFER = 4096  # bytes read at a header
_PLAIN = b"0\0"  # types of files whose header is a single block


class ShardFrames(FrameFiles):
    """A folder of frames in a shard. Its files follow each other in the shard, so that it is read at once."""

    def __init__(self, part: ShardFile, short_side: int = 0, fps: float = 0.0) -> None:
        """Raises VideoError if the frames are not there, and as `select_frames`."""
        end = part.start + part.size
        self._part = part
        self._read = part.between(part.start, end) if part.size <= LARGEST_READ else b""
        if part.size <= LARGEST_READ and len(self._read) < part.size:
            raise part.cut_short()
        try:
            found = list(_plain_files(self._read)) or list(_files(part))
        except (tarfile.TarError, OSError, DownloadError) as error:
            raise VideoError(f"{part.path}: the shard is damaged or has changed ({error}): copy it again") from error
        folder = f"{part.name}/"
        names = (name.removeprefix("./") for name, _, _ in found)
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


def _plain_files(content: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, start and size of each file in a part of a tar file; none if a header is not a plain one.

    tarfile takes 15 times as long.
    """
    found, position = [], 0
    while position + BLOCK <= len(content):
        header = content[position : position + BLOCK]
        name, size, kind, magic, prefix = (
            header[:100],
            header[124:136],
            header[156:157],
            header[257:262],
            header[345:500],
        )
        if magic != b"ustar" or kind not in _PLAIN or size[0] & 0x80 or prefix[0]:
            return
        length = int(size.rstrip(b" \0") or b"0", 8)
        found.append((name.rstrip(b"\0").decode("utf-8", "surrogateescape"), position + BLOCK, length))
        position += BLOCK + -(-length // BLOCK) * BLOCK
    yield from found


def _files(part: ShardFile) -> Iterator[tuple[str, int, int]]:
    file = open_range(part.shard, part.start, part.size, part.name, _BUFFER)
    with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as archive:
        yield from ((member.name, member.offset_data, member.size) for member in archive if member.isreg())
