"""The index of tar shards: where each clip is, from the headers of the shards, kept in a file `shards.jsonl`."""

import hashlib
import itertools
import json
import logging
import os
import posixpath
import tarfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from timesformer.atomic import write_atomically
from timesformer.byte_ranges import FileStatus, file_status, in_threads, is_address, open_range, read_range
from timesformer.datasets.decoding.frame_series import is_image_name
from timesformer.datasets.decoding.shards import BLOCK, clip_name
from timesformer.datasets.records import DataError
from timesformer.datasets.sources.clip_files import is_system_name, is_video_name
from timesformer.paths import cache_folder
from timesformer.progress import Progress

logger = logging.getLogger(__name__)

INDEX = "shards.jsonl"
"""Name of the index in the folder of the shards: a line of JSON for each shard."""

_BUFFER = 4096  # bytes read at a header: those of most files, and the start of the next if that is near


@dataclass
class Shard:
    """A shard as it was when its headers were read.

    `size` is in bytes, `stamp` as in `FileStatus`; `starts` and `sizes` are bytes of the clips `names`, in the order of
    the shard; `end` is why its headers end too early, if they do.
    """

    path: str
    size: int
    stamp: str
    names: list[str] = field(default_factory=list)
    starts: array = field(default_factory=lambda: array("q"))
    sizes: array = field(default_factory=lambda: array("q"))
    end: str = ""

    def add(self, name: str, start: int, size: int) -> None:
        """Add a clip."""
        self.names.append(name)
        self.starts.append(start)
        self.sizes.append(size)

    def is_current(self, status: FileStatus | None) -> bool:
        """Whether the shard has not changed since. An index copied to a server has the stamps of local files."""
        if status is None or self.size != status.size:
            return False
        return self.stamp == status.stamp or (is_address(self.path) and self.stamp.isdecimal())


Status = Mapping[str, FileStatus | None]
"""The status of each shard by its path; None if it does not exist."""


def status_of(paths: Sequence[str]) -> dict[str, FileStatus | None]:
    """The status of each shard now. Raises DownloadError if one cannot be reached."""
    return dict(zip(paths, in_threads(_status_or_none, paths), strict=True))


def read_shards(status: Status, indexed: Iterable[Shard] | None = None) -> list[Shard]:
    """The contents of shards, from their index. New and changed shards are read and added to the index.

    `indexed` is what `read_index` returns for their folder, if that is known.

    The index is next to the shards, else in the cache. A shard that is cut short or damaged keeps the clips of its
    index; without one, it has those before the damage. Raises DataError for shards that do not exist and have no index,
    and for other files; DownloadError if one cannot be reached.
    """
    folders = sorted({posixpath.dirname(path) for path in status})
    known = _known(itertools.chain.from_iterable(map(read_index, folders)) if indexed is None else indexed, status)
    if absent := [path for path, now in status.items() if now is None and path not in known]:
        raise DataError(f"{absent[0]} does not exist ({len(absent)} of {len(status)} shards): check DATA.PATH_PREFIX")
    for folder in folders:
        own = {path: now for path, now in status.items() if posixpath.dirname(path) == folder}
        if _outdated(known, own):
            known |= _index_again(folder, own)
    return [known[path] for path in status]


def read_index(folder: str) -> Iterator[Shard]:
    """The shards of the index in a folder, then of that in the cache. Raises DataError if an index is damaged."""
    for path, status in index_status(folder).items():
        if status is None:
            continue
        with open_range(path, 0, status.size, path) as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield _parse(folder, json.loads(line))
                except (ValueError, TypeError, KeyError, OverflowError) as error:
                    raise DataError(
                        f"{path} line {number}: not an entry of an index of shards ({error}): remove it, and the next "
                        "command writes it again"
                    ) from error


def index_status(folder: str) -> dict[str, FileStatus | None]:
    """The status of the index in a folder, and of that in the cache, by path; None if it does not exist."""
    paths = posixpath.join(folder, INDEX), str(_cached_index(folder))
    return {path: _status_or_none(path) for path in paths}


def scan_shard(path: str, status: FileStatus) -> Shard:
    """Read the headers of a shard: of local shards, little else; of remote ones, some kB at each header.

    Clips are video files, and folders of images without videos. Raises DataError if the file is no tar file.
    """
    shard = Shard(path, status.size, status.stamp)
    folders: dict[str, tuple[int, int]] = {}  # of images: first byte, with the first header, and end
    file = open_range(path, 0, status.size, path, _BUFFER)
    if (magic := file.peek(2)[:2]) in (b"\x1f\x8b", b"BZ", b"(\xb5", b"\xfd7"):
        raise DataError(
            f"{path} is compressed (its first bytes are {magic.hex()}), expected a plain tar file: unpack it"
        )
    try:
        with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as archive:
            with suppress(tarfile.ReadError):  # in the middle of a file
                while member := archive.next():
                    archive.members = []  # it would keep all of them
                    _add(shard, folders, member)
            offset = archive.offset  # where the next header should be
            next_header = read_range(path, offset, offset + BLOCK) if offset < status.size else b""
    except tarfile.ReadError as error:
        raise DataError(f"{path} is not a tar file ({error}): write it again") from error
    with_videos = {posixpath.dirname(name) for name in shard.names}
    for folder, (start, end) in folders.items():
        if folder not in with_videos:
            shard.add(folder, start, end - start)
    if any(next_header):
        shard.end = f"damaged at byte {offset}"
    elif not next_header:
        shard.end = f"cut short at byte {status.size}"
    return shard


