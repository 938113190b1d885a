"""MuWiGes, 12 gestures of 50 subjects: clips.csv, split by subject and scene (datasets/muwiges/README.md)."""

import functools
import itertools
import logging
import os
from collections import Counter
from collections.abc import Hashable, Iterator

import numpy as np
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
    clips, problems, split_of = lists.ClipList.empty(csv), [], []
    groups: dict[tuple[str, str], str] = {}  # the split of the clips of each subject and scene
    for number, (path, label, subject, scene) in lists.read_table(csv, COLUMNS, problems):
        own = groups.get((subject, scene))
        if own is None:
            if not subject.isdecimal():
                problems.append(f"line {number}: subject {subject!r}, expected a whole number")
                continue
            own = groups[subject, scene] = _find_split(cfg, int(subject), scene)
        clips.add(number, path, label)
        split_of.append(own)
    by_value = sorted(set(clips.labels), key=lambda label: (label.isdecimal() and int(label), label))
    class_names = lists.read_class_names(csv.parent) or tuple(by_value)
    labels = lists.number_labels(csv, clips.labels, class_names)

    counts = Counter(split_of)
    if not counts[split]:
        options = ", ".join(f"DATA.{key} {cfg.DATA[key]!r}" for key in ("TEST_SUBJECTS", "VAL_SUBJECTS", "TEST_SCENES"))
        subjects, scenes = {int(subject) for subject, _ in groups}, {scene for _, scene in groups}
        raise MissingSplitError(
            f"{csv}: no clips for the {split} split by DATA.PROTOCOL {cfg.DATA.PROTOCOL} and {options}; it has the "
            f"subjects {shorten(map(str, sorted(subjects)), limit=50)} and scenes {shorten(sorted(scenes))}"
        )
    parts = ", ".join(f"{name} {counts[name]}" for name in SPLITS)
    logger.info("%s, %s: %s, left out %d clips", csv, cfg.DATA.PROTOCOL, parts, counts[""])

    source = lists.clip_source(cfg)
    names_of = {own: [*itertools.compress(clips.names, map(own.__eq__, split_of))] for own in counts}
    located = {own: source.locate(names, own) for own, names in names_of.items()}

    def files() -> Iterator[Hashable]:
        """What identifies the file of each clip: its number in shards, else its path without links to folders."""
        real_folder = functools.cache(lambda folder: os.path.realpath(os.path.join(source.source, folder)))
        keys = {own: iter(found.keys) for own, found in located.items()}
        for name, own in zip(clips.names, split_of, strict=True):
            key = next(keys[own])
            if isinstance(key, int):
                yield key
            else:
                path = key or name
                start = path.rfind("/") + 1
                yield real_folder(path[:start]), path[start:]

    if repeats := lists.find_repeats(clips, files):
        raise join_problems(str(csv), repeats, "remove one of each two lines")
    is_mine = [own == split for own in split_of]
    rows = np.flatnonzero(is_mine)
    mine = lists.ListedClips(
        names_of[split],
        np.fromiter(map(labels.__getitem__, itertools.compress(clips.labels, is_mine)), np.int64),
        located[split],
        lambda row: f"line {clips.lines[rows[row]]}: {source.source}/{clips.names[rows[row]]}",
    )
    remedy = "copy them there, or set DATA.PATH_PREFIX to the folder that the paths start from"
    return lists.build_split(cfg, split, csv, mine, class_names, remedy)


def _find_split(cfg: CfgNode, subject: int, scene: str) -> str:
    """The split of a clip, or "" if it is in none."""
    is_test_subject = subject in cfg.DATA.TEST_SUBJECTS
    test_scenes = {name.strip() for name in cfg.DATA.TEST_SCENES.split(",")}
    if cfg.DATA.PROTOCOL == "cross_scene_subject" and is_test_subject != (scene in test_scenes):
        return ""
    if is_test_subject:
        return "test"
    return "val" if subject in cfg.DATA.VAL_SUBJECTS else "train"
