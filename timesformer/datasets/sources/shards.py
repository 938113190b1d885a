"""Clips in tar shards: which options name shards, and the clip that a list names in them (docs/large_sets.md)."""

import functools
import glob
import itertools
import logging
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.byte_ranges import FileStatus, file_status, is_address
from timesformer.datasets.decoding.shards import ShardFile, clip_name, clip_path
from timesformer.datasets.records import Column, DataError, Records, Strings, join_problems
from timesformer.datasets.sources.clip_files import Located, is_video_name, stem
from timesformer.datasets.sources.shard_index import (
    INDEX,
    Shard,
    Status,
    index_status,
    read_index,
    read_shards,
    status_of,
)
from timesformer.errors import shorten

logger = logging.getLogger(__name__)

SEPARATOR = "::"
"""Between several names of shards, as in WebDataset."""

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

_BLOCK = 50_000  # names that are looked up together

_latest: "dict[str, ShardClips]" = {}  # the shards opened last, by their source
_index_of_latest: dict[str, FileStatus | None] = {}  # the status of the index that `_open_folder` read last


def open_shards(cfg: CfgNode) -> "ShardClips | None":
    """The clips of the shards that DATA.PATH_PREFIX names, else of the index in DATA.PATH_TO_DATA_DIR; None without.

    Names of shards end in `.tar`, with ranges `{000000..000099}`, choices `{a,b}` and, for local files, `*`; several
    are separated by `::`. A folder has shards if it has an index. Raises DataError or DownloadError.
    """
    prefix = cfg.DATA.PATH_PREFIX
    names = prefix.split(SEPARATOR)
    if not prefix:
        folder = cfg.DATA.PATH_TO_DATA_DIR
        return _open_folder(folder) if folder and not is_address(folder) and _has_index(folder) else None
    if prefix.endswith(_COMPRESSED):
        raise DataError(f"DATA.PATH_PREFIX is {prefix!r}: compressed shards have no offsets; unpack them to .tar")
    if all(name.endswith(".tar") for name in names):
        return _open(prefix, itertools.chain.from_iterable(map(_expand, names)))
    if any(name.endswith(".tar") for name in names):
        raise DataError(f"DATA.PATH_PREFIX is {prefix!r}, expected names that end in .tar, separated by {SEPARATOR}")
    return _open_folder(prefix) if _has_index(prefix) else None


class ShardClips:
    """The clips of several shards by name.

    `source` names the shards in messages; `damaged` are shards without index whose headers end too early. `names` are
    those of all clips, in the order of the shards; a clip's number is its place among them.
    """

    def __init__(self, source: str, status: Status, indexed: Iterable[Shard] | None = None) -> None:
        """See `read_shards` for `indexed`."""
        self.source, self.status = source, status
        shards = read_shards(status, indexed)
        self._clips = _Clips.of(shards)
        self.names = self._clips.names
        hashes = np.fromiter(map(hash, _names(shards)), np.int64, len(self.names))
        self._order = hashes.argsort()
        self._hashes = hashes[self._order]
        if (self._hashes[1:] == self._hashes[:-1]).any():
            _refuse_repeats(source, shards)
        self._folders = {parts[0] for parts in map(str.partition, _names(shards), itertools.repeat("/"))}
        self.damaged = [f"{shard.path} is {shard.end}" for shard in shards if shard.end]
        self._has_lost, stops, firsts = False, self._clips.starts + self._clips.sizes, self._clips.firsts
        for shard, first, after in zip(shards, firsts[:-1], firsts[1:], strict=True):
            lost = [*self.names.choose(first + np.flatnonzero(stops[first:after] > self._readable(shard.path)))]
            if lost:
                self._has_lost = True
                problem = f"{_describe(status[shard.path])}, which loses {len(lost)} of its clips: {shorten(lost)}"
                logger.warning("%s: %s", shard.path, problem)

    @functools.cached_property
    def _extensions(self) -> list[str]:
        """Names end in one of these; that of a folder of frames has none."""
        ends = {name[name.rfind(".") :] if "." in name else "" for name in self.names}
        return sorted({end if is_video_name(f"video{end}") else "" for end in ends})

    def locate(self, names: Sequence[str], split: str) -> Located:
        """The clips that the list of a split calls `names`, as in `ClipFolder.find`; the keys are their numbers.

        They are in the folder `split` of the shards if that has clips of these names.
        """
        numbers = np.full(len(names), -1)
        for first in range(0, len(names), _BLOCK):
            block = names[first : first + _BLOCK]
            numbers[first : first + _BLOCK] = self._find([*map(clip_name, block)], split)
        keys = [number if number >= 0 else None for number in numbers.tolist()]
        return Located(keys, lambda: _Paths(self._clips, numbers))

    def _find(self, names: Sequence[str], split: str) -> np.ndarray:
        """The numbers of clips by their names, with or without extension; -1 for names without a clip."""
        numbers = np.full(len(names), -1)
        for prefix in (f"{split}/", "") if split in self._folders else ("",):
            missing = np.flatnonzero(numbers < 0)
            full = [prefix + names[row] for row in missing.tolist()]
            numbers[missing] = found = self._numbers(full)
            missing = missing[found < 0]
            stems = [stem(name) for name, number in zip(full, found.tolist(), strict=True) if number < 0]
            for extension in self._extensions if stems else ():
                found = self._numbers([name + extension for name in stems])
                others = numbers[missing]
                is_first = (found >= 0) & ((others < 0) | (found < others))  # of several clips of one stem
                numbers[missing[is_first]] = found[is_first]
        return numbers

    def _numbers(self, names: Sequence[str]) -> np.ndarray:
        """The number of the clip of each name, -1 if there is none; the names are compared where hashes are equal."""
        hashes = np.fromiter(map(hash, names), np.int64, len(names))
        places = np.minimum(np.searchsorted(self._hashes, hashes), max(len(self._hashes) - 1, 0))
        if not len(self._hashes):
            return np.full(len(names), -1)
        numbers = np.where(self._hashes[places] == hashes, self._order[places], -1)
        rows = np.flatnonzero(numbers >= 0)
        for row, found in zip(rows.tolist(), self.names.choose(numbers[rows]), strict=True):
            if found != names[row]:  # by chance
                numbers[row] = next((number for number, name in enumerate(self.names) if name == names[row]), -1)
        return numbers

    def note_problems(self, records: Records) -> None:
        """See the function of this name."""
        for number, path in enumerate(records.paths() if self._has_lost else ()):
            part = ShardFile.parse(path)
            if part and part.shard in self.status and part.start + part.size > self._readable(part.shard):
                records.problems[number] = _describe(self.status[part.shard])

    def _readable(self, shard: str) -> int:
        """The bytes of a shard that can be read."""
        status = self.status[shard]
        return status.size if status else 0


