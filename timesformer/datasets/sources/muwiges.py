"""MuWiGes, 12 gestures of 50 subjects seen from the wrist: clips.csv, split by who and where.

The file has the columns path, label, subject and scene. DATA.PROTOCOL:

    cross_subject        test clips are those of DATA.TEST_SUBJECTS
    cross_scene_subject  test clips are those of DATA.TEST_SUBJECTS in DATA.TEST_SCENES, and nothing of either is
                         trained on; clips of a test subject in another scene, or the other way round, are left out

Clips of DATA.VAL_SUBJECTS are held out of training for validation. The gesture study has 35 subjects to train on and 15
to test; which ones these are is not published, so the default, subjects 36 to 50, is this project's choice.
"""

import functools
import logging
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import compress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.datasets.records import SPLITS, DataError, DatasetSplit, Records, Strings, join_problems
from timesformer.datasets.sources.clip_files import ClipFolder
from timesformer.datasets.sources.duplicates import hashes, repeats
from timesformer.datasets.sources.lists import check_training, leave_out, read_class_names, read_table, splits_folder
from timesformer.errors import shorten

logger = logging.getLogger(__name__)

COLUMNS = ("path", "label", "subject", "scene")


def muwiges(cfg: CfgNode, split: str) -> DatasetSplit:
    """Find the clips of `split` in clips.csv of DATA.SPLITS_DIR (else DATA.PATH_TO_DATA_DIR).

    Paths start at DATA.PATH_PREFIX, else at DATA.PATH_TO_DATA_DIR. Class names are the lines of `classes.txt` beside
    the file if there is one (a label is then a name or a number from 0), else the labels, sorted, numbers by value.
    Raises DataError for a missing file, a bad line, a clip that is listed twice or not there (see
    DATA.MAX_MISSING_FRACTION), a split without clips, and a class without training clips.
    """
    folder = splits_folder(cfg)
    csv = folder / "clips.csv"
    if not csv.is_file():
        raise DataError(
            f"{csv} not found: expected a file of columns {','.join(COLUMNS)}; point DATA.SPLITS_DIR to its folder"
        )
    clips = _read(csv)
    class_names, numbers = _classes(csv, clips.labels)
    split_of = [_split(cfg, subject, scene) for subject, scene in clips.circumstances]
    splits = [split_of[number] for number in clips.recorded.tolist()]
    counts = Counter(splits)
    if not counts[split]:
        subjects = shorten(map(str, sorted({subject for subject, _ in clips.circumstances})), limit=50)
        scenes = shorten(sorted({scene for _, scene in clips.circumstances}))
        raise DataError(
            f"{csv}: no clips for the {split} split by DATA.PROTOCOL {cfg.DATA.PROTOCOL}; it has the subjects "
            f"{subjects} and the scenes {scenes}: choose among them for DATA.TEST_SUBJECTS {cfg.DATA.TEST_SUBJECTS}, "
            f"DATA.VAL_SUBJECTS {cfg.DATA.VAL_SUBJECTS} and DATA.TEST_SCENES {cfg.DATA.TEST_SCENES!r}"
        )
    parts = ", ".join(f"{name} {counts[name]}" for name in SPLITS)
    logger.info("%s, %s: %s, left out %d clips", csv, cfg.DATA.PROTOCOL, parts, counts[""])

    root = Path(cfg.DATA.PATH_PREFIX or cfg.DATA.PATH_TO_DATA_DIR)
    found = Strings(_on_disk(root, clips.paths))
    _refuse_repeated(csv, clips, found)
    mine = np.array([own == split for own in splits])
    there = mine & np.fromiter(map(bool, found), bool)
    missing = [f"line {clips.lines[row]}: {root / clips.paths[row]}" for row in np.flatnonzero(mine & ~there).tolist()]
    remedy = "copy them there, or set DATA.PATH_PREFIX to the folder that the paths start from"
    leave_out(cfg, csv, missing, counts[split], remedy)
    labels = numbers[clips.codes[there]]
    if split == "train":
        check_training(csv, class_names, np.unique(labels).tolist())
    chosen = there.tolist()
    return DatasetSplit(Records(compress(clips.paths, chosen), labels, compress(found, chosen)), class_names)


