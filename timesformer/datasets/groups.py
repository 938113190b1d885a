"""Clips that must stay in one split or fold (DATA.SPLIT_GROUPS): by a regular expression, or by a CSV file."""

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.datasets.records import DataError, join_problems
from timesformer.datasets.sources import lists
from timesformer.datasets.sources.clip_files import stem
from timesformer.errors import shorten
from timesformer.paths import local_path

logger = logging.getLogger(__name__)

COLUMNS = ("video", "group")
_OF_ONE_CLASS = {
    "val": ", so that its accuracy cannot select a learning rate, a head or an epoch: set another DATA.VAL_FRACTION "
    "or DATA.SPLIT_SEED",
    "test": ", so that its accuracy says nothing about telling classes apart: set another DATA.SPLIT_SEED",
}


def find_groups(cfg: CfgNode, names: Sequence[str], paths: Iterable[str]) -> tuple[np.ndarray, list[str]]:
    """The group of each clip by DATA.SPLIT_GROUPS. Extensions of video files do not matter.

    Without DATA.SPLIT_GROUPS, clips of one name (re-encoded, for instance) are a group. A regular expression is
    searched in the names; its capturing groups, or else the match, define the group. A CSV file has the columns `video`
    (name of the clip, its path from DATA.PATH_TO_DATA_DIR, or its absolute path) and `group`; each clip that is not in
    the file is a group of its own.

    Returns the numbers of the groups, int64 (clips,), and what defines each group, in order of appearance. Raises
    DataError for clips that the regular expression does not match, and for a file that lists none of the clips.
    """
    rule = cfg.DATA.SPLIT_GROUPS
    if rule.lower().endswith(".csv"):
        groups = _from_file(rule, lists.data_folder(cfg), names, paths)
    elif rule:
        groups = _by_pattern(rule, lists.data_folder(cfg), names)
    else:
        groups = map(stem, names)
    numbers: dict[str, int] = {}
    group_of = np.fromiter((numbers.setdefault(group, len(numbers)) for group in groups), np.int64)
    return group_of, list(numbers)


def _by_pattern(rule: str, root: Path, names: Sequence[str]) -> Iterator[str]:
    pattern, strays = re.compile(rule), []
    for name in names:
        if match := pattern.search(stem(name)):
            yield "/".join(map(str, match.groups())) or match.group()
        else:
            strays.append(name)
    if strays:
        remedy = "change the pattern to match every <class>/<name without extension>"
        raise join_problems(f"{root}: clips that DATA.SPLIT_GROUPS {rule!r} does not match", strays, remedy)


def _from_file(rule: str, root: Path, names: Sequence[str], paths: Iterable[str]) -> Iterator[str]:
    file = local_path(os.path.expanduser(rule))
    if not file.is_file():
        raise DataError(f"DATA.SPLIT_GROUPS is {rule!r}, which is not a file here: set it to the file of the groups")
    group_of: dict[str, str] = {}
    problems: list[str] = []
    for number, (video, group) in lists.read_table(file, COLUMNS, problems):
        if (first := group_of.setdefault(stem(video), group)) != group:
            problems.append(f"line {number}: {video} is in the groups {first} and {group}, expected one")
    unused = set(group_of)
    for name, path in zip(names, paths, strict=True):
        relative = os.path.relpath(path, root).replace(os.sep, "/")
        keys = (stem(text) for text in (name, relative, os.path.abspath(path)))
        key = next((key for key in keys if key in group_of), None)
        unused.discard(key)
        yield f"clip {relative}" if key is None else f"group {group_of[key]}"
    if len(unused) == len(group_of):
        expected = f"expected names of clips, such as {names[0]}"
        raise DataError(f"{file} has no clip of {root}: found {shorten(group_of)}, {expected}")
    if unused:
        logger.warning("%s: lines without a clip in %s: %s", file, root, shorten(sorted(unused)))


def check_classes(source: str, split: str, class_names: Sequence[str], labels: np.ndarray) -> None:
    """DataError for classes without clips in a drawn training split; for those of other splits, a warning.

    If all clips of a split are of one class, the warning names the consequence and the remedy.
    """
    present = np.bincount(labels, minlength=len(class_names))
    absent = [label for label, number in zip(class_names, present, strict=True) if not number]
    if absent and split == "train":
        remedy = "set another DATA.SPLIT_SEED or DATA.SPLIT_GROUPS"
        raise join_problems(f"{source}: classes without training clips", absent, remedy)
    if absent:
        consequence = _OF_ONE_CLASS[split] if np.count_nonzero(present) == 1 else ""
        logger.warning("%s: no clip of %s in the %s split%s", source, shorten(absent), split, consequence)
