"""Rows of float16 on disk by key: memory-mapped, written by several processes, and intact after a crash.

A folder has pairs of files, each written by one process: `<id>.f16`, the rows, and `<id>.jsonl`, the shape of a row,
then key and checksum of each row in order. A key is written after its row is on disk; a row without a key is ignored.
"""

import json
import logging
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from timesformer.atomic import report_write_errors, write_text_atomically
from timesformer.runtime.signals import defer_signals

logger = logging.getLogger(__name__)

_REMEDY = "set FEATURES.CACHE_DIR to another folder"
_ROWS, _INDEX = ".f16", ".jsonl"
_POLL = 1.0  # seconds
_PARTS = 64
_NOWHERE = (-1, -1)


class FeatureStore:
    """The rows in a folder, which is created with the `description` of what its rows depend on."""

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        self.folder = folder
        self.shape: tuple[int, ...] = ()  # of a row; empty without rows
        self._description = description
        self._maps: list[np.memmap] = []
        self._rows: dict[str, list[tuple[int, int, int]]] = {}  # by key: file, row and checksum of each row
        self._places: dict[str, tuple[int, int]] = {}  # file and row of an intact one
        self.refresh()

    def refresh(self) -> None:
        """Reads which rows there are."""
        self._maps, self._rows, self._places = [], {}, {}
        for index in sorted(self.folder.glob(f"*{_INDEX}")):
            self._read(index)

    @staticmethod
    def part(key: str) -> int:
        """The part of the keys, 0 to 63, that this one belongs to; see `claim`."""
        return int(key[:2], 16) % _PARTS

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The keys without an intact row; reads the rows of the others."""
        return [key for key in keys if self.locate(key) == _NOWHERE]

    def locate(self, key: str) -> tuple[int, int]:
        """File and row of the intact row of a key, for `take`; (-1, -1) if it has none."""
        if key not in self._places:
            self._places[key] = next(filter(self._is_intact, self._rows.get(key, ())), _NOWHERE)[:2]
        return self._places[key]

    def take(self, places: np.ndarray) -> np.ndarray:
        """The rows, float16 [n, *shape], at places, int64 [n, 2], of `locate`; zeros for (-1, -1)."""
        rows = np.zeros((len(places), *self.shape), np.float16)
        for file in np.unique(places[:, 0][places[:, 0] >= 0]):
            chosen = places[:, 0] == file
            rows[chosen] = self._maps[file][places[chosen, 1]]
        return rows

    @contextmanager
    def claim(self, parts: Sequence[int]) -> Iterator[list[int]]:
        """Locks and yields a quarter of these parts of the keys, at least one, that no other process has locked.

        Yields none if others have had all of them for a second. The processes that need the same rows share the work
        in this way, and none has much to do when the others are finished.
        """
        wanted, locks = -(-len(parts) // 4), {}
        try:
            with report_write_errors(self.folder, _REMEDY):
                self.folder.mkdir(parents=True, exist_ok=True)
                path = self.folder / "description.json"
                with FileLock(self.folder / "lock"):
                    if not path.exists():
                        write_text_atomically(path, json.dumps(self._description, indent=1, sort_keys=True) + "\n")
                for part, timeout in [(part, seconds) for seconds in (0.0, _POLL / len(parts)) for part in parts]:
                    if len(locks) == wanted or (locks and timeout):
                        break
                    lock = FileLock(self.folder / f"part_{part}.lock")
                    with suppress(Timeout):
                        lock.acquire(timeout=timeout)
                        locks[part] = lock
            yield list(locks)
        finally:
            for lock in locks.values():
                lock.release()

    @contextmanager
    def writer(self) -> Iterator["RowWriter"]:
        """Opens a new pair of files for this process."""
        writer = RowWriter(self.folder / uuid.uuid4().hex)
        try:
            yield writer
        finally:
            writer.close()

    def _read(self, index: Path) -> None:
        try:
            head, *lines = index.read_text(encoding="ascii").splitlines()
            shape = tuple(json.loads(head)["shape"])
            size = index.with_suffix(_ROWS).stat().st_size // (2 * int(np.prod(shape)))
            rows = np.memmap(index.with_suffix(_ROWS), np.float16, "r", shape=(size, *shape))
        except (OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s is damaged and ignored: %s", index, error)
            return
        if self.shape not in ((), shape):
            logger.warning("%s is ignored: its rows are %s, others %s", index, shape, self.shape)
            return
        self.shape = shape
        for row, line in enumerate(lines[:size]):
            try:
                entry = json.loads(line)
                key, checksum = entry["key"], int(entry["crc32"])
            except (ValueError, KeyError, TypeError):
                continue  # the last line of a killed process, or a damaged one
            self._rows.setdefault(key, []).append((len(self._maps), row, checksum))
        self._maps.append(rows)

    def _is_intact(self, found: tuple[int, int, int]) -> bool:
        file, row, checksum = found
        intact = zlib.crc32(np.ascontiguousarray(self._maps[file][row])) == checksum
        if not intact:
            logger.warning("%s: row %d is damaged", self._maps[file].filename, row)
        return intact


class RowWriter:
    """Appends rows to `<path>.f16` and `<path>.jsonl`; WriteError if that fails."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = self._index = None

    def add(self, keys: Sequence[str], rows: np.ndarray) -> None:
        """Appends a row, float16 [n, ...], for each key."""
        with defer_signals(), report_write_errors(self._path, _REMEDY):
            if self._rows is None:
                self._rows = self._path.with_suffix(_ROWS).open("wb")
                self._index = self._path.with_suffix(_INDEX).open("w", encoding="ascii")
                self._index.write(json.dumps({"shape": rows.shape[1:]}) + "\n")
            self._rows.write(rows.tobytes())
            self._rows.flush()
            os.fsync(self._rows.fileno())
            checksums = (zlib.crc32(np.ascontiguousarray(row)) for row in rows)
            lines = [json.dumps({"key": key, "crc32": crc}) for key, crc in zip(keys, checksums, strict=True)]
            self._index.write("".join(f"{line}\n" for line in lines))
            self._index.flush()

    def close(self) -> None:
        for file in (self._rows, self._index):
            if file is not None:
                file.close()


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder and those in it."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
