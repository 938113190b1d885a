"""Datasets of one folder per class, root/<class>/<clip>, split by files, by folders or at random.

A clip is a video file or a folder of frames. Classes are found from the data, in sorted order. DATA.SPLIT_RULE:

    files    train.csv, val.csv, test.csv with the header `class,video_name`, or of lines `path<separator>label` (see
             kinetics.py)
    folders  root/{train,val,test}/<class>/<clip>
    random   shares of every class, drawn anew from the clips' names whenever the dataset is opened
    auto     files where there are any, else folders where there are any, else random
"""

import filecmp
import logging
import re
from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.datasets import kinetics
from timesformer.datasets.clip_files import VIDEO_EXTENSIONS, ClipFolder, list_classes, list_clips, stem
from timesformer.datasets.reader import frame_files
from timesformer.datasets.records import SPLITS, DataError, DatasetSplit, Records, join_problems
from timesformer.datasets.split_files import (
    check_training,
    first_line,
    leave_out,
    read_table,
    split_cells,
    splits_folder,
)
from timesformer.errors import shorten

logger = logging.getLogger(__name__)

CSV_HEADER = ["class", "video_name"]

_KINDS = f"folders of frames, or {' '.join(sorted(VIDEO_EXTENSIONS))} files"


def find_records(cfg: CfgNode, split: str) -> DatasetSplit:
    """Find the clips of `split` in DATA.PATH_TO_DATA_DIR by DATA.SPLIT_RULE; split files in DATA.SPLITS_DIR if given.

    Classes are the union over the three splits. Raises DataError for a missing folder or split, a bad line, a clip that
    is not there (see DATA.MAX_MISSING), an empty class, and a clip in two splits.
    """
    root, rule = Path(cfg.DATA.PATH_TO_DATA_DIR), cfg.DATA.SPLIT_RULE
    if rule == "auto":
        rule = split_on_disk(cfg) or "random"
    if rule == "files":
        return from_files(cfg, split)
    if not root.is_dir():
        raise DataError(f"DATA.PATH_TO_DATA_DIR is {root}, which is not a folder here: set it to the folder of clips")
    return from_folders(root, split) if rule == "folders" else _at_random(cfg, root, split)


def split_on_disk(cfg: CfgNode) -> str:
    """The rule, "files" or "folders", of the split that is there; empty if there is none."""
    folder, root = splits_folder(cfg), Path(cfg.DATA.PATH_TO_DATA_DIR)
    if any((folder / f"{name}.csv").is_file() for name in SPLITS):
        return "files"
    return "folders" if any((root / name).is_dir() for name in SPLITS) else ""


def from_files(cfg: CfgNode, split: str) -> DatasetSplit:
    """Clips that `<split>.csv` lists. Raises DataError."""
    folder, root = splits_folder(cfg), Path(cfg.DATA.PATH_TO_DATA_DIR)
    lists = {name: folder / f"{name}.csv" for name in SPLITS if (folder / f"{name}.csv").is_file()}
    _require(split, lists, folder / f"{split}.csv")
    if split_cells(first_line(lists[split])) != CSV_HEADER:
        return kinetics.find_records(cfg, split)
    if not root.is_dir():
        raise DataError(f"DATA.PATH_TO_DATA_DIR is {root}, which is not a folder here: set it to the folder of clips")
    rows = [(name, number, *row) for name, path in lists.items() for number, row in _read_rows(path)]
    class_names = tuple(sorted({label for _, _, label, _ in rows}))
    index = {label: number for number, label in enumerate(class_names)}
    clips = {label: ClipFolder(root / label) for label in class_names}
    names, labels, paths = [], [], []
    places: dict[Path, str] = {}
    missing, repeated = [], []
    for name, number, label, video in rows:
        place = f"{lists[name].name} line {number}"
        path = clips[label].find(video)
        if path is None:
            if name == split:
                missing.append(f"{place}: {root / label / video}")
            continue
        if path in places:
            repeated.append(f"{label}/{video}: {places[path]} and {place}")
        places[path] = place
        if name == split:
            names.append(f"{label}/{video}")
            labels.append(index[label])
            paths.append(str(path))
    if repeated:
        raise join_problems(f"{folder}: clips listed twice", repeated, "remove one of each two lines")
    remedy = (
        f"copy these clips there, set DATA.PATH_TO_DATA_DIR to the folder of class folders (now {root}), or make new "
        f"splits with `python datasets/hmdb_simp/prepare.py {root} --force`"
    )
    leave_out(cfg, lists[split], missing, len(missing) + len(names), remedy)
    if "train" in lists:
        check_training(lists["train"], class_names, {index[label] for name, _, label, _ in rows if name == "train"})
    return DatasetSplit(Records(names, labels, paths), class_names)


