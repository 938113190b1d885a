"""Text files that say which clips are in a split: their folder, lines and tables, class names, and clips not there."""

import csv
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.datasets.records import DataError, join_problems
from timesformer.errors import shorten

logger = logging.getLogger(__name__)


def splits_folder(cfg: CfgNode) -> Path:
    """Folder of the split files: DATA.SPLITS_DIR, else DATA.PATH_TO_DATA_DIR; DataError when it does not exist."""
    key = "DATA.SPLITS_DIR" if cfg.DATA.SPLITS_DIR else "DATA.PATH_TO_DATA_DIR"
    folder = Path(cfg.DATA.SPLITS_DIR or cfg.DATA.PATH_TO_DATA_DIR)
    if not (cfg.DATA.SPLITS_DIR or cfg.DATA.PATH_TO_DATA_DIR):
        raise DataError("DATA.PATH_TO_DATA_DIR is empty: set it to the folder of the dataset")
    if not folder.is_dir():
        raise DataError(f"{key} is {folder}, which is not a folder here: set it to the folder of the dataset")
    return folder


def iterate_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text file that are not blank, without outer blanks, each with its number from 1; DataError if none."""
    empty = True
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                # "-sig": spreadsheets like to put a byte order mark first
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, line {number}: not UTF-8 text: save the file as UTF-8 CSV") from error
            if text:
                empty = False
                yield number, text
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
        raise DataError(f"{path}, line {number}: found {line!r}, expected the header '{','.join(columns)}'")
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
    """Log the `missing` ones of the `total` clips of a list that are not on disk; DataError above DATA.MAX_MISSING."""
    if not missing:
        return
    what = f"{listed}: {len(missing)} of {total} listed clips are not on disk"
    if len(missing) == total:
        raise join_problems(what, list(missing), remedy)
    share = len(missing) / total
    if share > cfg.DATA.MAX_MISSING:
        enough = min(1.0, math.ceil(share * 100) / 100)
        raise join_problems(what, list(missing), f"{remedy}; or set DATA.MAX_MISSING {enough} to do without them")
    logger.warning("%s and left out: %s", what, shorten(missing, "; "))
