"""Split files: reading their lines, tables and class names, and checks that all datasets with lists share."""

import codecs
import csv
import itertools
import logging
import math
import operator
import sys
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.datasets.records import SPLITS, DataError, DatasetSplit, Records, join_problems
from timesformer.datasets.sources.clip_files import ClipFolder, Located
from timesformer.datasets.sources.shards import ShardClips, open_shards
from timesformer.errors import shorten
from timesformer.paths import local_path

logger = logging.getLogger(__name__)

_BYTE_ORDER_MARKS = {
    "utf-8-sig": (codecs.BOM_UTF8,),
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),  # before UTF-16, which begins the same way
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
_SAVE_AS_UTF8 = 'save it as UTF-8 (in Excel, "CSV UTF-8"; in an editor, "Save with encoding")'


def splits_folder(cfg: CfgNode) -> Path:
    """Folder of the split files: DATA.SPLITS_DIR, else DATA.PATH_TO_DATA_DIR. Raises DataError if it does not exist."""
    return data_folder(cfg, "SPLITS_DIR" if cfg.DATA.SPLITS_DIR else "PATH_TO_DATA_DIR")


def data_folder(cfg: CfgNode, key: str = "PATH_TO_DATA_DIR") -> Path:
    """The folder DATA.<key>, downloaded if it is remote. Raises DataError if it does not exist."""
    path = cfg.DATA[key]
    if not path or not (folder := local_path(path)).is_dir():
        raise DataError(f"DATA.{key} is {path!r}, which is not a folder here: set it to the folder of the dataset")
    return folder


def clips_folder(cfg: CfgNode) -> Path:
    """Folder that the paths of a list start from: DATA.PATH_PREFIX, else DATA.PATH_TO_DATA_DIR."""
    return local_path(cfg.DATA.PATH_PREFIX or cfg.DATA.PATH_TO_DATA_DIR)


def clip_source(cfg: CfgNode, root: Path | None = None) -> ClipFolder | ShardClips:
    """Where the clips of lists are: the shards of DATA.PATH_PREFIX, else the folder `root` (None: `clips_folder`)."""
    return open_shards(cfg) or ClipFolder(root or clips_folder(cfg))


def encoding_of(path: Path) -> str:
    """Encoding of a text file by its byte order mark, UTF-8 without one. Raises DataError for other UTF-16."""
    with open(path, "rb") as file:
        start = file.read(64)
    for encoding, marks in _BYTE_ORDER_MARKS.items():
        if start.startswith(marks):
            return encoding
    if b"\0" in start:
        raise DataError(f"{path} looks like UTF-16 without a byte order mark, expected UTF-8: {_SAVE_AS_UTF8}")
    return "utf-8"


def iterate_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, stripped, with their numbers from 1.

    The file is UTF-8 or has a byte order mark. Raises DataError if it is empty or has another encoding.
    """
    encoding, is_empty = encoding_of(path), True
    try:
        with open(path, encoding=encoding) as file:
            for number, line in enumerate(file, start=1):
                if line := line.strip():
                    is_empty = False
                    yield number, line
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not {encoding.upper()} text: {_SAVE_AS_UTF8}") from error
    if is_empty:
        raise DataError(f"{path} is empty: expected one line per video")


def first_line(path: Path) -> str:
    """The first line that is not blank. Raises DataError as `iterate_lines`."""
    return next(iterate_lines(path))[1]


def split_cells(line: str) -> list[str]:
    """The cells of a line of CSV, stripped; an empty list if it is not CSV."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]
    except csv.Error:
        return []


