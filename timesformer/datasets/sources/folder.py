"""Datasets of one folder per class, root/<class>/<clip>, split by files, by folders or at random.

A clip is a video file or a folder of frames; subfolders of a class, such as one for each person, do not matter. Classes
are found from the data, in sorted order. DATA.SPLIT_RULE:

    files    train.csv, val.csv, test.csv with the header `class,video_name`, or of lines `path<separator>label` (see
             kinetics.py)
    folders  root/{train,val,test}/<class>/<clip>
    random   shares of every class, drawn anew from the clips' names whenever the dataset is opened
    auto     files where there are any, else folders where there are any, else random
"""

import filecmp
import logging
import re
import shlex
from array import array
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.config.defaults import get_cfg
from timesformer.datasets.decoding.open import VideoError, frame_files
from timesformer.datasets.records import SPLITS, DataError, DatasetSplit, Records, Strings, join_problems
from timesformer.datasets.sources.clip_files import (
    KINDS,
    ClipFolder,
    clip_names,
    list_classes,
    report_nested,
    report_skipped,
    report_strays,
    stem,
)
from timesformer.datasets.sources.kinetics import kinetics
from timesformer.datasets.sources.lists import (
    check_training,
    first_line,
    leave_out,
    read_table,
    splits_folder,
)
from timesformer.errors import shorten

logger = logging.getLogger(__name__)

CSV_HEADER = ["class", "video_name"]
# A list of paths and labels has no such header; one with other columns or separators is a mistake.
_CLASS_FIRST = re.compile(r'"?class"?\s*[,;|\t]', re.IGNORECASE)


def folder(cfg: CfgNode, split: str) -> DatasetSplit:
    """Find the clips of `split` in DATA.PATH_TO_DATA_DIR by DATA.SPLIT_RULE; split files in DATA.SPLITS_DIR if given.

    Classes are the union over the three splits. Raises DataError for a missing folder or split, a bad line, a clip that
    is not there (see DATA.MAX_MISSING_FRACTION), an empty class, and a clip in two splits.
    """
    root, rule = Path(cfg.DATA.PATH_TO_DATA_DIR), cfg.DATA.SPLIT_RULE
    if rule == "auto":
        rule = split_on_disk(cfg) or "random"
        _refuse_unread(cfg, rule)
    if rule == "files":
        return from_files(cfg, split)
    if not root.is_dir():
        raise DataError(f"DATA.PATH_TO_DATA_DIR is {root}, which is not a folder here: set it to the folder of clips")
    return from_folders(root, split) if rule == "folders" else _at_random(cfg, root, split)


def hmdb_simp(cfg: CfgNode, split: str) -> DatasetSplit:
    """HMDB_simp, 25 classes of HMDB51: a folder of classes whose split is on disk, in files or else in folders."""
    rule = split_on_disk(cfg)
    if not rule:
        raise DataError(
            f"no split found: {splits_folder(cfg)} has neither train.csv, val.csv and test.csv nor folders train, val "
            f"and test. Make one with\n  {making(cfg)}"
        )
    return from_files(cfg, split) if rule == "files" else from_folders(Path(cfg.DATA.PATH_TO_DATA_DIR), split)


def _refuse_unread(cfg: CfgNode, rule: str) -> None:
    """Raise DataError where a random split is configured, and another one was found on disk."""
    default = get_cfg().DATA
    given = [key for key in ("SPLIT_SEED", "SPLIT_GROUPS", "TEST_FRACTION") if cfg.DATA[key] != default[key]]
    if rule != "random" and given:
        raise DataError(
            f"DATA.{given[0]} is {cfg.DATA[given[0]]!r}, which is for a split at random, but {splits_folder(cfg)} has "
            f"a split by {rule} (such as train{'.csv' if rule == 'files' else ''}): set DATA.SPLIT_RULE random, or "
            f"DATA.SPLIT_RULE {rule} and remove DATA.{given[0]}"
        )


def split_on_disk(cfg: CfgNode) -> str:
    """The rule, "files" or "folders", of the split that is there; empty if there is none."""
    folder, root = splits_folder(cfg), Path(cfg.DATA.PATH_TO_DATA_DIR)
    if any((folder / f"{name}.csv").is_file() for name in SPLITS):
        return "files"
    return "folders" if any((root / name).is_dir() for name in SPLITS) else ""


