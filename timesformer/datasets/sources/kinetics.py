"""Lists in the manner of Kinetics: train.csv, val.csv and test.csv of lines `path<separator>label`.

The lists may be Kinetics' own annotation files instead: see kinetics_annotations.py.
"""

import logging
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.datasets.records import SPLITS, DataError, DatasetSplit, Records, Strings, join_problems
from timesformer.datasets.sources import kinetics_annotations
from timesformer.datasets.sources.duplicates import matches, repeats
from timesformer.datasets.sources.lists import first_line, iterate_lines, read_class_names, splits_folder
from timesformer.errors import shorten

logger = logging.getLogger(__name__)

_PATH_HEADERS = frozenset({"path", "video", "video_name", "video_path", "file", "filename", "name", "clip"})


class _List(NamedTuple):
    """What stands in a list, in columns: a million lines take under 100 MB."""

    csv: Path
    paths: Strings
    labels: np.ndarray  # numbers into `texts`, int64 (videos,)
    texts: tuple[str, ...]  # the different labels as they stand there
    lines: np.ndarray  # numbers of the lines, int64 (videos,)
    hashes: np.ndarray  # of the paths, int64 (videos,)
    problems: dict[int, str]  # lines that are not a path and a label, by number


def kinetics(cfg: CfgNode, split: str) -> DatasetSplit:
    """Read `<split>.csv` of DATA.SPLITS_DIR (else DATA.PATH_TO_DATA_DIR).

    A line holds a path, DATA.PATH_LABEL_SEPARATOR and a label; the first may be a header, such as `path label`, which
    the log then tells. The last separator counts, so that paths may hold blanks. DATA.PATH_PREFIX is put before every
    path; relative paths start at the working directory. A label is a number from 0 to MODEL.NUM_CLASSES - 1, or the
    name of a class. Class names are the lines of `classes.txt` beside the list where there is one, else the numbers, or
    the names of all lists, sorted.
    A video may stand in both val.csv and test.csv (Kinetics is commonly tested on its validation list), but one that
    is also trained on is an error. Videos are not looked for on disk, but for the first ones. Raises DataError.
    """
    folder = splits_folder(cfg)
    csv = kinetics_annotations.locate(folder, split)
    if not csv.is_file():
        raise DataError(
            f"{csv} not found: expected lines `path{cfg.DATA.PATH_LABEL_SEPARATOR}label`; write it, or point "
            "DATA.PATH_TO_DATA_DIR (or DATA.SPLITS_DIR) to the folder that holds train.csv, val.csv and test.csv"
        )
    if kinetics_annotations.is_header(first_line(csv)):
        return kinetics_annotations.find_records(cfg, split)

    class_names = read_class_names(folder)
    mine = _read(csv, cfg, class_names)
    # Without classes.txt, labels that are no numbers are the names of the classes.
    new_names = class_names is None and sum(text.isdecimal() for text in mine.texts) < len(mine.texts) / 2
    numbers = {} if new_names else _numbers(class_names, cfg)
    if new_names and len(mine.texts) > cfg.MODEL.NUM_CLASSES:
        raise DataError(
            f"{csv}: {len(mine.texts)} different labels ({shorten(mine.texts)}), but MODEL.NUM_CLASSES is "
            f"{cfg.MODEL.NUM_CLASSES}: set DATA.PATH_LABEL_SEPARATOR or MODEL.NUM_CLASSES to what the file holds"
        )
    _check(mine, None if new_names else numbers)
    names = set(mine.texts)
    opposite = ("val", "test") if split == "train" else ("train",)
    for other_csv in (folder / f"{name}.csv" for name in (SPLITS if new_names else opposite) if name != split):
        if other_csv.is_file():
            other = _read(other_csv, cfg, class_names)
            _check(other, None if new_names else numbers)
            names.update(other.texts)
            if other_csv.stem in opposite:
                _refuse_shared(mine, other)
    if new_names:
        class_names = tuple(sorted(names))
        numbers = {name: number for number, name in enumerate(class_names)}
    labels = np.array([_number(text, numbers) for text in mine.texts])[mine.labels]

    records = Records(mine.paths, labels, folder=cfg.DATA.PATH_PREFIX)
    if not any(os.path.exists(records[number].path) for number in range(min(20, len(records)))):
        raise DataError(
            f"{csv}: none of its first videos exists, e.g. {records[0].path} (line {mine.lines[0]}): "
            "set DATA.PATH_PREFIX to the folder that the paths start from, or, if the path is not a whole one, "
            f"DATA.PATH_LABEL_SEPARATOR (now {cfg.DATA.PATH_LABEL_SEPARATOR!r}) to what stands before the label"
        )
    highest = int(labels.max())
    if split == "train" and highest < cfg.MODEL.NUM_CLASSES - 1:
        logger.warning(
            "%s: labels end at %d, but MODEL.NUM_CLASSES is %d; set it to %d unless the last classes have no clips",
            *(csv, highest, cfg.MODEL.NUM_CLASSES, highest + 1),
        )
    return DatasetSplit(records, class_names or tuple(numbers))


