"""Split files: reading their lines, tables and class names, and checks that all datasets with lists share."""

import codecs
import csv
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from fvcore.common.config import CfgNode

from timesformer.datasets.records import SPLITS, DataError, join_problems
from timesformer.errors import shorten

logger = logging.getLogger(__name__)

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins like UTF-16
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SAVE_AS_UTF8 = 'save it as UTF-8 (in Excel, "CSV UTF-8"; in an editor, "Save with encoding")'


def splits_folder(cfg: CfgNode) -> Path:
    """Folder of the split files: DATA.SPLITS_DIR, else DATA.PATH_TO_DATA_DIR. Raises DataError if it does not exist."""
    return _folder("DATA.SPLITS_DIR", cfg.DATA.SPLITS_DIR) if cfg.DATA.SPLITS_DIR else data_folder(cfg)


def data_folder(cfg: CfgNode) -> Path:
    """DATA.PATH_TO_DATA_DIR. Raises DataError if it does not exist."""
    return _folder("DATA.PATH_TO_DATA_DIR", cfg.DATA.PATH_TO_DATA_DIR)


def _folder(key: str, value: str) -> Path:
    if not value or not Path(value).is_dir():
        raise DataError(f"{key} is {value!r}, which is not a folder here: set it to the folder of the dataset")
    return Path(value)


def clips_folder(cfg: CfgNode) -> Path:
    """Folder that the paths of a list start from: DATA.PATH_PREFIX, else DATA.PATH_TO_DATA_DIR."""
    return Path(cfg.DATA.PATH_PREFIX or cfg.DATA.PATH_TO_DATA_DIR)


def encoding_of(path: Path) -> str:
    """Encoding of a text file by its byte order mark, UTF-8 without one.

    Raises DataError for null bytes, which only UTF-16 and UTF-32 text has.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            return encoding
    if b"\0" in start:
        raise DataError(f"{path} looks like UTF-16 without a byte order mark, expected UTF-8: {_SAVE_AS_UTF8}")
    return "utf-8"


def iterate_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not blank, stripped, with their numbers from 1.

    The file is UTF-8 or has a byte order mark. Raises DataError if it is empty or has another encoding.
    """
    empty, number, encoding = True, 0, encoding_of(path)
    is_utf8 = encoding.startswith("utf-8")
    # surrogateescape and a check of each line find the number of the line that is not UTF-8.
    with open(path, encoding=encoding, errors="surrogateescape" if is_utf8 else "strict") as file:
        try:
            for number, line in enumerate(file, start=1):
                if text := line.strip():
                    empty = False
                    if not text.isascii():
                        text.encode()
                    yield number, text
        except UnicodeError as error:
            where = f"{path}, line {number}" if is_utf8 else str(path)
            raise DataError(f"{where}: not {encoding.removesuffix('-sig').upper()} text: {_SAVE_AS_UTF8}") from error
    if empty:
        raise DataError(f"{path} is empty: expected one line per video")


def first_line(path: Path) -> str:
    """The first line that is not blank. Raises DataError if there is none."""
    return next(iterate_lines(path))[1]


def split_cells(line: str) -> list[str]:
    """The cells of a line of CSV, stripped; an empty list if it is not CSV."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]
    except csv.Error:
        return []


def read_table(path: Path, columns: Sequence[str], problems: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of `columns` of a CSV file with a header, with the line numbers.

    Rows with empty or missing cells are skipped and added to `problems`. Raises DataError for another header, and at
    the end if there are problems or no rows.
    """
    lines = iterate_lines(path)
    header = split_cells(next(lines)[1])
    if not set(columns) <= set(header):
        raise DataError(f"{path}: its first line is {','.join(header)!r}, expected a header with {','.join(columns)!r}")
    indices, empty = [header.index(column) for column in columns], True
    for number, line in lines:
        cells = split_cells(line)
        wanted = [cells[index] for index in indices] if len(cells) == len(header) else [""]
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
    lines: list[int]
    names: list[str]
    labels: list[str]


