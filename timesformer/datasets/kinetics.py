"""Lists in the manner of Kinetics: train.csv, val.csv and test.csv of lines `path<separator>label`."""

import logging
import os
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.datasets.records import DataError, DatasetSplit, Records, join_problems

logger = logging.getLogger(__name__)


def find_records(cfg: CfgNode, split: str) -> DatasetSplit:
    """Read `<split>.csv` of DATA.SPLITS_DIR (else DATA.PATH_TO_DATA_DIR).

    A line holds a path, DATA.PATH_LABEL_SEPARATOR and a label from 0 to MODEL.NUM_CLASSES - 1. The last separator
    counts, so that paths may hold blanks. DATA.PATH_PREFIX is put before every path; relative paths start at the
    working directory. Class names are the lines of `classes.txt` beside the list where there is one, else the numbers.
    A video may stand in both val.csv and test.csv (Kinetics is commonly tested on its validation list), but one that
    is also trained on is an error. Raises DataError.
    """
    folder = splits_folder(cfg)
    csv = folder / f"{split}.csv"
    if not csv.is_file():
        raise DataError(
            f"{csv} not found: expected lines `path{cfg.DATA.PATH_LABEL_SEPARATOR}label`; write it, or point "
            "DATA.PATH_TO_DATA_DIR (or DATA.SPLITS_DIR) to the folder that holds train.csv, val.csv and test.csv"
        )
    entries = _read_list(csv, cfg)
    others = ("val", "test") if split == "train" else ("train",)
    for other in (folder / f"{name}.csv" for name in others):
        _refuse_shared(csv, entries, other, _read_list(other, cfg) if other.is_file() else {})

    records = Records(entries, (label for _, label in entries.values()), folder=cfg.DATA.PATH_PREFIX)
    if not any(os.path.exists(records[number].path) for number in range(min(20, len(records)))):
        raise DataError(
            f"{csv}: none of its first videos exists, e.g. {records[0].path} (line {entries[records[0].name][0]}): "
            "set DATA.PATH_PREFIX to the folder that the paths start from"
        )
    highest = int(records.labels.max())
    if split == "train" and highest < cfg.MODEL.NUM_CLASSES - 1:
        logger.warning("%s: labels end at %d, but MODEL.NUM_CLASSES is %d", csv, highest, cfg.MODEL.NUM_CLASSES)
    return DatasetSplit(records, _class_names(folder, cfg.MODEL.NUM_CLASSES))


def splits_folder(cfg: CfgNode) -> Path:
    """Folder of the split files: DATA.SPLITS_DIR, else DATA.PATH_TO_DATA_DIR; DataError when it does not exist."""
    key = "DATA.SPLITS_DIR" if cfg.DATA.SPLITS_DIR else "DATA.PATH_TO_DATA_DIR"
    folder = Path(cfg.DATA.SPLITS_DIR or cfg.DATA.PATH_TO_DATA_DIR)
    if not (cfg.DATA.SPLITS_DIR or cfg.DATA.PATH_TO_DATA_DIR):
        raise DataError("DATA.PATH_TO_DATA_DIR is empty: set it to the folder of the dataset")
    if not folder.is_dir():
        raise DataError(f"{key} is {folder}, which is not a folder here: set it to the folder of the dataset")
    return folder


def read_lines(csv: Path) -> list[tuple[int, str]]:
    """Lines of a text file that are not blank, without outer blanks, each with its number from 1; DataError if none."""
    try:
        text = csv.read_text(encoding="utf-8-sig")  # "-sig": spreadsheets like to put a byte order mark first
    except UnicodeDecodeError as error:
        line = csv.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{csv}, line {line}: not UTF-8 text: save the file as UTF-8 CSV") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{csv} is empty: expected one line per video")
    return lines


def _read_list(csv: Path, cfg: CfgNode) -> dict[str, tuple[int, int]]:
    """Map the path of every video in `csv` to (line number, label)."""
    separator, classes = cfg.DATA.PATH_LABEL_SEPARATOR, cfg.MODEL.NUM_CLASSES
    entries: dict[str, tuple[int, int]] = {}
    problems = []
    for number, line in read_lines(csv):
        path, found, label = line.rpartition(separator)
        path = path.strip()
        if not (found and path and label.strip().isdecimal()):
            problems.append(f"line {number}: found {line!r}, expected a path, {separator!r} and a whole number")
        elif int(label) >= classes:
            problems.append(
                f"line {number}: label {int(label)}, but MODEL.NUM_CLASSES is {classes} (0 to {classes - 1})"
            )
        elif path in entries:
            problems.append(f"line {number}: {path} stands in line {entries[path][0]} already")
        else:
            entries[path] = (number, int(label))
    if problems:
        remedy = "mend these lines, or set DATA.PATH_LABEL_SEPARATOR or MODEL.NUM_CLASSES to what the file holds"
        raise join_problems(f"{csv}", problems, remedy)
    return entries


def _refuse_shared(
    csv: Path, entries: dict[str, tuple[int, int]], other: Path, theirs: dict[str, tuple[int, int]]
) -> None:
    shared = [
        f"{path}: {csv.name} line {entries[path][0]}, {other.name} line {theirs[path][0]}"
        for path in entries
        if path in theirs
    ]
    if shared:
        raise join_problems(
            f"{csv.parent}: videos in both {csv.name} and {other.name}",
            shared,
            "take them out of one of the two: accuracy on a video that was trained on means nothing",
        )


def _class_names(folder: Path, num_classes: int) -> tuple[str, ...]:
    listing = folder / "classes.txt"
    if listing.is_file():
        return tuple(line for _, line in read_lines(listing))
    return tuple(str(label) for label in range(num_classes))
