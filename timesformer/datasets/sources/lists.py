"""Text files that say which clips are in a split: their folder, lines and tables, class names, and clips not there."""

import codecs
import csv
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.datasets.records import DataError, join_problems
from timesformer.errors import shorten

logger = logging.getLogger(__name__)

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins like UTF-16
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SAVE_AS_UTF8 = 'save it as UTF-8 (in Excel, "CSV UTF-8"; in an editor, "Save with encoding")'


def splits_folder(cfg: CfgNode) -> Path:
    """Folder of the split files: DATA.SPLITS_DIR, else DATA.PATH_TO_DATA_DIR; DataError when it does not exist."""
    key = "DATA.SPLITS_DIR" if cfg.DATA.SPLITS_DIR else "DATA.PATH_TO_DATA_DIR"
    folder = Path(cfg.DATA.SPLITS_DIR or cfg.DATA.PATH_TO_DATA_DIR)
    if not (cfg.DATA.SPLITS_DIR or cfg.DATA.PATH_TO_DATA_DIR):
        raise DataError("DATA.PATH_TO_DATA_DIR is empty: set it to the folder of the dataset")
    if not folder.is_dir():
        raise DataError(f"{key} is {folder}, which is not a folder here: set it to the folder of the dataset")
    return folder


def encoding_of(path: Path) -> str:
    """The encoding of a text file by its byte order mark: UTF-8 where there is none.

    Raises DataError for zeros among the first bytes, which only UTF-16 and UTF-32 have.
    """
    with open(path, "rb") as file:
        start = file.read(64)
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding
    if b"\0" in start:
        raise DataError(f"{path} is not UTF-8 text, but looks like UTF-16 without a byte order mark: {_SAVE_AS_UTF8}")
    return "utf-8"


def require_utf8(path: Path) -> None:
    """DataError where a text file is of another encoding, as far as its first bytes tell."""
    if not (encoding := encoding_of(path)).startswith("utf-8"):
        raise DataError(f"{path} is {encoding.upper()} text, expected UTF-8: {_SAVE_AS_UTF8}")


def iterate_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file that are not blank, without outer blanks, each with its number from 1.

    The file is UTF-8, or has a byte order mark; lines end as on any system. Raises DataError where it is empty or of
    another encoding.
    """
    empty, where, encoding = True, str(path), encoding_of(path)
    is_utf8 = encoding.startswith("utf-8")
    # With surrogateescape, the line that holds a wrong byte is known.
    with open(path, encoding=encoding, errors="surrogateescape" if is_utf8 else "strict") as file:
        try:
            for number, line in enumerate(file, start=1):
                text = line.strip()
                if text:
                    empty = False
                    if is_utf8 and not text.isascii():
                        where = f"{path}, line {number}"
                        text.encode()
                    yield number, text
        except UnicodeError as error:
            name = encoding.removesuffix("-sig").upper()
            raise DataError(f"{where}: not {name} text: {_SAVE_AS_UTF8}") from error
    if empty:
        raise DataError(f"{path} is empty: expected one line per video")


def read_lines(path: Path) -> list[tuple[int, str]]:
    """All that `iterate_lines` gives."""
    return list(iterate_lines(path))


def first_line(path: Path) -> str:
    """The first line that is not blank; DataError if there is none."""
    return next(iterate_lines(path))[1]


def split_cells(line: str) -> list[str]:
    """Cells of a line of comma-separated values, without outer blanks; quoted ones may hold commas; none if no CSV."""
    if '"' not in line:
        return [cell.strip() for cell in line.split(",")]
    try:
        return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]
    except csv.Error:
        return []


def read_table(path: Path, columns: Sequence[str], problems: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV file with a header: the cells of `columns`, which may not be empty, with the number of the line.

    Other columns are passed over. What is wrong with a line is put into `problems`; DataError when the header is.
    """
    lines = iterate_lines(path)
    number, line = next(lines)
    header = split_cells(line)
    if not set(columns) <= set(header):
        raise DataError(
            f"{path}, line {number}: found {line!r}, expected the header '{','.join(columns)}': give the columns these "
            "names, with commas between them"
        )
    places = [header.index(column) for column in columns]
    for number, line in lines:
        cells = split_cells(line)
        wanted = [cells[place] for place in places] if len(cells) == len(header) else [""]
        if "" in wanted:
            problems.append(f"line {number}: found {line!r}, expected '{','.join(header)}'")
        else:
            yield number, wanted


def read_class_names(folder: Path) -> tuple[str, ...] | None:
    """Class names in the order of their labels: the lines of `classes.txt` in `folder`, None where there is none.

    Raises DataError for a name that stands there twice, and for a number that is not that of its class.
    """
    listing = folder / "classes.txt"
    if not listing.is_file():
        return None
    numbers: dict[str, int] = {}
    problems = []
    for label, (line, name) in enumerate(iterate_lines(listing)):
        if name in numbers:
            problems.append(f"line {line}: {name} is the name of class {numbers[name]} already")
        elif name.isdecimal() and int(name) != label:
            problems.append(f"line {line}: the class of number {label} is called {name}, which means another class")
        numbers.setdefault(name, label)
    if problems:
        raise join_problems(str(listing), problems, "give each class one line, in the order of their numbers from 0")
    return tuple(numbers)


def check_training(listed: Path | str, class_names: Sequence[str], trained: Iterable[int]) -> None:
    """Refuse classes of which there is no training clip; `trained` are the labels of those there are."""
    trained = set(trained)
    untrained = [name for label, name in enumerate(class_names) if label not in trained]
    if untrained:
        raise join_problems(
            f"{listed}: classes without training clips", untrained, "add some, or remove these classes from all splits"
        )


def leave_out(cfg: CfgNode, listed: Path, missing: Sequence[str], total: int, remedy: str) -> None:
    """Log the `missing` of `total` listed clips; DataError above DATA.MAX_MISSING_FRACTION."""
    if not missing:
        return
    what = f"{listed}: {len(missing)} of {total} listed clips are not on disk"
    if len(missing) == total:
        raise join_problems(what, list(missing), remedy)
    share = len(missing) / total
    if share > cfg.DATA.MAX_MISSING_FRACTION:
        enough = min(1.0, math.ceil(share * 100) / 100)
        raise join_problems(what, list(missing), f"{remedy}; or set DATA.MAX_MISSING_FRACTION {enough} to skip them")
    logger.warning("%s and left out: %s", what, shorten(missing, "; "))
