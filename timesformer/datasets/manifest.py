"""The manifest of a dataset: length, size and problems of every clip, found once by `prepare.py --check`."""

import bisect
import csv
import functools
import io
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fvcore.common.config import CfgNode

from timesformer.atomic import write_atomically
from timesformer.datasets.decoding.frame_series import is_image_name, select_frames
from timesformer.datasets.decoding.images import FrameFiles, numbered_frames, numbering
from timesformer.datasets.decoding.open import VideoError
from timesformer.datasets.records import DataError, Records, Strings, VideoRecord
from timesformer.datasets.sources.clip_files import is_system_name

NAME = "manifest.csv"
_SETTLED = 2 * 10**9
"""Nanoseconds after which a change of a folder always has another time: some file systems round it to 2 seconds."""


class Row(NamedTuple):
    """A row of a manifest; docs/preparing.md describes its columns. `path` has slashes; unknown numbers are 0."""

    path: str
    label: str = ""
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    bytes: int = 0
    pattern: str = ""
    modified: int = 0
    problem: str = ""

    @classmethod
    def parse(cls, line: str) -> "Row":
        """The row of a line of CSV; ValueError if it is not one."""
        try:
            cells = next(csv.reader([line], strict=True), [])
        except csv.Error as error:
            raise ValueError(line) from error
        if len(cells) == len(_OLD_FIELDS):
            cells[-1:-1] = "", "0"
        return cls(*(kind(cell) for kind, cell in zip(cls.__annotations__.values(), cells, strict=True)))

    def format(self) -> str:
        """The line of CSV, without its end."""
        return _csv(self)


def _csv(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


HEADER = ",".join(Row._fields)
_OLD_FIELDS = [field for field in Row._fields if field not in ("pattern", "modified")]
"""The columns of manifests of earlier versions."""


class Manifest:
    """A manifest on disk, parsed on access. Raises DataError if the file cannot be read or is not a manifest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = os.path.join(path.parent, "")
        try:
            text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
        except OSError as error:
            raise self._error(f"cannot be read ({error.strerror})") from error
        header, *lines = text.replace("\r\n", "\n").split("\n")
        if header not in (HEADER, ",".join(_OLD_FIELDS)):
            raise self._error(f"its first line is {header[:200]!r}, expected {HEADER!r}")
        self._lines = Strings(sorted(filter(None, lines)))
        self._broken = {row.path: row for line in lines if line and not line.endswith(",") for row in [self._row(line)]}

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, self._lines)

    def find(self, path: str) -> Row | None:
        """The row of a clip by its path from the manifest's folder."""
        start = _csv([path, ""])
        number = bisect.bisect_left(self._lines, start)
        line = self._lines[number] if number < len(self._lines) else ""
        return self._row(line) if line.startswith(start) else None

    def describe(self, record: VideoRecord) -> VideoRecord:
        """The record with frames, fps, bytes, pattern and modified of its row; unchanged if it has none."""
        row = None if frame_folder(record.path) else self.find(self._relative(record.path))
        if row is None:
            return record
        files = {"bytes": row.bytes, "pattern": row.pattern, "modified": row.modified}
        return replace(record, num_frames=row.frames, fps=row.fps, **files)

    def is_unchanged(self, folder: str) -> bool:
        """Whether a folder is one of frames that have their pattern here, and has not changed since."""
        row = self.find(self._relative(folder))
        return row is not None and row.pattern != "" and os.stat(folder).st_mtime_ns == row.modified

    def apply_to(self, records: Records) -> None:
        """Describe the records on access, and note the problems of clips that have not changed since."""
        records.describe = self.describe
        names = {os.path.basename(path) for path in self._broken}
        for number, path in enumerate(records.paths() if names else ()):
            path = frame_folder(path) or path
            if os.path.basename(path) in names:  # a cheap test that most clips fail
                row = self._broken.get(self._relative(path))
                if row is not None and clip_files(path).bytes == row.bytes:
                    records.problems[number] = row.problem

    def _row(self, line: str) -> Row:
        try:
            return Row.parse(line)
        except ValueError as error:
            raise self._error(f"found {line!r}, expected {HEADER}") from error

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self._folder).replace(os.sep, "/")

    def _error(self, reason: str) -> DataError:
        return DataError(f"{self._path}: {reason}; write it again with prepare --check, or remove it")


def find_manifest(cfg: CfgNode) -> Manifest | None:
    """The manifest in DATA.PATH_TO_DATA_DIR, else in DATA.PATH_PREFIX, if any. Raises DataError as `Manifest`."""
    paths = [Path(folder) / NAME for folder in (cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.PATH_PREFIX) if folder]
    path = next(filter(Path.exists, paths), None)
    if path is None:
        return None
    status = path.stat()
    return _read_manifest(path, (status.st_ino, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=1)  # the splits of a run share it
def _read_manifest(path: Path, version: tuple[int, ...]) -> Manifest:
    return Manifest(path)


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows atomically, sorted by path. Raises OSError."""
    lines = sorted(row.format() for row in rows)
    text = "".join(f"{line}\n" for line in (HEADER, *lines)).encode("utf-8", "surrogateescape")
    write_atomically(path, lambda file: file.write(text))


def known_video(record: VideoRecord) -> tuple[str | FrameFiles, int, float]:
    """What to open for a record, without listing a folder of frames that has not changed, its frame count and fps.

    The numbers are 0 if unknown, of folders, and if the size of a file is not the one in the manifest.
    """
    path = record.path
    if not record.bytes:
        return path, record.num_frames, record.fps
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null character in the name
        return path, 0, 0.0
    if record.pattern and status.st_mtime_ns == record.modified and stat.S_ISDIR(status.st_mode):
        files = numbered_frames(os.path.join(path, record.pattern))
        return FrameFiles(path, files) if files else path, 0, 0.0
    if status.st_size != record.bytes or not stat.S_ISREG(status.st_mode):
        return path, 0, 0.0
    return path, record.num_frames, record.fps


class ClipFiles(NamedTuple):
    """The files of a clip, as in a `Row`."""

    bytes: int = 0
    pattern: str = ""
    modified: int = 0


def clip_files(path: str) -> ClipFiles:
    """Size of a video file or of all frames in a folder, 0 if there is neither; pattern and time of the folder.

    A folder has both if its frames are numbered without gaps, no folders are in it, and it has not just changed.
    """
    path = frame_folder(path) or path
    try:
        status = os.stat(path)  # before the folder is listed: a later change gives it another time
        if not stat.S_ISDIR(status.st_mode):
            return ClipFiles(status.st_size)
        with os.scandir(path) as found:
            entries = [entry for entry in found if not is_system_name(entry.name)]
        sizes = {entry.name: entry.stat().st_size if is_image_name(entry.name) else 0 for entry in entries}
        has_folders = any(entry.is_dir() for entry in entries)
    except OSError:
        return ClipFiles()
    try:
        pattern = "" if has_folders else numbering(select_frames(path, list(sizes)))
    except VideoError:
        pattern = ""
    size, modified = sum(sizes.values()), status.st_mtime_ns
    is_settled = 0 < modified < time.time_ns() - _SETTLED
    return ClipFiles(size, pattern, modified) if pattern and is_settled else ClipFiles(size)


def frame_folder(path: str) -> str:
    """The folder of a path that selects frames in it, `<folder>/%06d.jpg#<first>-<last>`; empty for other paths."""
    folder, name = os.path.split(path)
    return folder if "%" in name and "#" in name and not os.path.exists(path) else ""