def from_folders(root: Path, split: str) -> DatasetSplit:
    """Clips in root/<split>/<class>. Raises DataError."""
    folders = {name: root / name for name in SPLITS if (root / name).is_dir()}
    _require(split, folders, root / split)
    clips = {name: {path.name: list_clips(path) for path in list_classes(folder)} for name, folder in folders.items()}
    class_names = tuple(sorted(set().union(*clips.values())))
    if not class_names:
        raise DataError(f"{folders[split]} holds no class folders: expected {folders[split]}/<class>/<video>")
    empty = [str(folders[name] / label) for name in clips for label, paths in clips[name].items() if not paths]
    if "train" in folders:
        empty += [str(folders["train"] / label) for label in class_names if label not in clips["train"]]
    if empty:
        remedy = f"put clips there ({_KINDS}), or remove the class from all splits"
        raise join_problems("classes without clips", empty, remedy)

    # The same name may be two clips (numbered anew in each split), so a clip is known again by its content.
    shared = [
        f"{mine} and {theirs}"
        for label, paths in clips[split].items()
        for other in clips
        if other != split
        for mine, theirs in ((path, folders[other] / label / path.name) for path in paths)
        if theirs.exists() and _same_content(mine, theirs)
    ]
    if shared:
        raise join_problems("the same clip in two splits", shared, "remove one of each pair")
    return _of_classes(folders[split], {label: clips[split].get(label, []) for label in class_names})


def _at_random(cfg: CfgNode, root: Path, split: str) -> DatasetSplit:
    """Shares of every class: DATA.TEST_SHARE of its clips, then DATA.VAL_SHARE of the rest, the others to train on.

    Clips stand in an order that depends on their names without extension and DATA.SPLIT_SEED alone, and the first ones
    are taken. So the same clips are split alike anywhere, re-encoded or not, and one that is added moves two others at
    most. Clips of a group (DATA.SPLIT_GROUPS) stay together; where a group has clips of several classes, the shares are
    those of all clips.
    """
    clips = {path.name: list_clips(path) for path in list_classes(root)}
    if not clips:
        raise DataError(f"{root} holds no class folders: expected {root}/<class>/<clip>")
    if empty := [str(root / label) for label, paths in clips.items() if not paths]:
        raise join_problems("classes without clips", empty, f"put clips there ({_KINDS}), or remove these folders")
    group_of = _groups(cfg.DATA.SPLIT_GROUPS, [path for paths in clips.values() for path in paths])
    sizes = Counter(group_of.values())
    by_class = {label: {group_of[path] for path in paths} for label, paths in clips.items()}
    if sum(map(len, by_class.values())) > len(sizes):
        by_class = {str(root): set(sizes)}
    test, val = cfg.DATA.TEST_SHARE, (1 - cfg.DATA.TEST_SHARE) * cfg.DATA.VAL_SHARE
    split_of: dict[str, str] = {}
    small = []
    for label, groups in by_class.items():
        keys = {group: f"{cfg.DATA.SPLIT_SEED}/{group}".encode("utf-8", "surrogateescape") for group in groups}
        order = sorted(groups, key=lambda group: sha256(keys[group]).digest())
        if len(order) < 3:
            small.append(f"{label} ({len(order)})")
        else:
            split_of |= dict(zip(order, _share_out([sizes[group] for group in order], test, val), strict=True))
    if small:
        kind = "groups" if cfg.DATA.SPLIT_GROUPS else "clips"
        raise join_problems(f"classes with fewer than 3 {kind}", small, f"add {kind}, or remove these classes")

    chosen = {label: [path for path in paths if split_of[group_of[path]] == split] for label, paths in clips.items()}
    if absent := [label for label, paths in chosen.items() if not paths]:
        if split == "train":
            remedy = "give another DATA.SPLIT_SEED, or other DATA.SPLIT_GROUPS"
            raise join_problems(f"{root}: classes without training clips", absent, remedy)
        logger.warning("%s: no clip of %s in the %s split", root, shorten(absent), split)
    number = sum(map(len, chosen.values()))
    logger.info("%s: %d of %d clips for %s, at random", root, number, len(group_of), split)
    return _of_classes(root, chosen)


