"""HMDB51 and UCF101: class folders, and official lists of training and test clips in three splits."""

import functools
import logging
import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.datasets.records import DataError, DatasetSplit, Strings, join_problems
from timesformer.datasets.sources import lists
from timesformer.datasets.sources.clip_files import (
    ClipFolder,
    Located,
    is_system_name,
    is_video_name,
    list_classes,
    stem,
)
from timesformer.errors import shorten

logger = logging.getLogger(__name__)

LISTS_FOLDERS = {"hmdb51": "testTrainMulti_7030_splits", "ucf101": "ucfTrainTestlist"}
_GROUP = re.compile(r"_(g\d+)_c\d+$")  # in names of clips of UCF101
_COPY_AGAIN = "fix these lines, or copy the files from the official archive"


class _Listed(NamedTuple):
    """Lines of official lists in columns: label, name of the file as written, film or group, file and line number."""

    labels: array
    names: list[str]
    sources: list[str]
    files: list[str]
    lines: array

    @classmethod
    def empty(cls) -> "_Listed":
        return cls(array("q"), [], [], [], array("q"))

    def add(self, label: int, name: str, source: str, file: str, line: int) -> None:
        self.labels.append(label)
        self.names.append(name)
        self.sources.append(source)
        self.files.append(file)
        self.lines.append(line)

    def where(self, row: int) -> str:
        """The file and line of a clip, for messages."""
        return f"{self.files[row]} line {self.lines[row]}"


def hmdb51(cfg: CfgNode, split: str) -> DatasetSplit:
    """HMDB51: clips of `split` of the official split DATA.SPLIT; "val" is held out of the training clips, film by film.

    `<class>_test_split<N>.txt` has a line `<clip>.avi <id>` for each clip of a class: 1 means training, 2 test, 0
    neither. Labels are in alphabetical order of the classes. Raises DataError for missing lists and malformed lines.
    """
    folder = _find_lists(cfg, "hmdb51", "*_test_split?.txt")
    names = (path.name for path in folder.iterdir() if not is_system_name(path.name))
    matches = (re.fullmatch(r"(.+)_test_split\d\.txt", name) for name in names)
    class_names = tuple(sorted({match[1] for match in matches if match}))
    files = [folder / f"{name}_test_split{cfg.DATA.SPLIT}.txt" for name in class_names]
    if absent := [path.name for path in files if not path.is_file()]:
        remedy = "copy them there from the official archive, or remove the other lists of these classes"
        raise join_problems(f"{folder}: lists of DATA.SPLIT {cfg.DATA.SPLIT} are missing", absent, remedy)
    clips = {number: _Listed.empty() for number in "012"}
    problems = []
    for label, (path, class_name) in enumerate(zip(files, class_names, strict=True)):
        file = path.name
        for number, line in lists.iterate_lines(path):
            name, *part = line.rsplit(maxsplit=1)
            if part and part[0] in clips:
                clips[part[0]].add(label, name, film(name, class_name), file, number)
            else:
                expected = "expected `clip id` with the id 1 (training), 2 (test) or 0"
                problems.append(f"{file} line {number}: found {line!r}, {expected}")
    if problems:
        raise join_problems(str(folder), problems, _COPY_AGAIN)
    return _load_split(cfg, split, folder, class_names, clips["1"], clips["2"])


def film(clip: str, class_name: str) -> str:
    """The film that a clip was cut from: "The_Fugitive" for "The_Fugitive_2_run_f_cm_np1_fr_med_1.avi" of "run"."""
    name = stem(clip)
    return _film(name[: name.rfind("_np") + 4], class_name) or name


@functools.lru_cache(maxsize=65536)
def _film(start: str, class_name: str) -> str | None:
    match = re.match(rf"(.*?[^_\d]|.+)[_\d]*_{re.escape(class_name)}_[a-z]_[a-z]{{2}}_np\d", start)
    return match and match[1]


def ucf101(cfg: CfgNode, split: str) -> DatasetSplit:
    """UCF101: clips of `split` of the official split DATA.SPLIT; "val" is held out of the training clips, by group.

    classInd.txt has lines `<number> <class>` with numbers from 1, trainlist0<N>.txt lines
    `<class>/v_<class>_g<group>_c<clip>.avi <number>`, and testlist0<N>.txt the same without it. Case is ignored, since
    the clips of HandstandPushups are named v_HandStandPushups_... Raises DataError for missing lists and bad lines.
    """
    folder = _find_lists(cfg, "ucf101", "classInd.txt")
    class_names = _read_classes(folder / "classInd.txt")
    files = {part: folder / f"{part}list0{cfg.DATA.SPLIT}.txt" for part in ("train", "test")}
    needs_training = split != "test" or files["train"].is_file()
    trained = _read_clips(files["train"], class_names, numbered=True) if needs_training else _Listed.empty()
    tested = _read_clips(files["test"], class_names, numbered=False)
    return _load_split(cfg, split, folder, class_names, trained, tested)