def from_files(cfg: CfgNode, split: str) -> DatasetSplit:
    """Clips that `<split>.csv` lists. Raises DataError."""
    folder, root = splits_folder(cfg), Path(cfg.DATA.PATH_TO_DATA_DIR)
    files = {name: folder / f"{name}.csv" for name in SPLITS if (folder / f"{name}.csv").is_file()}
    _require(split, files, folder / f"{split}.csv")
    if not _CLASS_FIRST.match(first_line(files[split])):
        return kinetics(cfg, split)
    if not root.is_dir():
        raise DataError(f"DATA.PATH_TO_DATA_DIR is {root}, which is not a folder here: set it to the folder of clips")
    codes: dict[str, int] = {}
    lists = {name: _read(csv, codes) for name, csv in files.items()}
    class_names = tuple(sorted(codes))
    rows = {name: listed.by_class(len(codes)) for name, listed in lists.items()}
    found = [""] * len(lists[split].videos)  # what the clips are called on disk
    repeated = []

    def place(name: str, row: int) -> str:
        return f"{name}.csv line {lists[name].lines[row]}"

    for label in class_names:  # a class at a time: of a million clips there is no object each for anything but the name
        clips = ClipFolder(root / label)
        places: dict[str, tuple[str, int]] = {}
        for name, listed in lists.items():
            own = rows[name][codes[label]]
            for row, video in zip(own.tolist(), listed.videos.at(own), strict=True):
                clip = clips.find(video)
                if clip is None:
                    continue
                if clip in places:
                    repeated.append(f"{label}/{video}: {place(*places[clip])} and {place(name, row)}")
                places[clip] = name, row
                if name == split:
                    found[row] = clip
    if repeated:
        raise join_problems(f"{folder}: clips listed twice", repeated, "remove one of each two lines")
    mine, texts = lists[split], tuple(codes)
    missing = [
        f"{place(split, row)}: {root / texts[mine.codes[row]] / mine.videos[row]}"
        for row, clip in enumerate(found)
        if not clip
    ]
    is_any_folder = (cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET) == "folder"
    instead = "set DATA.SPLIT_RULE random" if is_any_folder else f"make a new split with `{making(cfg)} --force`"
    remedy = (
        f"copy these clips there, set DATA.PATH_TO_DATA_DIR to the folder of class folders (now {root}), or {instead}"
    )
    leave_out(cfg, files[split], missing, len(found), remedy)
    labels = np.array([class_names.index(text) for text in texts])
    if "train" in lists:
        check_training(files["train"], class_names, labels[np.unique(lists["train"].codes)].tolist())
    records = Records(
        (f"{texts[code]}/{video}" for code, video, clip in zip(mine.codes, mine.videos, found, strict=True) if clip),
        labels[mine.codes][np.array(list(map(bool, found)))],
        (f"{root}/{texts[code]}/{clip}" for code, clip in zip(mine.codes, found, strict=True) if clip),
    )
    return DatasetSplit(records, class_names)


def making(cfg: CfgNode) -> str:
    """The command that makes a split of HMDB_simp."""
    output = f" --output {shlex.quote(cfg.DATA.SPLITS_DIR)}" if cfg.DATA.SPLITS_DIR else ""
    return f"python datasets/hmdb_simp/prepare.py {shlex.quote(cfg.DATA.PATH_TO_DATA_DIR)}{output}"