def read_table(path: Path, columns: Sequence[str], problems: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line numbers of a CSV file with a header, and the cells of `columns`.

    Raises DataError for another header, and at the end for bad rows, `problems` of the caller, or no rows at all.
    """
    lines = iterate_lines(path)
    header = split_cells(next(lines)[1])
    if not set(columns) <= set(header):
        raise DataError(f"{path}: its first line is {','.join(header)!r}, expected a header with {','.join(columns)!r}")
    choose, empty, limit = operator.itemgetter(*map(header.index, columns)), True, csv.field_size_limit()
    for number, line in lines:
        is_plain = '"' not in line and len(line) <= limit
        cells = line.split(",") if is_plain else split_cells(line)
        wanted = [*map(str.strip, choose(cells))] if len(cells) == len(header) else [""]
        if "" in wanted:
            problems.append(f"line {number}: found {line!r}, expected '{','.join(header)}'")
        else:
            empty = False
            yield number, wanted
    if problems:
        raise join_problems(str(path), problems, "fix these lines")
    if empty:
        raise DataError(f"{path} has a header but no clips: expected one line per clip")


class ClipList(NamedTuple):
    """The rows of a split file in columns: line numbers, clip names, and labels as written."""

    path: Path
    lines: array
    names: list[str]
    labels: list[str]

    @classmethod
    def empty(cls, path: Path) -> "ClipList":
        """No rows yet."""
        return cls(path, array("q"), [], [])

    def add(self, line: int, name: str, label: str) -> None:
        """Add a row. Equal labels are stored once."""
        self.lines.append(line)
        self.names.append(name)
        self.labels.append(sys.intern(label))


def has_repeats(keys: Iterable[Hashable]) -> bool:
    """Whether keys repeat, by their hashes: without repeats, true by chance for one of 30 million sets of a million."""
    hashes = np.fromiter(map(hash, keys), np.int64)
    hashes.sort()
    return bool((hashes[1:] == hashes[:-1]).any())


def find_repeats(clips: ClipList, keys: Callable[[], Iterable[Hashable]]) -> list[str]:
    """Messages about rows whose key is that of an earlier row; `keys` returns the keys of all rows at each call."""
    if not has_repeats(keys()):
        return []
    first: dict[Hashable, int] = {}
    rows = ((row, first.setdefault(key, row)) for row, key in enumerate(keys()))
    return [
        f"line {clips.lines[row]}: {clips.names[row]} is in line {clips.lines[earlier]} as {clips.names[earlier]}"
        for row, earlier in rows
        if row != earlier and clips.names[row]
    ]


def refuse_shared(split: str, keys: Mapping[str, Sequence[str]], lists: Mapping[str, ClipList]) -> None:
    """Raise DataError for clips of `split` that are in training and in validation or testing, by their `keys`."""
    mine = lists[split]
    for other in set(lists) & ({"val", "test"} if split == "train" else {"train"}):
        few, many = sorted((keys[split], keys[other]), key=len)
        if set(few).isdisjoint(many):
            continue
        rows, theirs = {key: row for row, key in enumerate(keys[other])}, lists[other]
        shared = [
            f"{name}: {mine.path.name} line {line}, {theirs.path.name} line {theirs.lines[rows[key]]}"
            for name, line, key in zip(mine.names, mine.lines, keys[split], strict=True)
            if key in rows
        ]
        what = f"{mine.path.parent}: clips in both {mine.path.name} and {theirs.path.name}"
        raise join_problems(what, shared, "remove them from one of the two")


def read_class_names(folder: Path) -> tuple[str, ...] | None:
    """Class names in label order: the lines of `classes.txt` in `folder`, None if there is none. Raises DataError."""
    path = folder / "classes.txt"
    if not path.is_file():
        return None
    labels: dict[str, int] = {}
    problems = []
    for label, (line, name) in enumerate(iterate_lines(path)):
        if labels.setdefault(name, label) != label or (name.isdecimal() and int(name) != label):
            problems.append(f"line {line}: {name} is the name or number of another class")
    if problems:
        raise join_problems(str(path), problems, "give each class one line, in label order from 0")
    return tuple(labels)


def number_labels(path: Path, texts: Iterable[str], class_names: tuple[str, ...]) -> dict[str, int]:
    """The labels of class names and numbers. Raises DataError if one of `texts`, of the list `path`, is neither."""
    labels = {str(label): label for label in range(len(class_names))}
    labels |= {name: label for label, name in enumerate(class_names)}
    if unknown := sorted(set(texts) - set(labels)):
        raise join_problems(f"{path}: labels that are not in classes.txt", unknown, "fix them, or classes.txt")
    return labels


def check_classes(what: str, class_names: Sequence[str], labels: Iterable[int]) -> None:
    """Raise DataError, which says `what` they are, if there are classes that are not among the `labels`."""
    present = set(labels)
    if absent := [name for label, name in enumerate(class_names) if label not in present]:
        raise join_problems(what, absent, "complete them, or remove these classes from all splits")


class ListedClips(NamedTuple):
    """The clips of a list. `labels` is int64 (clips,); `where` returns what messages call the clip of a row."""

    names: Sequence[str]
    labels: np.ndarray
    located: Located
    where: Callable[[int], str]


def build_split(
    cfg: CfgNode, split: str, listed: Path, clips: ListedClips, class_names: tuple[str, ...], remedy: str
) -> DatasetSplit:
    """The clips of a list that are on disk, of all classes in training; DataError as `records_on_disk`."""
    records = records_on_disk(cfg, listed, clips, remedy)
    if split == "train":
        check_classes(
            f"{listed}: classes without training clips",
            class_names,
            np.flatnonzero(np.bincount(records.labels)).tolist(),
        )
    return DatasetSplit(records, class_names)


def records_on_disk(cfg: CfgNode, listed: Path, clips: ListedClips, remedy: str) -> Records:
    """The clips of a list that are on disk; DataError for more than DATA.MAX_MISSING_FRACTION missing clips."""
    names, labels, located, where = clips
    is_found = located.is_found()
    missing = [where(row) for row in np.flatnonzero(~is_found).tolist()]
    what, fraction = f"{listed}: {len(missing)} of {len(names)} listed clips are not on disk", len(missing) / len(names)
    if fraction > cfg.DATA.MAX_MISSING_FRACTION or fraction == 1:
        enough = min(1.0, math.ceil(fraction * 100) / 100)
        if shards := open_shards(cfg):
            remedy = "\n".join([*shards.damaged, remedy])
        raise join_problems(what, missing, f"{remedy}; or set DATA.MAX_MISSING_FRACTION {enough} to skip them")
    if missing:
        logger.warning("%s and left out: %s", what, shorten(missing, "; "))
        names, labels = itertools.compress(names, is_found.tolist()), labels[is_found]
    if located.folder is not None:
        return Records(names, labels, folder=located.folder)
    paths = located.paths()
    return Records(names, labels, filter(None, paths) if missing else paths)


def split_files(folder: Path) -> dict[str, Path]:
    """The files train.csv, val.csv (or validate.csv) and test.csv that exist in `folder`, by split."""
    names = {"validate": "val"} | {split: split for split in SPLITS}
    paths = {split: folder / f"{name}.csv" for name, split in names.items() if (folder / f"{name}.csv").is_file()}
    return {split: paths[split] for split in SPLITS if split in paths}
