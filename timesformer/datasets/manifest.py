"""The manifest of a folder of clips: what each one is, or why it cannot be read, found out once for all trainings.

`manifest.csv` lies in the dataset's folder (DATA.PATH_TO_DATA_DIR) and has a line for each clip: path (from that
folder, with slashes), label, frames, fps, width, height, seconds, bytes, problem. `prepare.py --check` writes it.
"""

import bisect
import csv
import functools
import io
import operator
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, islice
from pathlib import Path
from typing import NamedTuple

from timesformer.atomic import write_atomically
from timesformer.datasets.decoding.open import is_image_name
from timesformer.datasets.records import DataError, Records, VideoRecord

NAME = "manifest.csv"


class Row(NamedTuple):
    """A line of a manifest.

    path: of a video file or a folder of frames, from the manifest's folder.
    label: name of its class, where folders say it.
    frames, fps, width, height, seconds: of the clip; 0 where unknown.
    bytes: of the file, or of all frames in the folder, when it was looked at.
    problem: why the clip cannot be read; empty if it can.
    """

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
        """The row of a line of CSV; ValueError where it is not one."""
        path, label, frames, fps, width, height, seconds, size, problem = next(csv.reader([line], strict=True))
        return cls(path, label, int(frames), float(fps), int(width), int(height), float(seconds), int(size), problem)

    def format(self) -> str:
        """The line of CSV, without its end."""
        return _csv(self)


def _csv(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


HEADER = ",".join(Row._fields)


class Manifest(Sequence[Row]):
    """A manifest on disk, read as a whole, parsed line by line when asked: a million lines open in less than a second.

    Raises DataError where the file is not a manifest, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = os.path.join(path.parent, "")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(
                f"{path} cannot be read: {error.strerror}; make it a readable file, or remove it"
            ) from error
        header, _, text = content.replace(b"\r\n", b"\n").partition(b"\n")
        del content
        if header.decode("utf-8-sig", "replace") != HEADER:
            raise self._error(f"its first line is {header[:200].decode('utf-8', 'replace')!r}, expected {HEADER!r}")
        lines = [line for line in text.split(b"\n") if line]
        if not all(map(operator.lt, lines, islice(lines, 1, None))):  # somebody edited it
            lines.sort()
        # One buffer instead of a million objects: nothing to copy for a forked process.
        self._text = b"".join(lines)
        self._ends = array("q", accumulate(map(len, lines), initial=0))
        self._broken = [number for number, line in enumerate(lines) if not line.endswith(b",")]

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]  # no slices
        line = self._line(range(len(self))[index]).decode("utf-8", "surrogateescape")
        try:
            return Row.parse(line)
        except (ValueError, csv.Error) as error:
            raise self._error(f"found {line!r}, expected {HEADER}") from error

    def find(self, path: str) -> Row | None:
        """The row of a clip by its path as the row has it."""
        beginning = _csv([path, ""]).encode("utf-8", "surrogateescape")
        number = bisect.bisect_left(range(len(self)), beginning, key=self._line)
        return self[number] if number < len(self) and self._line(number).startswith(beginning) else None

    def describe(self, record: VideoRecord) -> VideoRecord:
        """The record with frames, fps and bytes of the manifest, or as it was where that does not know the clip."""
        path, is_numbered = _location(record.path)
        row = None if is_numbered else self.find(self._relative(path))  # how many frames are listed, the record knows
        return record if row is None else replace(record, num_frames=row.frames, fps=row.fps, bytes=row.bytes)

    def describe_all(self, records: Records) -> Records:
        """The records with what the manifest knows of them; what cannot be read is known at once."""
        return records.described_by(self.describe, self.problems(records.paths()))

    def problems(self, paths: Iterable[str]) -> dict[int, str]:
        """Why clips cannot be read, by their number among `paths`; of those alone that are still what they were."""
        broken = {row.path: row for row in map(self.__getitem__, self._broken)}
        names = {path.rpartition("/")[2] for path in broken}
        found = {}
        for number, path in enumerate(paths if broken else ()):
            place, _ = _location(path) if "#" in path else (path, False)
            if place.rpartition(os.sep)[2] in names:  # quickly decided for nearly all
                row = broken.get(self._relative(place))
                if row is not None and clip_bytes(place) == row.bytes:
                    found[number] = row.problem
        return found

    def _relative(self, path: str) -> str:
        is_plain = path.startswith(self._folder) and "//" not in path and "/." not in path
        relative = path[len(self._folder) :] if is_plain else os.path.relpath(path, self._folder)
        return relative.replace(os.sep, "/")

    def _line(self, number: int) -> bytes:
        return self._text[self._ends[number] : self._ends[number + 1]]

    def _error(self, reason: str) -> DataError:
        return DataError(f"{self._path}: {reason}; have it written anew by `prepare.py --check`, or remove it")


def open_manifest(folder: Path) -> Manifest | None:
    """The manifest of a dataset's folder, None where there is none; one object as long as the file is the same."""
    try:
        status = (folder / NAME).stat()
    except OSError:
        return None
    return _open(folder / NAME, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1)
def _open(path: Path, changed: int, size: int) -> Manifest:
    return Manifest(path)


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows in order of their paths; whole or not at all. Raises OSError."""
    lines = sorted(row.format().encode("utf-8", "surrogateescape") for row in rows)
    write_atomically(path, lambda file: file.writelines(line + b"\n" for line in (HEADER.encode(), *lines)))


def known(record: VideoRecord) -> tuple[int, float]:
    """Frames and frames per second of the record's video; 0 where unknown, also because it is not what it was.

    Looks at no more than the size of the file.
    """
    # A folder of frames is listed anyhow when it is opened, which counts them.
    changed = record.bytes and (not os.path.isfile(record.path) or os.path.getsize(record.path) != record.bytes)
    return (0, 0.0) if changed else (record.num_frames, record.fps)


def clip_bytes(path: str) -> int:
    """Size of a video file, or of all frames in a folder; 0 where there is nothing."""
    path, _ = _location(path)
    try:
        if not os.path.isdir(path):
            return os.path.getsize(path)
        with os.scandir(path) as entries:
            return sum(entry.stat().st_size for entry in entries if is_image_name(entry.name))
    except OSError:
        return 0


def _location(path: str) -> tuple[str, bool]:
    """The file or folder, and whether the path names some numbered frames in it, `<folder>/%06d.jpg#<first>-<last>`."""
    folder, name = os.path.split(path)
    is_numbered = "%" in name and "#" in name and not os.path.exists(path)
    return (folder, True) if is_numbered else (path, False)


def rows_of(path: Path) -> Iterator[Row]:
    """The rows of a manifest that may be half written or not there: all whole lines."""
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return
    for line in text.split("\n")[:-1]:
        try:
            yield Row.parse(line)
        except (ValueError, csv.Error):
            continue  # the header, or a line that was being written when the machine stopped
