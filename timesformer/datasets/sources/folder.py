"""Datasets of one folder per class, split by files, by folders or at random (`folder`, `hmdb_simp`)."""

import filecmp
import logging
import re
from collections.abc import Hashable
from hashlib import sha256
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.config.defaults import get_cfg
from timesformer.datasets.decoding.open import VideoError, frame_files
from timesformer.datasets.groups import check_classes, find_groups
from timesformer.datasets.manifest import find_manifest
from timesformer.datasets.records import SPLITS, DataError, DatasetSplit, MissingSplitError, Records, join_problems
from timesformer.datasets.sources import lists
from timesformer.datasets.sources.clip_files import KINDS, list_clips
from timesformer.datasets.sources.kinetics import kinetics
from timesformer.runtime.subcommands import suggest_command

logger = logging.getLogger(__name__)

CSV_HEADER = ["class", "video_name"]
# Lists of paths and labels have no header that begins like this.
_CLASS_FIRST = re.compile(r'"?class"?\s*[,;|\t]', re.IGNORECASE)


def folder(cfg: CfgNode, split: str) -> DatasetSplit:
    """Clips of `split` in DATA.PATH_TO_DATA_DIR/<class>, by DATA.SPLIT_RULE; split files may be in DATA.SPLITS_DIR.

    Classes are those of all splits, sorted. For folds (`datasets/folds.py`), the splits are those on disk; without any,
    all clips are in "train". Raises DataError.
    """
    rule = cfg.DATA.SPLIT_RULE
    if rule == "folds":
        rule = _split_on_disk(cfg) or "none"
    if rule == "auto":
        rule, default = _split_on_disk(cfg), get_cfg().DATA
        given = [key for key in ("SPLIT_SEED", "SPLIT_GROUPS", "TEST_FRACTION") if cfg.DATA[key] != default[key]]
        if rule and given:
            raise DataError(
                f"DATA.{given[0]} is set, which is for random splits, but {lists.splits_folder(cfg)} has a split by "
                f"{rule}: set DATA.SPLIT_RULE random, or DATA.SPLIT_RULE {rule} without DATA.{given[0]}"
            )
    if rule == "files":
        return _from_files(cfg, split, "set DATA.SPLIT_RULE random")
    if rule == "folders":
        return _from_folders(cfg, split)
    return _unsplit(cfg, split) if rule == "none" else _at_random(cfg, split)


def hmdb_simp(cfg: CfgNode, split: str) -> DatasetSplit:
    """HMDB_simp, 25 classes of HMDB51: a folder of classes whose split is on disk, in files or else in folders."""
    rule, options = _split_on_disk(cfg), ["hmdb_simp", cfg.DATA.PATH_TO_DATA_DIR]
    if cfg.DATA.SPLITS_DIR:
        options += ["--output", cfg.DATA.SPLITS_DIR]
    if not rule and cfg.DATA.SPLIT_RULE == "folds":
        return _unsplit(cfg, split)
    if not rule:
        raise DataError(
            f"{lists.splits_folder(cfg)} has neither train.csv, val.csv and test.csv nor folders train, val and test: "
            f"make a split with\n  {suggest_command('prepare', *options)}\n"
            "or set TRAIN.DATASET folder and TEST.DATASET folder to split the clips at random"
        )
    if rule == "folders":
        return _from_folders(cfg, split)
    return _from_files(cfg, split, f"split again: {suggest_command('prepare', *options, '--force')}")


def _split_on_disk(cfg: CfgNode) -> str:
    """The rule, "files" or "folders", of the split on disk; empty if there is none."""
    if any((lists.splits_folder(cfg) / f"{name}.csv").is_file() for name in SPLITS):
        return "files"
    return "folders" if any((Path(cfg.DATA.PATH_TO_DATA_DIR) / name).is_dir() for name in SPLITS) else ""