def _groups(pattern: str, clips: list[Path]) -> dict[Path, str]:
    """The group of every clip: what DATA.SPLIT_GROUPS finds in `<class>/<name>`; without a pattern, each by itself."""
    names = {path: f"{path.parent.name}/{stem(path.name)}" for path in clips}
    if not pattern:
        return names
    found = {path: re.search(pattern, name) for path, name in names.items()}
    if strays := [name for path, name in names.items() if not found[path]]:
        remedy = "make the pattern find a group in every <class>/<name without extension>"
        raise join_problems(f"clips that DATA.SPLIT_GROUPS {pattern!r} finds nothing in", strays, remedy)
    return {path: "/".join(map(str, match.groups())) or match.group() for path, match in found.items()}


def _share_out(sizes: list[int], test: float, val: float) -> list[str]:
    """The splits of groups of so many clips: the first for test, the next for val, at least one of each."""
    middles, total = np.cumsum(sizes) - np.array(sizes) / 2, sum(sizes)
    tested = int(np.clip(np.sum(middles <= test * total), 1, len(sizes) - 2))
    seen = int(np.clip(np.sum(middles <= (test + val) * total), tested + 1, len(sizes) - 1))
    return ["test"] * tested + ["val"] * (seen - tested) + ["train"] * (len(sizes) - seen)


def _of_classes(root: Path, clips: dict[str, list[Path]]) -> DatasetSplit:
    """Split of the clips root/<class>/<clip>, listed by class in the order of labels."""
    names = [f"{label}/{path.name}" for label, paths in clips.items() for path in paths]
    labels = np.repeat(np.arange(len(clips)), [len(paths) for paths in clips.values()])
    return DatasetSplit(Records(names, labels, folder=str(root)), tuple(clips))


def _require(split: str, present: dict[str, Path], absent: Path) -> None:
    if not present:
        what = "split files" if absent.suffix else "split folders"
        raise DataError(f"no {what} found: {absent} is not there; add it, or set DATA.SPLIT_RULE to another rule")
    if split not in present:
        others = " and ".join(path.name for path in present.values())
        raise DataError(f"{absent} not found, though {others} is there: add it, or split the clips anew")


def _same_content(first: Path, second: Path) -> bool:
    if first.is_file() and second.is_file():
        return filecmp.cmp(first, second, shallow=False)
    if first.is_dir() and second.is_dir():
        mine, theirs = frame_files(first), frame_files(second)
        return len(mine) == len(theirs) > 0 and filecmp.cmp(mine[0], theirs[0], shallow=False)
    return False


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Rows (class, video_name) of a split file, each with its line number."""
    problems: list[str] = []
    rows = list(read_table(path, CSV_HEADER, problems))
    if problems:
        raise join_problems(str(path), problems, "mend these lines")
    if not rows:
        raise DataError(f"{path} has a header but no clips: expected one line `class,video_name` per clip")
    return rows
