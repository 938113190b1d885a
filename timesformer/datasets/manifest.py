"""The manifest of a dataset: length, size and problems of every clip, found once by `prepare.py --check`."""

import bisect
import csv
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from timesformer.atomic import write_atomically
from timesformer.datasets.decoding.open import is_image_name
from timesformer.datasets.records import DataError, Records, Strings, VideoRecord

NAME = "manifest.csv"


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
    problem: str = ""

    @classmethod
    def parse(cls, line: str) -> "Row":
        """The row of a line of CSV; ValueError if it is not one."""
        try:
            cells = next(csv.reader([line], strict=True), [])
        except csv.Error as error:
            raise ValueError(line) from error
        return cls(*(kind(cell) for kind, cell in zip(cls.__annotations__.values(), cells, strict=True)))

    def format(self) -> str:
        """The line of CSV, without its end."""
        return _csv(self)


def _csv(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


HEADER = ",".join(Row._fields)


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
        if header != HEADER:
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
        """The record with frames, fps and bytes of its row; unchanged if it has none."""
        row = None if frame_folder(record.path) else self.find(self._relative(record.path))
        return record if row is None else replace(record, num_frames=row.frames, fps=row.fps, bytes=row.bytes)

    def apply_to(self, records: Records) -> None:
        """Describe the records on access, and note the problems of clips that have not changed since."""
        records.describe = self.describe
        names = {os.path.basename(path) for path in self._broken}
        for number, path in enumerate(records.paths() if names else ()):
            path = frame_folder(path) or path
            if os.path.basename(path) in names:  # a cheap test that most clips fail
                row = self._broken.get(self._relative(path))
                if row is not None and clip_bytes(path) == row.bytes:
                    records.problems[number] = row.problem

    def _row(self, line: str) -> Row:
        try:
            return Row.parse(line)
        except ValueError as error:
            raise self._error(f"found {line!r}, expected {HEADER}") from error

    def _relative(self, path: str) -> str:
        return os.path.relpath(path, self._folder).replace(os.sep, "/")

    def _error(self, reason: str) -> DataError:
        return DataError(f"{self._path}: {reason}; write it again with `prepare.py --check`, or remove it")


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows atomically, sorted by path. Raises OSError."""
    lines = sorted(row.format() for row in rows)
    text = "".join(f"{line}\n" for line in (HEADER, *lines)).encode("utf-8", "surrogateescape")
    write_atomically(path, lambda file: file.write(text))


def known_length(record: VideoRecord) -> tuple[int, float]:
    """Frame count and frame rate of a record; 0 if unknown, or if the file's size is not the one in the manifest."""
    # Frames of a folder are always listed and counted when it is opened.
    changed = record.bytes and (not os.path.isfile(record.path) or os.path.getsize(record.path) != record.bytes)
    return (0, 0.0) if changed else (record.num_frames, record.fps)


def clip_bytes(path: str) -> int:
    """Size of a video file, or of all frames in a folder; 0 if there is neither."""
    path = frame_folder(path) or path
    try:
        if not os.path.isdir(path):
            return os.path.getsize(path)
        with os.scandir(path) as entries:
            return sum(entry.stat().st_size for entry in entries if is_image_name(entry.name))
    except OSError:
        return 0


def frame_folder(path: str) -> str:
    """The folder of a path that selects frames in it, `<folder>/%06d.jpg#<first>-<last>`; empty for other paths."""
    folder, name = os.path.split(path)
    return folder if "%" in name and "#" in name and not os.path.exists(path) else ""