def find_repeats(clips: ClipList, keys: Iterable[str]) -> list[str]:
    """Rows whose key is that of an earlier row, as messages."""
    first: dict[str, int] = {}
    rows = enumerate(first.setdefault(key, row) for row, key in enumerate(keys))
    return [
        f"line {clips.lines[row]}: {clips.names[row]} is already in line {clips.lines[earlier]}"
        + ("" if clips.names[row] == clips.names[earlier] else f" as {clips.names[earlier]}")
        for row, earlier in rows
        if row != earlier
    ]


def refuse_shared(split: str, keys: Mapping[str, Sequence[str]], lists: Mapping[str, ClipList]) -> None:
    """Raise DataError for clips of `split` that training and validation, or training and testing, have in common.

    keys: what makes two clips of `lists` the same, per split and row.
    """
    mine = lists[split]
    for other in set(lists) & ({"val", "test"} if split == "train" else {"train"}):
        rows = {key: row for row, key in enumerate(keys[other])}
        theirs = lists[other]
        shared = [
            f"{mine.names[row]}: {mine.path.name} line {mine.lines[row]}, "
            f"{theirs.path.name} line {theirs.lines[rows[key]]}"
            for row, key in enumerate(keys[split])
            if key in rows
        ]
        if shared:
            what = f"{mine.path.parent}: clips in both {mine.path.name} and {theirs.path.name}"
            raise join_problems(what, shared, "remove them from one of the two")


def read_class_names(folder: Path) -> tuple[str, ...] | None:
    """Class names in label order: the lines of `classes.txt` in `folder`, None if there is none.

    Raises DataError for a repeated name, and for a number that is not the label of its line.
    """
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
    """The label of each class name, or number, among `texts`.

    Raises DataError for one that is not a class of `classes.txt` next to the list `path`.
    """
    labels = {str(label): label for label in range(len(class_names))}
    labels |= {name: label for label, name in enumerate(class_names)}
    if unknown := sorted(set(texts) - set(labels)):
        raise join_problems(f"{path}: labels that are not in classes.txt", unknown, "fix them, or classes.txt")
    return labels


def check_training(listed: Path | str, class_names: Sequence[str], labels: Iterable[int]) -> None:
    """Raise DataError if a class has none of the `labels` of the training clips."""
    present = set(labels)
    if absent := [name for label, name in enumerate(class_names) if label not in present]:
        remedy = "add some, or remove these classes from all splits"
        raise join_problems(f"{listed}: classes without training clips", absent, remedy)


def check_missing(cfg: CfgNode, listed: Path, missing: Sequence[str], total: int, remedy: str) -> None:
    """Warn of the `missing` of `total` listed clips. Raises DataError above DATA.MAX_MISSING_FRACTION."""
    if not missing:
        return
    what = f"{listed}: {len(missing)} of {total} listed clips are not on disk"
    fraction = len(missing) / total
    if fraction == 1:
        raise join_problems(what, list(missing), remedy)
    if fraction > cfg.DATA.MAX_MISSING_FRACTION:
        enough = min(1.0, math.ceil(fraction * 100) / 100)
        raise join_problems(what, list(missing), f"{remedy}; or set DATA.MAX_MISSING_FRACTION {enough} to skip them")
    logger.warning("%s and left out: %s", what, shorten(missing, "; "))


def split_files(folder: Path) -> dict[str, Path]:
    """The files train.csv, val.csv (or validate.csv) and test.csv that exist in `folder`, by split."""
    names = {split: [f"{split}.csv"] for split in SPLITS} | {"val": ["val.csv", "validate.csv"]}
    found = {split: [folder / name for name in names[split] if (folder / name).is_file()] for split in SPLITS}
    return {split: paths[0] for split, paths in found.items() if paths}