def _read_classes(path: Path) -> tuple[str, ...]:
    class_names: list[str] = []
    problems = []
    for number, line in lists.iterate_lines(path):
        label, name = (*line.split(maxsplit=1), "")[:2]
        expected = str(len(class_names) + 1)
        if label != expected or not name or name.casefold() in map(str.casefold, class_names):
            problems.append(f"line {number}: found {line!r}, expected `{expected} <class>`, each class once")
        class_names.append(name)
    if problems:
        raise join_problems(str(path), problems, _COPY_AGAIN)
    return tuple(class_names)


def _read_clips(path: Path, class_names: tuple[str, ...], numbered: bool) -> _Listed:
    if not path.is_file():
        raise DataError(f"{path} not found, though classInd.txt is there: copy it from the official archive")
    labels = {name.casefold(): label for label, name in enumerate(class_names)}
    numbers = [[str(label + 1)] if numbered else [] for label in range(len(class_names))]
    clips, problems, file = _Listed.empty(), [], path.name
    for line_number, line in lists.iterate_lines(path):
        entry, *found = line.split()
        class_name, _, name = entry.partition("/")
        label = labels.get(class_name.casefold())
        if not name or label is None or found != numbers[label]:
            form = f"<class>/<clip>{' <number>' * numbered}"
            problems.append(f"line {line_number}: found {line!r}, expected `{form}` with a class of classInd.txt")
        else:
            group = _GROUP.search(stem(name))
            clips.add(label, name, sys.intern(group[1]) if group else name, file, line_number)
    if problems:
        raise join_problems(str(path), problems, _COPY_AGAIN)
    return clips


def _find_lists(cfg: CfgNode, dataset: str, pattern: str) -> Path:
    """The folder with lists named like `pattern`: that of the split files, or the official folder in or below it."""
    base, folder_name = lists.splits_folder(cfg), LISTS_FOLDERS[dataset]
    for folder in (base, base / folder_name, *(path / folder_name for path in list_classes(base))):
        if any(not is_system_name(path.name) for path in folder.glob(pattern)):
            return folder
    raise DataError(f"{base} has no {pattern}, nor has a folder {folder_name} in it: set DATA.SPLITS_DIR to its folder")


def _load_split(
    cfg: CfgNode,
    split: str,
    folder: Path,
    class_names: tuple[str, ...],
    trained: _Listed,
    tested: _Listed,
) -> DatasetSplit:
    """The videos of `split`, in list order; "val" is held out of `trained`, which may be empty for "test"."""
    parts = {"training": trained, "test": tested}
    if lists.has_repeats(key for clips in parts.values() for key in _keys(clips)):
        first: dict[tuple[int, str], str] = {}
        repeated = [
            f"{clips.names[row]}: {earlier} and {where}"
            for clips in parts.values()
            for row, key in enumerate(_keys(clips))
            if (earlier := first.setdefault(key, where := clips.where(row))) != where
        ]
        if repeated:
            raise join_problems("clips listed twice", repeated, "remove one of each two lines")
    for part, clips in parts.items():
        if clips.names or part == "test" or split != "test":
            lists.check_classes(f"{folder}: classes without {part} clips", class_names, clips.labels)
    clips, rows = tested, range(len(tested.names))
    if split != "test":
        held_out = _hold_out_of_classes(folder, class_names, trained, cfg.DATA.VAL_FRACTION)
        clips, rows = trained, np.flatnonzero(held_out == (split == "val")).tolist()
    logger.info("%s: %d clips of split %d of %s", split, len(rows), cfg.DATA.SPLIT, folder)
    return _find_clips(cfg, split, class_names, clips, rows)


def _keys(clips: _Listed) -> Iterator[tuple[int, str]]:
    return zip(clips.labels, map(str.casefold, clips.names), strict=True)


def _rows_of_classes(labels: Sequence[int], classes: int) -> list[np.ndarray]:
    """The rows of each class, ascending."""
    labels = np.asarray(labels)
    return np.split(labels.argsort(kind="stable"), np.bincount(labels, minlength=classes).cumsum()[:-1])


