"""HMDB51 and UCF101: class folders, and official lists of training and test clips in three splits."""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.datasets.records import DataError, DatasetSplit, join_problems
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
_COPY_AGAIN = "fix these lines, or copy the files from the official archive"


class ListedClip(NamedTuple):
    """A line of an official list."""

    label: int
    name: str  # of the file, as written
    source: str  # the film or group that the clip was cut from, by its name
    where: str  # file and line


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
    clips: dict[str, list[ListedClip]] = {"0": [], "1": [], "2": []}
    problems = []
    for label, path in enumerate(files):
        for number, line in lists.iterate_lines(path):
            name, *part = line.rsplit(maxsplit=1)
            where = f"{path.name} line {number}"
            if part and part[0] in clips:
                clips[part[0]].append(ListedClip(label, name, film(name, class_names[label]), where))
            else:
                problems.append(f"{where}: found {line!r}, expected `clip id` with the id 1 (training), 2 (test) or 0")
    if problems:
        raise join_problems(str(folder), problems, _COPY_AGAIN)
    return _load_split(cfg, split, folder, class_names, clips["1"], clips["2"])


def film(clip: str, class_name: str) -> str:
    """The film that a clip was cut from: "The_Fugitive" for "The_Fugitive_2_run_f_cm_np1_fr_med_1.avi" of "run"."""
    name = stem(clip)
    match = re.match(rf"(.*?[^_\d]|.+)[_\d]*_{re.escape(class_name)}_[a-z]_[a-z]{{2}}_np\d", name)
    return match[1] if match else name


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
    trained = _read_clips(files["train"], class_names, numbered=True) if needs_training else []
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


def _read_clips(path: Path, class_names: tuple[str, ...], numbered: bool) -> list[ListedClip]:
    if not path.is_file():
        raise DataError(f"{path} not found, though classInd.txt is there: copy it from the official archive")
    labels = {name.casefold(): label for label, name in enumerate(class_names)}
    clips, problems = [], []
    for line_number, line in lists.iterate_lines(path):
        entry, *numbers = line.split()
        class_name, _, name = entry.partition("/")
        label = labels.get(class_name.casefold())
        expected = [str(label + 1)] if numbered and label is not None else []
        if not name or label is None or numbers != expected:
            form = f"<class>/<clip>{' <number>' * numbered}"
            problems.append(f"line {line_number}: found {line!r}, expected `{form}` with a class of classInd.txt")
        else:
            group = re.search(r"_(g\d+)_c\d+$", stem(name))
            clips.append(ListedClip(label, name, group[1] if group else name, f"{path.name} line {line_number}"))
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
    trained: Sequence[ListedClip],
    tested: Sequence[ListedClip],
) -> DatasetSplit:
    """The videos of `split`, in list order; "val" is held out of `trained`, which may be empty for "test"."""
    first: dict[tuple[int, str], str] = {}
    repeated = [
        f"{clip.name}: {earlier} and {clip.where}"
        for clip in (*trained, *tested)
        if (earlier := first.setdefault((clip.label, clip.name.casefold()), clip.where)) != clip.where
    ]
    if repeated:
        raise join_problems("clips listed twice", repeated, "remove one of each two lines")
    for part, clips in {"training": trained, "test": tested}.items():
        if clips or part == "test" or split != "test":
            lists.check_classes(f"{folder}: classes without {part} clips", class_names, {clip.label for clip in clips})
    wanted = tested
    if split != "test":
        held_out: set[tuple[int, str]] = set()
        for label, name in enumerate(class_names):
            sources = {clip.name: f"{name}/{clip.source}" for clip in trained if clip.label == label}
            if len(sources) < 2:
                raise DataError(f"{folder}: {name} has a single training clip, expected two for DATA.VAL_FRACTION")
            held_out |= {(label, clip) for clip in hold_out(sources, cfg.DATA.VAL_FRACTION)}
        wanted = [clip for clip in trained if ((clip.label, clip.name) in held_out) == (split == "val")]
    logger.info("%s: %d clips of split %d of %s", split, len(wanted), cfg.DATA.SPLIT, folder)
    return _find_clips(cfg, split, class_names, wanted)


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


def _find_clips(cfg: CfgNode, split: str, class_names: tuple[str, ...], clips: Sequence[ListedClip]) -> DatasetSplit:
    base, folders = _class_folders(lists.data_folder(cfg), class_names)
    others = [path for path in list_classes(base) if path not in folders.values()]
    if unlisted := [path.name for path in others if any(is_video_name(clip.name) for clip in path.iterdir())]:
        logger.warning("%s: videos in folders that are no class of the lists are not used: %s", base, shorten(unlisted))
    lists.check_classes(f"{base}: classes without a folder", class_names, folders)
    contents = {label: ClipFolder(folder) for label, folder in folders.items()}
    keys = []
    for clip in clips:
        path = contents[clip.label].find(clip.name, ignore_case=True)
        keys.append(path and f"{folders[clip.label]}/{path}")
    found = lists.ListedClips(
        [f"{class_names[clip.label]}/{clip.name}" for clip in clips],
        np.fromiter((clip.label for clip in clips), np.int64),
        Located(keys, lambda: iter(keys)),
        lambda row: f"{folders[clips[row].label] / clips[row].name} ({clips[row].where})",
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