def write_index(folder: str, shards: Iterable[Shard]) -> None:
    """Write the index of the complete shards in a folder. Raises OSError."""
    lines = [json.dumps(_entry(shard)) for shard in sorted(shards, key=lambda shard: shard.path) if not shard.end]
    write_atomically(Path(folder, INDEX), lambda file: file.writelines(f"{line}\n".encode() for line in lines))


def _status_or_none(path: str) -> FileStatus | None:
    try:
        return file_status(path)
    except FileNotFoundError:
        return None


def _add(shard: Shard, folders: dict[str, tuple[int, int]], member: tarfile.TarInfo) -> None:
    """Add a file to the clips, or to the folders of images, if it is a video or an image."""
    name = clip_name(member.name)
    folder = posixpath.dirname(name)
    if not member.isreg() or member.issparse() or any(map(is_system_name, name.split("/"))):
        return
    if is_video_name(name):
        shard.add(name, member.offset_data, member.size)
    elif is_image_name(name) and folder:
        start, _ = folders.get(folder, (member.offset, 0))
        folders[folder] = start, member.offset_data + -(-member.size // BLOCK) * BLOCK


def _known(indexed: Iterable[Shard], status: Status) -> dict[str, Shard]:
    """The shards of indexes by path; where both of a folder have a shard, the one that is current."""
    known: dict[str, Shard] = {}
    for shard in indexed:
        if shard.path not in known or shard.is_current(status.get(shard.path)):
            known[shard.path] = shard
    return known


def _outdated(known: Mapping[str, Shard], status: Status) -> list[str]:
    """Shards whose headers must be read."""
    return [path for path, now in status.items() if now and not (path in known and known[path].is_current(now))]


def _index_again(folder: str, status: Status) -> dict[str, Shard]:
    """Read the headers of shards in a folder, and add them to its index; one process reads, others wait."""
    cache = _cached_index(folder)
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cache}.lock"):
        known = _known(read_index(folder), status)
        todo = _outdated(known, status)
        logger.info("%s: reading the headers of %d shards", folder, len(todo))
        with Progress("indexing shards", len(todo), "shard") as progress:

            def scan(path: str) -> Shard:
                shard = scan_shard(path, status[path])
                progress.advance()
                return shard

            for shard in in_threads(scan, todo):
                if not shard.end or shard.path not in known:
                    known[shard.path] = shard
                if shard.end:
                    clips = "its clips are those of its index" if known[shard.path] is not shard else "clips are lost"
                    logger.warning("%s is %s; %s", shard.path, shard.end, clips)
        if any(not known[path].end for path in todo):
            try:
                write_index(str(cache.parent) if is_address(folder) else folder, known.values())
            except OSError:  # the folder cannot be written
                write_index(str(cache.parent), known.values())
    return known


def _entry(shard: Shard) -> dict[str, Any]:
    columns = {"names": shard.names, "starts": shard.starts.tolist(), "sizes": shard.sizes.tolist()}
    return {"path": posixpath.basename(shard.path), "size": shard.size, "stamp": shard.stamp, **columns}


def _parse(folder: str, entry: dict[str, Any]) -> Shard:
    path = entry["path"]
    if "clips" in entry:  # of an earlier version
        names, spans = list(entry["clips"]), list(entry["clips"].values())
        starts, sizes = array("q", [start for start, _ in spans]), array("q", [size for _, size in spans])
    else:
        names, starts, sizes = entry["names"], array("q", entry["starts"]), array("q", entry["sizes"])
    if posixpath.basename(path) != path:
        raise ValueError(f"path {path!r}, expected the name of a file")
    if not set(map(type, names)) <= {str}:
        raise ValueError("names that are no strings")
    if not len(names) == len(starts) == len(sizes):
        raise ValueError(f"{len(names)} names, {len(starts)} starts and {len(sizes)} sizes, expected one number")
    return Shard(posixpath.join(folder, path), int(entry["size"]), str(entry["stamp"]), names, starts, sizes)


def _cached_index(folder: str) -> Path:
    name = folder if is_address(folder) else os.path.abspath(folder)
    return cache_folder() / "shards" / hashlib.sha256(name.encode()).hexdigest()[:12] / INDEX