def _hold_out_of_classes(folder: Path, class_names: Sequence[str], clips: _Listed, fraction: float) -> np.ndarray:
    """Whether each training clip is held out for validation, bool (clips,)."""
    held_out = np.zeros(len(clips.names), bool)
    for class_name, rows in zip(class_names, _rows_of_classes(clips.labels, len(class_names)), strict=True):
        if len(rows) < 2:
            raise DataError(f"{folder}: {class_name} has a single training clip, expected two for DATA.VAL_FRACTION")
        names = [clips.names[row] for row in rows.tolist()]
        held = hold_out(
            {name: f"{class_name}/{clips.sources[row]}" for name, row in zip(names, rows, strict=True)}, fraction
        )
        held_out[rows] = [name in held for name in names]
    return held_out


def hold_out(sources: Mapping[str, str], fraction: float) -> set[str]:
    """Choose about `fraction` of the clips of a class for validation, keeping the clips of a source together.

    Clips of one film or person share faces and rooms, so a source in both parts would make validation optimistic. The
    choice depends on a hash of the names alone.

    sources: source of each clip of the class, by clip name. If there is only one, single clips are chosen.

    Returns the names of the held-out clips: at least one and never all; none of a class of one clip.
    """
    if len(set(sources.values())) < 2:
        sources = {name: name for name in sources}
    sizes = Counter(sources.values())
    order = sorted(sizes, key=lambda source: sha256(source.encode("utf-8", "surrogateescape")).digest())
    wanted, number, held = fraction * len(sources), 0, set()
    for source in order[:-1]:  # at least one stays in training
        if abs(number + sizes[source] - wanted) < abs(number - wanted):
            held.add(source)
            number += sizes[source]
    if not held and len(order) > 1:  # each source is far larger than the fraction
        held = {min(order, key=sizes.__getitem__)}
    return {name for name, source in sources.items() if source in held}


def _find_clips(
    cfg: CfgNode, split: str, class_names: tuple[str, ...], clips: _Listed, rows: Sequence[int]
) -> DatasetSplit:
    base, folders = _class_folders(lists.data_folder(cfg), class_names)
    others = [path for path in list_classes(base) if path not in folders.values()]
    if unlisted := [path.name for path in others if any(is_video_name(clip.name) for clip in path.iterdir())]:
        logger.warning("%s: videos in folders that are no class of the lists are not used: %s", base, shorten(unlisted))
    lists.check_classes(f"{base}: classes without a folder", class_names, folders)
    names, labels = [clips.names[row] for row in rows], np.fromiter((clips.labels[row] for row in rows), np.int64)
    keys: list[str | None] = [None] * len(names)
    for label, members in enumerate(_rows_of_classes(labels, len(class_names))):
        contents = ClipFolder(folders[label])
        for row in members.tolist():
            keys[row] = contents.find(names[row], ignore_case=True)
    is_as_listed = all(key is name or key is None for key, name in zip(keys, names, strict=True)) and all(
        folder == base / class_names[label] for label, folder in folders.items()
    )
    starts = {label: f"{folder}/" for label, folder in folders.items()}
    located = Located(
        keys,
        lambda: (key and starts[label] + key for label, key in zip(labels.tolist(), keys, strict=True)),
        str(base) if is_as_listed else None,
    )
    found = lists.ListedClips(
        Strings(f"{class_names[label]}/{name}" for label, name in zip(labels.tolist(), names, strict=True)),
        labels,
        located,
        lambda row: f"{folders[labels[row]] / names[row]} ({clips.where(rows[row])})",
    )
    remedy = "copy or unpack them again; frames in a folder of the same name, or x.mp4 for x.avi, are found too"
    return lists.build_split(cfg, split, base, found, class_names, remedy)


def _class_folders(root: Path, class_names: Sequence[str]) -> tuple[Path, dict[int, Path]]:
    """The folder of the class folders, `root` or one in it, and the class folders by label."""
    labels = {name.casefold(): label for label, name in enumerate(class_names)}
    for candidates in ([root], list_classes(root)):
        found = {
            folder: {labels[path.name.casefold()]: path for path in paths if path.name.casefold() in labels}
            for folder, paths in {folder: list_classes(folder) for folder in candidates}.items()
        }
        found = {folder: classes for folder, classes in found.items() if classes}
        if len(found) > 1:
            raise DataError(
                f"class folders are in {' and in '.join(map(str, found))}: set DATA.PATH_TO_DATA_DIR to one"
            )
        if found:
            return next(iter(found.items()))
    raise DataError(
        f"{root} has no folders of the classes {shorten(class_names)}, nor has a folder in it: set "
        "DATA.PATH_TO_DATA_DIR to the folder of the dataset"
    )
