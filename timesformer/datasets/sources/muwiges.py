"""MuWiGes, 12 gestures of 50 subjects: clips.csv, split by subject and scene (datasets/muwiges/README.md)."""

import functools
import logging
import os
from collections import Counter

from fvcore.common.config import CfgNode

from timesformer.datasets.records import SPLITS, DataError, DatasetSplit, MissingSplitError, join_problems
from timesformer.datasets.sources import lists
from timesformer.errors import shorten

logger = logging.getLogger(__name__)

COLUMNS = ("path", "label", "subject", "scene")


def muwiges(cfg: CfgNode, split: str) -> DatasetSplit:
    """Clips of `split` in clips.csv of DATA.SPLITS_DIR (else DATA.PATH_TO_DATA_DIR).

    Paths start at DATA.PATH_PREFIX, else at DATA.PATH_TO_DATA_DIR. Class names are the lines of `classes.txt`, else the
    labels, sorted. Raises DataError.
    """
    csv = lists.splits_folder(cfg) / "clips.csv"
    if not csv.is_file():
        raise DataError(f"{csv} not found: expected the columns {','.join(COLUMNS)}; set DATA.SPLITS_DIR to its folder")
    clips, problems, subjects, scenes = lists.ClipList(csv, [], [], []), [], [], []
    for number, (path, label, subject, scene) in lists.read_table(csv, COLUMNS, problems):
        if not subject.isdecimal():
            problems.append(f"line {number}: subject {subject!r}, expected a whole number")
            continue
        clips.lines.append(number)
        clips.names.append(path)
        clips.labels.append(label)
        subjects.append(int(subject))
        scenes.append(scene)
    by_value = sorted(set(clips.labels), key=lambda label: (label.isdecimal() and int(label), label))
    class_names = lists.read_class_names(csv.parent) or tuple(by_value)
    labels = lists.number_labels(csv, clips.labels, class_names)

    split_of = [_split_of(cfg, subject, scene) for subject, scene in zip(subjects, scenes, strict=True)]
    counts = Counter(split_of)
    if not counts[split]:
        options = ", ".join(f"DATA.{key} {cfg.DATA[key]!r}" for key in ("TEST_SUBJECTS", "VAL_SUBJECTS", "TEST_SCENES"))
        raise MissingSplitError(
            f"{csv}: no clips for the {split} split by DATA.PROTOCOL {cfg.DATA.PROTOCOL} and {options}; it has the "
            f"subjects {shorten(map(str, sorted(set(subjects))), limit=50)} and scenes {shorten(sorted(set(scenes)))}"
        )
    parts = ", ".join(f"{name} {counts[name]}" for name in SPLITS)
    logger.info("%s, %s: %s, left out %d clips", csv, cfg.DATA.PROTOCOL, parts, counts[""])

    root, find = lists.clip_finder(cfg)
    found = [find(path, own) for path, own in zip(clips.names, split_of, strict=True)]
    real_folder = functools.cache(os.path.realpath)
    files = (os.path.split(path or os.path.join(root, name)) for path, name in zip(found, clips.names, strict=True))
    if repeats := lists.find_repeats(clips, (os.path.join(real_folder(parent), name) for parent, name in files)):
        raise join_problems(str(csv), repeats, "remove one of each two lines")
    mine = [
        lists.FoundClip(name, labels[label], path, f"line {line}: {root}/{name}")
        for line, name, label, path, own in zip(*clips[1:], found, split_of, strict=True)
        if own == split
    ]
    remedy = "copy them there, or set DATA.PATH_PREFIX to the folder that the paths start from"
    return lists.build_split(cfg, split, csv, mine, class_names, remedy)


def _split_of(cfg: CfgNode, subject: int, scene: str) -> str:
    """The split of a clip, or "" if it is in none."""
    is_test_subject = subject in cfg.DATA.TEST_SUBJECTS
    test_scenes = {name.strip() for name in cfg.DATA.TEST_SCENES.split(",")}
    if cfg.DATA.PROTOCOL == "cross_scene_subject" and is_test_subject != (scene in test_scenes):
        return ""
    if is_test_subject:
        return "test"
    return "val" if subject in cfg.DATA.VAL_SUBJECTS else "train"