class _Clips(NamedTuple):
    """What stands in clips.csv, in columns."""

    lines: np.ndarray  # numbers of the lines, int64 (clips,)
    paths: Strings
    codes: np.ndarray  # numbers into `labels`, int64 (clips,)
    labels: tuple[str, ...]  # the different ones
    recorded: np.ndarray  # numbers into `circumstances`, int64 (clips,)
    circumstances: tuple[tuple[int, str], ...]  # the different pairs of a subject and a scene


def _read(csv: Path) -> _Clips:
    problems: list[str] = []
    lines, codes, recorded = array("q"), array("q"), array("q")
    labels: dict[str, int] = {}
    circumstances: dict[tuple[str, str], int] = {}

    def paths() -> Iterator[str]:
        for number, (path, label, subject, scene) in read_table(csv, COLUMNS, problems):
            if not subject.isdecimal():
                problems.append(f"line {number}: subject {subject!r}, expected a whole number")
                continue
            lines.append(number)
            codes.append(labels.setdefault(label, len(labels)))
            recorded.append(circumstances.setdefault((subject, scene), len(circumstances)))
            yield path

    found = Strings(paths())
    if problems:
        raise join_problems(str(csv), problems, "mend these lines")
    if not found:
        raise DataError(f"{csv} has a header but no clips: expected one line '{','.join(COLUMNS)}' per clip")
    pairs = tuple((int(subject), scene) for subject, scene in circumstances)
    return _Clips(np.asarray(lines), found, np.asarray(codes), tuple(labels), np.asarray(recorded), pairs)


def _on_disk(root: Path, paths: Iterable[str]) -> Iterator[str]:
    """Where each clip is; empty if it is nowhere."""
    folders: dict[str, ClipFolder] = {}
    for path in paths:
        parent, slash, name = path.rstrip("/").rpartition("/")
        beginning = parent + slash
        if beginning not in folders:
            folders[beginning] = ClipFolder(root / beginning)
        clips = folders[beginning]
        clip = clips.find(name)
        yield f"{clips.folder}/{clip}" if clip else ""


def _refuse_repeated(csv: Path, clips: _Clips, found: Strings) -> None:
    """Raise DataError for clips that are listed twice, be it under another name or in another spelling."""
    real = functools.cache(os.path.realpath)
    places = (clip.rpartition("/") for clip in found)
    # What is nowhere is known by its path.
    whole = Strings(
        f"{real(folder)}/{name}" if name else path for (folder, _, name), path in zip(places, clips.paths, strict=True)
    )
    problems = [
        f"line {clips.lines[row]}: {clips.paths[row]} stands in line {clips.lines[earlier]} already"
        + ("" if clips.paths[row] == clips.paths[earlier] else f", as {clips.paths[earlier]}")
        for row, earlier in repeats(whole, hashes(whole))
    ]
    if problems:
        raise join_problems(str(csv), problems, "remove one of each two lines")


def _classes(csv: Path, labels: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the classes, and the number of each of the labels."""
    listed = read_class_names(csv.parent)
    names = listed or tuple(sorted(labels, key=lambda label: (label.isdecimal() and int(label), label)))
    numbers = {name: number for number, name in enumerate(names)}
    if listed:
        numbers = {str(number): number for number in range(len(names))} | numbers
    if unknown := sorted(set(labels) - set(numbers)):
        raise join_problems(f"{csv}: labels that are no class of classes.txt", unknown, "mend them, or classes.txt")
    return names, np.array([numbers[label] for label in labels])


def _split(cfg: CfgNode, subject: int, scene: str) -> str:
    """The split of a clip, or "" if it is in none."""
    tested = subject in cfg.DATA.TEST_SUBJECTS
    scenes = {name.strip() for name in cfg.DATA.TEST_SCENES.split(",")}
    if cfg.DATA.PROTOCOL == "cross_scene_subject" and tested != (scene in scenes):
        return ""
    if tested:
        return "test"
    return "val" if subject in cfg.DATA.VAL_SUBJECTS else "train"
