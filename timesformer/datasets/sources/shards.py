"""Clips in tar shards: which options name shards, and the clip that a list names in them (docs/large_sets.md)."""

import bisect
import functools
import glob
import itertools
import logging
import posixpath
import re
from collections.abc import Iterable

from fvcore.common.config import CfgNode

from timesformer.byte_ranges import FileStatus, file_status, is_address
from timesformer.datasets.decoding.shards import ShardFile, clip_name
from timesformer.datasets.records import DataError, Records, join_problems
from timesformer.datasets.sources.clip_files import stem
from timesformer.datasets.sources.shard_index import INDEX, Status, read_index, read_shards, status_of
from timesformer.errors import shorten

logger = logging.getLogger(__name__)

SEPARATOR = "::"
"""Between several names of shards, as in WebDataset."""

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")

_latest: "dict[str, ShardClips]" = {}  # the shards opened last, by their source


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

    `source` names the shards in messages; `damaged` are shards without index whose headers end too early.
    """

    def __init__(self, source: str, status: Status) -> None:
        self.source, self.status = source, status
        self._shards = read_shards(status)
        self._firsts = [0, *itertools.accumulate(len(shard.names) for shard in self._shards)]
        names = itertools.chain.from_iterable(shard.names for shard in self._shards)
        self._numbers = {name: number for number, name in enumerate(names)}
        if len(self._numbers) < self._firsts[-1]:
            raise self._repeated()
        self._folders = {name.partition("/")[0] for name in self._numbers}
        self.damaged = [f"{shard.path} is {shard.end}" for shard in self._shards if shard.end]
        self._has_lost = False
        for shard in self._shards:
            spans = zip(shard.names, shard.starts, shard.sizes, strict=True)
            if lost := [name for name, start, size in spans if self._is_lost(shard.path, start + size)]:
                self._has_lost = True
                problem = f"{_describe(status[shard.path])}, which loses {len(lost)} of its clips: {shorten(lost)}"
                logger.warning("%s: %s", shard.path, problem)

    @functools.cached_property
    def _by_stem(self) -> dict[str, str]:
        return {stem(name): name for name in reversed(self._numbers)}

    def find(self, name: str, split: str) -> str | None:
        """The path of the clip that the list of a split calls `name`, as in `ClipFolder.find`; None if there is none.

        It is in the folder `split` of the shards if that has a clip of this name.
        """
        name = clip_name(name)
        for full in (f"{split}/{name}", name) if split in self._folders else (name,):
            if found := full if full in self._numbers else self._by_stem.get(stem(full)):
                return self._path(found)
        return None

    def by_stem(self) -> dict[str, str]:
        """The name of each clip by its file name without folders and extension."""
        return {posixpath.basename(short): name for short, name in self._by_stem.items()}

    def note_problems(self, records: Records) -> None:
        """See the function of this name."""
        for number, path in enumerate(records.paths() if self._has_lost else ()):
            part = ShardFile.parse(path)
            if part and part.shard in self.status and self._is_lost(part.shard, part.start + part.size):
                records.problems[number] = _describe(self.status[part.shard])

    def _is_lost(self, shard: str, end: int) -> bool:
        status = self.status[shard]
        return status is None or end > status.size

    def _path(self, name: str) -> str:
        number = self._numbers[name]
        place = bisect.bisect_right(self._firsts, number) - 1
        shard, row = self._shards[place], number - self._firsts[place]
        return ShardFile(shard.path, name, shard.starts[row], shard.sizes[row]).path

    def _repeated(self) -> DataError:
        where: dict[str, list[str]] = {}
        for shard in self._shards:
            for name in shard.names:
                where.setdefault(name, []).append(shard.path)
        repeated = [f"{name}: {' and '.join(paths)}" for name, paths in where.items() if len(paths) > 1]
        return join_problems(
            f"{self.source}: clips that are there twice", repeated, "name each shard once, or rename them"
        )


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
    return _open(folder, dict.fromkeys(shard.path for shard in read_index(folder)))


def _open(source: str, paths: Iterable[str]) -> ShardClips:
    """Look at the shards, and read their index unless nothing has changed since the last call."""
    status = status_of(list(paths))
    found = _latest.get(source)
    if found is None or found.status != status:
        found = ShardClips(source, status)
        _latest.clear()
        _latest[source] = found
    return found


def note_problems(records: Records) -> None:
    """Note which clips are lost as their shard, among those opened last, is cut short or missing."""
    for shards in _latest.values():
        shards.note_problems(records)