def from_folders(root: Path, split: str) -> DatasetSplit:
    """Clips in root/<split>/<class>. Raises DataError."""
    folders = {name: root / name for name in SPLITS if (root / name).is_dir()}
    _require(split, folders, root / split)
    classes = {name: {path.name for path in list_classes(folder)} for name, folder in folders.items()}
    class_names = tuple(sorted(set().union(*classes.values())))
    if not class_names:
        raise DataError(f"{folders[split]} holds no class folders: expected {folders[split]}/<class>/<video>")
    counts: list[int] = []
    empty: list[str] = []
    shared: list[str] = []
    skipped: list[str] = []
    nested: list[str] = []

    def names() -> Iterator[str]:
        for label in class_names:
            clips: dict[str, list[str]] = {}
            for name, folder in folders.items():
                others: list[str] = []
                clips[name] = clip_names(folder / label, others) if label in classes[name] else []
                skipped.extend(f"{name}/{other}" for other in others)
            nested.extend(f"{label}/{clip}" for clip in clips[split] if "/" in clip)
            mine = clips[split]
            if not mine and (label in classes[split] or split == "train"):
                empty.append(str(folders[split] / label))
            for other in (name for name in folders if name != split):
                # The same name may be two clips (numbered anew in each split): a clip is known again by its content.
                for name in sorted(set(mine).intersection(clips[other])):
                    pair = folders[split] / label / name, folders[other] / label / name
                    if _same_content(*pair):
                        shared.append(" and ".join(map(str, pair)))
            counts.append(len(mine))
            yield from (f"{label}/{name}" for name in mine)

    found = Strings(names())
    report_strays(folders.values())
    report_skipped(root, skipped)
    report_nested(folders[split], nested)
    if empty:
        remedy = f"put clips there ({KINDS}), or remove the class from all splits"
        raise join_problems("classes without clips", empty, remedy)
    if shared:
        raise join_problems("the same clip in two splits", shared, "remove one of each pair")
    return DatasetSplit(
        Records(found, np.repeat(np.arange(len(counts)), counts), folder=str(folders[split])), class_names
    )


def _at_random(cfg: CfgNode, root: Path, split: str) -> DatasetSplit:
    """From each class DATA.TEST_FRACTION of the clips, then DATA.VAL_FRACTION of the rest; the others are for training.

    Clips stand in an order that depends on their names without extension and DATA.SPLIT_SEED alone, and the first ones
    are taken. So the same clips are split alike anywhere, re-encoded or not, and one that is added moves two others at
    most. Clips of a group (DATA.SPLIT_GROUPS) stay together; where a group has clips of several classes, the shares are
    those of all clips.
    """
    clips = _read_groups(cfg, root)
    group_counts = np.bincount(clips.groups, minlength=len(clips.keys))
    ends = np.cumsum(clips.counts)
    of_classes = [np.unique(groups) for groups in np.split(clips.groups, ends[:-1])]
    if sum(map(len, of_classes)) > len(clips.keys):
        of_classes, pooled = [np.arange(len(clips.keys))], [str(root)]
    else:
        pooled = list(clips.class_names)
    test, val = cfg.DATA.TEST_FRACTION, (1 - cfg.DATA.TEST_FRACTION) * cfg.DATA.VAL_FRACTION
    split_of = np.empty(len(clips.keys), np.int8)  # of groups, numbers into SPLITS
    small = []
    for label, groups in zip(pooled, of_classes, strict=True):
        order = groups[np.argsort(clips.keys[groups], kind="stable")]
        if len(order) < 3:
            small.append(f"{label} ({len(order)})")
        else:
            split_of[order] = _share_out(group_counts[order], test, val)
    if small:
        kind = "groups" if cfg.DATA.SPLIT_GROUPS else "clips"
        raise join_problems(f"classes with fewer than 3 {kind}", small, f"add {kind}, or remove these classes")

    chosen = split_of[clips.groups] == SPLITS.index(split)
    labels = np.repeat(np.arange(len(clips.counts)), clips.counts)[chosen]
    present = np.bincount(labels, minlength=len(clips.counts))
    if absent := [label for label, number in zip(clips.class_names, present, strict=True) if not number]:
        if split == "train":
            remedy = "give another DATA.SPLIT_SEED, or other DATA.SPLIT_GROUPS"
            raise join_problems(f"{root}: classes without training clips", absent, remedy)
        logger.warning("%s: no clip of %s in the %s split", root, shorten(absent), split)
    logger.info("%s: %d of %d clips for %s, at random", root, len(labels), len(chosen), split)
    names = clips.names.at(np.flatnonzero(chosen))
    return DatasetSplit(Records(names, labels, folder=str(root)), clips.class_names)


class _Clips(NamedTuple):
    """The clips of all classes in columns, class by class: a million take under 100 MB."""

    class_names: tuple[str, ...]
    counts: list[int]  # of the clips of each class
    names: Strings  # <class>/<clip>
    groups: np.ndarray  # numbers of the clips' groups, int64 (clips,)
    keys: np.ndarray  # what the groups are put in order by, uint64 (groups,)