def _from_files(cfg: CfgNode, split: str, split_again: str) -> DatasetSplit:
    """Clips of files with the columns class and video_name, or of lists of paths and labels.

    `split_again` is a remedy for lists of clips that are not on disk.
    """
    files = lists.split_files(lists.splits_folder(cfg))
    _require(split, files, lists.splits_folder(cfg) / f"{split}.csv")
    if not _CLASS_FIRST.match(lists.first_line(files[split])):
        return kinetics(cfg, split)
    source = lists.clip_source(cfg, lists.data_folder(cfg))
    splits = {name: _read(path) for name, path in files.items()}
    class_names = tuple(sorted(set().union(*(clips.labels for clips in splits.values()))))
    located = {name: source.locate(clips.names, name) for name, clips in splits.items()}
    if lists.has_repeats(key for found in located.values() for key in found.keys if key is not None):
        first: dict[Hashable, str] = {}
        repeated = []
        for name, clips in splits.items():
            for line, clip, key in zip(clips.lines, clips.names, located[name].keys, strict=True):
                where = f"{name}.csv line {line}"
                if key is not None and (earlier := first.setdefault(key, where)) != where:
                    repeated.append(f"{clip}: {earlier} and {where}")
        if repeated:
            raise join_problems(f"{files[split].parent}: clips listed twice", repeated, "remove one of each two lines")

    root, mine, numbers = source.source, splits[split], {name: label for label, name in enumerate(class_names)}
    remedy = f"copy them there, set DATA.PATH_TO_DATA_DIR to the folder of class folders (now {root}), or {split_again}"
    clips = lists.ListedClips(
        mine.names,
        np.fromiter(map(numbers.__getitem__, mine.labels), np.int64),
        located[split],
        lambda row: f"line {mine.lines[row]}: {root}/{mine.names[row]}",
    )
    return lists.build_split(cfg, split, mine.path, clips, class_names, remedy)


def _read(path: Path) -> lists.ClipList:
    clips = lists.ClipList.empty(path)
    for number, (label, video) in lists.read_table(path, CSV_HEADER, []):
        clips.add(number, f"{label}/{video}", label)
    return clips


def _from_folders(cfg: CfgNode, split: str) -> DatasetSplit:
    """Clips in DATA.PATH_TO_DATA_DIR/<split>/<class>."""
    root = lists.data_folder(cfg)
    folders = {name: root / name for name in SPLITS if (root / name).is_dir()}
    _require(split, folders, root / split)
    manifest = find_manifest(cfg)
    clips = {name: list_clips(path, manifest and manifest.is_unchanged) for name, path in folders.items()}
    class_names = tuple(sorted(set().union(*clips.values())))
    if not class_names:
        raise DataError(f"{folders[split]} has no class folders: expected {folders[split]}/<class>/<video>")
    mine = {label: clips[split].get(label, []) for label in class_names}
    required = class_names if split == "train" else clips[split]
    _refuse_empty([str(folders[split] / label) for label in required if not mine[label]])
    # The same name may be two clips (numbered from 1 in each split), so contents are compared.
    pairs = [
        (folders[split] / label / clip, folders[other] / label / clip)
        for other in folders
        if other != split
        for label in class_names
        for clip in sorted(set(mine[label]).intersection(clips[other].get(label, [])))
    ]
    if shared := [f"{first} and {second}" for first, second in pairs if _same_content(first, second)]:
        raise join_problems("the same clip in two splits", shared, "remove one of each pair")
    names = (f"{label}/{clip}" for label in class_names for clip in mine[label])
    labels = np.repeat(np.arange(len(mine)), [len(members) for members in mine.values()])
    return DatasetSplit(Records(names, labels, folder=str(folders[split])), class_names)


def _require(split: str, present: dict[str, Path], absent: Path) -> None:
    if split not in present:
        others = f", though {' and '.join(path.name for path in present.values())} is there" if present else ""
        raise MissingSplitError(f"{absent} not found{others}: add it, or set DATA.SPLIT_RULE to another rule")


def _refuse_empty(folders: list[str]) -> None:
    if folders:
        raise join_problems("classes without clips", folders, f"add clips ({KINDS}), or remove the class")


def _same_content(first: Path, second: Path) -> bool:
    if first.is_dir() and second.is_dir():
        try:
            mine, theirs = frame_files(first), frame_files(second)
        except VideoError:  # reported when the folder is read
            return False
        return len(mine) == len(theirs) > 0 and filecmp.cmp(mine[0], theirs[0], shallow=False)
    return first.is_file() and second.is_file() and filecmp.cmp(first, second, shallow=False)


