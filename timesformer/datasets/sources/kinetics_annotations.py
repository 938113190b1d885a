"""Kinetics' own annotation files: train.csv, val.csv (or validate.csv) and test.csv with a header.

Their columns are label, youtube_id, time_start, time_end, split and sometimes more, in any order.
"""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.datasets.records import SPLITS, DataError, DatasetSplit, Records, Strings, join_problems
from timesformer.datasets.sources.clip_files import is_video_name, stem, walk
from timesformer.datasets.sources.duplicates import hashes, matches, repeats
from timesformer.datasets.sources.lists import (
    check_training,
    first_line,
    leave_out,
    read_class_names,
    read_table,
    split_cells,
    splits_folder,
)

_COLUMNS = ("youtube_id", "time_start", "time_end", "label")


def locate(folder: Path, split: str) -> Path:
    """The file of a split, whether it is there or not."""
    other = folder / "validate.csv"
    return (
        other if split == "val" and other.is_file() and not (folder / "val.csv").is_file() else folder / f"{split}.csv"
    )


def is_header(line: str) -> bool:
    """Whether a file that begins with `line` is an annotation file of Kinetics."""
    return {"youtube_id", "time_start", "time_end"} <= set(split_cells(line))


def find_records(cfg: CfgNode, split: str) -> DatasetSplit:
    """Read the annotation file of `split`, and find its clips under DATA.PATH_PREFIX, else DATA.PATH_TO_DATA_DIR.

    A clip is called `<youtube_id>_<start>_<end>`, the times being seconds of six digits; it is a video file or a folder
    of frames, in any folder there, such as that of its class. Class names are the lines of `classes.txt` beside the
    files if there is one, else those of all files, sorted, as released checkpoints have them. Clips that are not on
    disk are an error, or left out and named in the log as far as DATA.MAX_MISSING_FRACTION allows. A clip of training
    that is in validation or testing too is an error. Raises DataError.
    """
    folder = splits_folder(cfg)
    files = {name: locate(folder, name) for name in SPLITS}
    files = {name: csv for name, csv in files.items() if csv.is_file() and is_header(first_line(csv))}
    if split == "test" and "label" not in split_cells(first_line(files[split])):
        raise DataError(f"{files[split]} has no labels: to test on the validation list, copy that to test.csv")
    texts: dict[str, int] = {}
    read = {name: _read(csv, texts) for name, csv in files.items() if "label" in split_cells(first_line(csv))}
    class_names = read_class_names(folder) or tuple(sorted(texts))
    clips, labels, lines = read[split]
    if unknown := sorted(set(texts) - set(class_names)):
        raise join_problems(f"{folder}: labels that are no class of classes.txt", unknown, "mend them, or classes.txt")
    numbers = np.array([class_names.index(text) for text in texts])
    _refuse_shared(split, files, read)

    root = Path(cfg.DATA.PATH_PREFIX or cfg.DATA.PATH_TO_DATA_DIR)
    stems = array("q")
    paths = Strings(_clips_below(root, stems))
    places = matches(clips, hashes(clips), _Stems(paths), np.asarray(stems))
    missing = [f"line {lines[number]}: {clips[number]}" for number in np.flatnonzero(places < 0).tolist()]
    remedy = f"download these clips to {root}, or set DATA.PATH_PREFIX to the folder that holds clips so called"
    leave_out(cfg, files[split], missing, len(clips), remedy)
    there = places >= 0
    labels = numbers[labels[there]]
    if split == "train":
        check_training(files[split], class_names, np.unique(labels).tolist())
    return DatasetSplit(
        Records((paths[place] for place in places[there].tolist()), labels, folder=str(root)), class_names
    )


def _read(csv: Path, texts: dict[str, int]) -> tuple[Strings, np.ndarray, np.ndarray]:
    """Names of the clips, numbers of their labels in `texts`, which is added to, and numbers of their lines."""
    labels, lines = array("q"), array("q")
    problems: list[str] = []

    def names() -> Iterator[str]:
        for number, (video, start, end, label) in read_table(csv, _COLUMNS, problems):
            try:
                name = f"{video}_{int(float(start)):06d}_{int(float(end)):06d}"
            except (ValueError, OverflowError):
                problems.append(f"line {number}: time_start {start!r} and time_end {end!r}, expected seconds")
                continue
            labels.append(texts.setdefault(label, len(texts)))
            lines.append(number)
            yield name

    found = Strings(names())
    for number, earlier in repeats(found, hashes(found)):
        problems.append(f"line {lines[number]}: {found[number]} stands in line {lines[earlier]} already")
    if problems:
        raise join_problems(str(csv), problems, "mend these lines")
    if not found:
        raise DataError(f"{csv} has a header but no clips: download it again")
    return found, np.asarray(labels), np.asarray(lines)


def _refuse_shared(split: str, files: dict[str, Path], read: dict[str, tuple[Strings, np.ndarray, np.ndarray]]) -> None:
    clips, _, lines = read[split]
    for other in set(read) & ({"val", "test"} if split == "train" else {"train"}):
        theirs, _, their_lines = read[other]
        places = matches(clips, hashes(clips), theirs, hashes(theirs))
        shared = [
            f"{clips[number]}: {files[split].name} line {lines[number]}, "
            f"{files[other].name} line {their_lines[places[number]]}"
            for number in np.flatnonzero(places >= 0).tolist()
        ]
        if shared:
            what = f"{files[split].parent}: clips in both {files[split].name} and {files[other].name}"
            raise join_problems(what, shared, "take them out of one of the two")


def _clips_below(root: Path, stems: array) -> Iterator[str]:
    """Paths of the clips below `root`, from there; the hashes of their names without extension go into `stems`."""
    for place, folders, files in walk(root):
        frames = [name for name in folders if _is_clip_name(name)]
        folders[:] = [name for name in folders if not _is_clip_name(name)]
        for name in sorted(frames + [name for name in files if is_video_name(name)]):
            stems.append(hash(stem(name)))
            yield name if place == "." else f"{place}/{name}"


def _is_clip_name(name: str) -> bool:
    """Whether a folder is called like a clip, `<youtube_id>_<start>_<end>`, and not like a class."""
    _, start, end = ("__" + name).rsplit("_", 2)
    return len(start) == len(end) == 6 and start.isdecimal() and end.isdecimal()


class _Stems:
    """What `paths` are called without folder and extension."""

    def __init__(self, paths: Strings) -> None:
        self._paths = paths

    def __getitem__(self, index: int) -> str:
        return stem(os.path.basename(self._paths[index]))