def _read_groups(cfg: CfgNode, root: Path) -> _Clips:
    """List the clips with their groups: what DATA.SPLIT_GROUPS finds in `<class>/<name>`, without it each by itself."""
    pattern, seed = cfg.DATA.SPLIT_GROUPS, cfg.DATA.SPLIT_SEED
    search = re.compile(pattern).search
    classes = list_classes(root)
    if not classes:
        raise DataError(f"{root} holds no class folders: expected {root}/<class>/<clip>")
    counts: list[int] = []
    skipped: list[str] = []
    nested: list[str] = []
    strays: list[str] = []
    groups, keys = array("q"), array("Q")

    def names() -> Iterator[str]:
        known: dict[str, int] = {}
        for folder in classes:
            if not pattern:
                known.clear()  # no two classes have one in common
            label = folder.name
            clips = clip_names(folder, skipped)
            nested.extend(f"{label}/{clip}" for clip in clips if "/" in clip)
            counts.append(len(clips))
            for clip in clips:
                group = f"{label}/{stem(clip)}"
                if pattern:
                    if match := search(group):
                        group = "/".join(map(str, match.groups())) or match.group()
                    else:
                        strays.append(group)
                number = known.get(group)
                if number is None:
                    number = known[group] = len(keys)
                    text = f"{seed}/{group}".encode("utf-8", "surrogateescape")
                    keys.append(int.from_bytes(sha256(text).digest()[:8], "big"))
                groups.append(number)
                yield f"{label}/{clip}"

    found = Strings(names())
    report_strays([root])
    report_skipped(root, skipped)
    report_nested(root, nested)
    if empty := [str(folder) for folder, count in zip(classes, counts, strict=True) if not count]:
        raise join_problems("classes without clips", empty, f"put clips there ({KINDS}), or remove these folders")
    if strays:
        remedy = "make the pattern find a group in every <class>/<name without extension>"
        raise join_problems(f"clips that DATA.SPLIT_GROUPS {pattern!r} finds nothing in", strays, remedy)
    return _Clips(tuple(folder.name for folder in classes), counts, found, np.asarray(groups), np.asarray(keys))


def _share_out(sizes: np.ndarray, test: float, val: float) -> np.ndarray:
    """The splits, numbers into SPLITS, of groups of so many clips: the first for test, the next for val; one at least.

    sizes: int (groups,).
    """
    middles, total = np.cumsum(sizes) - sizes / 2, sizes.sum()
    tested = int(np.clip(np.sum(middles <= test * total), 1, len(sizes) - 2))
    seen = int(np.clip(np.sum(middles <= (test + val) * total), tested + 1, len(sizes) - 1))
    numbers = [SPLITS.index(name) for name in ("test", "val", "train")]
    return np.repeat(numbers, [tested, seen - tested, len(sizes) - seen])


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
        try:
            mine, theirs = frame_files(first), frame_files(second)
        except VideoError:  # reported when the folder is read
            return False
        return len(mine) == len(theirs) > 0 and filecmp.cmp(mine[0], theirs[0], shallow=False)
    return False


class _List(NamedTuple):
    """What stands in a split file, in columns."""

    codes: np.ndarray  # numbers of the classes, int64 (clips,)
    videos: Strings
    lines: np.ndarray  # numbers of the lines, int64 (clips,)

    def by_class(self, classes: int) -> list[np.ndarray]:
        """For each of the classes the numbers of its rows, rising."""
        ends = np.cumsum(np.bincount(self.codes, minlength=classes))
        return np.split(np.argsort(self.codes, kind="stable"), ends[:-1])


def _read(csv: Path, codes: dict[str, int]) -> _List:
    """Read a split file of the columns class and video_name; new classes get the next numbers in `codes`."""
    problems: list[str] = []
    classes, lines = array("q"), array("q")

    def videos() -> Iterator[str]:
        for number, (label, video) in read_table(csv, CSV_HEADER, problems):
            classes.append(codes.setdefault(label, len(codes)))
            lines.append(number)
            yield video

    found = Strings(videos())
    if problems:
        raise join_problems(str(csv), problems, "mend these lines")
    if not found:
        raise DataError(f"{csv} has a header but no clips: expected one line `class,video_name` per clip")
    return _List(np.asarray(classes), found, np.asarray(lines))