def _read(csv: Path, cfg: CfgNode, class_names: tuple[str, ...] | None) -> _List:
    separator = cfg.DATA.PATH_LABEL_SEPARATOR
    labels, lines, hashes = array("q"), array("q"), array("q")
    texts: dict[str, int] = {}
    codes: dict[str, int] = {}  # of labels as the separator leaves them
    problems: dict[int, str] = {}
    is_first = True

    def paths() -> Iterator[str]:
        nonlocal is_first
        for number, line in iterate_lines(csv):
            path, _, label = line.rpartition(separator)
            path, code = path.strip(), codes.get(label)
            if code is None or path[:1] in '"':  # a label not seen yet, a path in quotes, or none: seldom
                path, text = _unquoted(path), _unquoted(label)
                may_be_header, is_first = is_first, False  # the first line always comes here
                if may_be_header and path.lower() in _PATH_HEADERS and not _is_label(text, class_names):
                    logger.info("%s, line %d: %r is taken for a header", csv, number, line)
                    continue
                if not (path and text):
                    problems[number] = f"found {line!r}, expected a path, {separator!r} and a label"
                    continue
                code = codes[label] = texts.setdefault(text, len(texts))
            labels.append(code)
            lines.append(number)
            hashes.append(hash(_plain(path)))
            yield path

    found = Strings(paths())
    if not found and not problems:
        raise DataError(f"{csv} has a header but no videos: expected one line `path{separator}label` per video")
    columns = (np.asarray(column) for column in (lines, hashes))
    return _List(csv, found, np.asarray(labels), tuple(texts), *columns, problems)


def _is_label(text: str, class_names: tuple[str, ...] | None) -> bool:
    return text.lstrip("-").isdecimal() or text in (class_names or ())


def _plain(path: str) -> str:
    """The one spelling of paths that differ in `.`, `..` and repeated slashes alone."""
    return os.path.normpath(path) if "./" in path or "//" in path or path.endswith("/") else path


class _PlainPaths:
    def __init__(self, paths: Strings) -> None:
        self._paths = paths

    def __getitem__(self, index: int) -> str:
        return _plain(self._paths[index])


def _unquoted(text: str) -> str:
    text = text.strip()
    # Spreadsheets put quotes around what holds a comma.
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


def _numbers(class_names: tuple[str, ...] | None, cfg: CfgNode) -> dict[str, int]:
    """The number of the class that each label means: numbers from 0, and names if there is a list of them."""
    numbers = {str(number): number for number in range(len(class_names) if class_names else cfg.MODEL.NUM_CLASSES)}
    return numbers | {name: number for number, name in enumerate(class_names or ())}


def _number(text: str, numbers: dict[str, int]) -> int | None:
    return numbers.get(text, numbers.get(str(int(text))) if text.isdecimal() else None)


def _check(found: _List, numbers: dict[str, int] | None) -> None:
    """Raise DataError for bad lines, videos listed twice, and labels that are not in `numbers` (None: all are good)."""
    problems = dict(found.problems)
    for code, text in enumerate(found.texts):
        if numbers is not None and _number(text, numbers) is None:
            expected = f"expected 0 to {max(numbers.values())} (MODEL.NUM_CLASSES), or a name in classes.txt"
            wrong = found.lines[found.labels == code].tolist()
            problems |= dict.fromkeys(wrong, f"found the label {text!r}, {expected}")
    for number, earlier in repeats(_PlainPaths(found.paths), found.hashes):
        line = int(found.lines[number])
        problems.setdefault(line, f"{found.paths[number]} stands in line {found.lines[earlier]} already")
    if problems:
        remedy = "mend these lines, or set DATA.PATH_LABEL_SEPARATOR or MODEL.NUM_CLASSES to what the file holds"
        raise join_problems(f"{found.csv}", [f"line {line}: {problems[line]}" for line in sorted(problems)], remedy)


def _refuse_shared(mine: _List, other: _List) -> None:
    places = matches(_PlainPaths(mine.paths), mine.hashes, _PlainPaths(other.paths), other.hashes)
    shared = [
        f"{mine.paths[number]}: {mine.csv.name} line {mine.lines[number]}, "
        f"{other.csv.name} line {other.lines[places[number]]}"
        for number in np.flatnonzero(places >= 0).tolist()
    ]
    if shared:
        raise join_problems(
            f"{mine.csv.parent}: videos in both {mine.csv.name} and {other.csv.name}",
            shared,
            "take them out of one of the two: accuracy on a video that was trained on means nothing",
        )