def _unsplit(cfg: CfgNode, split: str) -> DatasetSplit:
    """All clips in class folders, as "train"."""
    if split != "train":
        raise MissingSplitError(f"{lists.data_folder(cfg)} has no {split} split")
    class_names, labels, names, root = _all_clips(cfg)
    return DatasetSplit(Records(names, labels, folder=str(root)), class_names)


def _all_clips(cfg: CfgNode) -> tuple[tuple[str, ...], np.ndarray, list[str], Path]:
    """Classes; label and name `<class>/<clip>` of each clip; the folder of the class folders."""
    root = lists.data_folder(cfg)
    manifest = find_manifest(cfg)
    clips = list_clips(root, manifest and manifest.is_unchanged)
    if not clips:
        raise DataError(f"{root} has no class folders: expected {root}/<class>/<clip>")
    _refuse_empty([str(root / label) for label, members in clips.items() if not members])
    names = [f"{label}/{clip}" for label, members in clips.items() for clip in members]
    return tuple(clips), np.repeat(np.arange(len(clips)), [*map(len, clips.values())]), names, root


def _at_random(cfg: CfgNode, split: str) -> DatasetSplit:
    """DATA.TEST_FRACTION of each class for test, DATA.VAL_FRACTION of the rest for validation, the others for training.

    Clips are ordered by a hash of DATA.SPLIT_SEED and their group: what DATA.SPLIT_GROUPS finds in `<class>/<stem>`,
    else that itself. So the split does not depend on the machine or the encoding of clips, and an added clip moves at
    most two others. If groups have clips of several classes, the fractions are those of all clips.
    """
    class_names, labels, names, root = _all_clips(cfg)
    group_of, groups = find_groups(cfg, names, (f"{root}/{name}" for name in names))
    groups_of_class = [np.unique(part) for part in np.split(group_of, np.cumsum(np.bincount(labels))[:-1])]
    pools = list(class_names)
    if sum(map(len, groups_of_class)) > len(groups):
        groups_of_class, pools = [np.arange(len(groups))], [str(root)]
    kind = "groups" if cfg.DATA.SPLIT_GROUPS else "clips"
    if small := [f"{pool} ({len(of)})" for pool, of in zip(pools, groups_of_class, strict=True) if len(of) < 3]:
        raise join_problems(f"{root}: classes with fewer than 3 {kind}", small, f"add {kind}, or remove these classes")
    keys, sizes = _hashes(groups, cfg.DATA.SPLIT_SEED), np.bincount(group_of)
    split_of = np.empty(len(groups), np.int8)
    test, val = cfg.DATA.TEST_FRACTION, (1 - cfg.DATA.TEST_FRACTION) * cfg.DATA.VAL_FRACTION
    for members in groups_of_class:
        order = members[np.argsort(keys[members], kind="stable")]
        split_of[order] = _assign_splits(sizes[order], test, val)
    chosen = np.flatnonzero(split_of[group_of] == SPLITS.index(split))
    check_classes(str(root), split, class_names, labels[chosen])
    logger.info("%s: %d of %d clips for %s, at random", root, len(chosen), len(names), split)
    return DatasetSplit(Records((names[row] for row in chosen), labels[chosen], folder=str(root)), class_names)


def _hashes(groups: list[str], seed: int) -> np.ndarray:
    """A number for each group, which depends on nothing else than the seed."""
    digests = (sha256(f"{seed}/{group}".encode("utf-8", "surrogateescape")).digest() for group in groups)
    return np.frombuffer(b"".join(digest[:8] for digest in digests), ">u8")


def _assign_splits(sizes: np.ndarray, test: float, val: float) -> np.ndarray:
    """Indices into SPLITS of groups of `sizes` clips: the first for test, the next for val; at least one in each."""
    middles, total = np.cumsum(sizes) - sizes / 2, sizes.sum()
    num_test = int(np.clip(np.sum(middles <= test * total), 1, len(sizes) - 2))
    num_held_out = int(np.clip(np.sum(middles <= (test + val) * total), num_test + 1, len(sizes) - 1))
    indices = [SPLITS.index(name) for name in ("test", "val", "train")]
    return np.repeat(indices, [num_test, num_held_out - num_test, len(sizes) - num_held_out])