class _Clips(NamedTuple):
    """Where clips are by their numbers: `firsts` has the number of the first clip of each shard, and that of all."""

    shards: list[str]
    firsts: np.ndarray
    names: Strings
    starts: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, shards: Sequence[Shard]) -> "_Clips":
        firsts = np.cumsum([0, *(len(shard.names) for shard in shards)])
        starts, sizes = (
            np.concatenate([np.zeros(0, np.int64), *columns])
            for columns in ((shard.starts for shard in shards), (shard.sizes for shard in shards))
        )
        return cls([shard.path for shard in shards], firsts, Strings(_names(shards)), starts, sizes)


class _Paths(Column):
    """The paths of clips by their numbers, int64 (clips,), made when they are asked for; None for the number -1."""

    def __init__(self, clips: _Clips, numbers: np.ndarray) -> None:
        self._clips, self._numbers = clips, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __reduce__(self) -> tuple[type[Strings], tuple[list[str]]]:
        return Strings, ([*self],)  # a spawned worker does not need all clips of the shards

    def __getitem__(self, index: int) -> str | None:  # type: ignore[override]  # no slices, and None
        return next(self._of(self._numbers[[index]]))

    def __iter__(self) -> Iterator[str | None]:
        for first in range(0, len(self), _BLOCK):
            yield from self._of(self._numbers[first : first + _BLOCK])

    def _of(self, numbers: np.ndarray) -> Iterator[str | None]:
        clips = self._clips
        shards = (np.searchsorted(clips.firsts, numbers, "right") - 1).tolist()
        columns = clips.names.choose(numbers), clips.starts[numbers].tolist(), clips.sizes[numbers].tolist()
        for number, shard, *span in zip(numbers.tolist(), shards, *columns, strict=True):
            yield clip_path(clips.shards[shard], *span) if number >= 0 else None


def _names(shards: Iterable[Shard]) -> Iterator[str]:
    return itertools.chain.from_iterable(shard.names for shard in shards)


def _refuse_repeats(source: str, shards: Iterable[Shard]) -> None:
    """Raise DataError for names that are in the shards twice."""
    where: dict[str, list[str]] = {}
    for shard in shards:
        for name in shard.names:
            where.setdefault(name, []).append(shard.path)
    repeated = [f"{name}: {' and '.join(paths)}" for name, paths in where.items() if len(paths) > 1]
    if repeated:
        raise join_problems(f"{source}: clips that are there twice", repeated, "name each shard once, or rename them")


def _describe(status: FileStatus | None) -> str:
    return f"the shard is cut short at byte {status.size}" if status else "the shard does not exist"


def _expand(name: str) -> list[str]:
    """The shards of a name with ranges and choices in braces, and `*` for local files."""
    start, opened, rest = name.partition("{")
    inner, closed, end = rest.partition("}")
    if opened and closed:
        if match := _RANGE.fullmatch(inner):
            first, last = match.groups()
            width = len(first) if first.startswith("0") else 0
            choices = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
        else:
            choices = inner.split(",")
        return [expanded for choice in choices for expanded in _expand(f"{start}{choice}{end}")]
    if "*" not in name or is_address(name):
        return [name]
    if found := sorted(glob.glob(name)):
        return found
    raise DataError(f"DATA.PATH_PREFIX: no file matches {name}")


def _has_index(folder: str) -> bool:
    try:
        file_status(posixpath.join(folder, INDEX))
    except OSError:  # a server answers that there is none
        return False
    return True


def _open_folder(folder: str) -> ShardClips:
    status, found = index_status(folder), _latest.get(folder)
    if found is not None and _index_of_latest == status:
        return _open(folder, found.status)
    shards = [*read_index(folder)]
    _index_of_latest.clear()
    _index_of_latest.update(status)
    return _open(folder, dict.fromkeys(shard.path for shard in shards), shards)


def _open(source: str, paths: Iterable[str], indexed: Iterable[Shard] | None = None) -> ShardClips:
    """Look at the shards, and read their index unless nothing has changed since the last call."""
    status = status_of(list(paths))
    found = _latest.get(source)
    if found is None or found.status != status:
        found = ShardClips(source, status, indexed)
        _latest.clear()
        _latest[source] = found
    return found


def note_problems(records: Records) -> None:
    """Note which clips are lost as their shard, among those opened last, is cut short or missing."""
    for shards in _latest.values():
        shards.note_problems(records)
