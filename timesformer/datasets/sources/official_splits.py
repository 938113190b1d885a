"""From the clips that a dataset's official lists name for training and test to the records of a split.

HMDB51 and UCF101 both come as class folders of video files beside a folder of lists, with three splits each into
training and test. They differ in how the lists are written (`hmdb51.py`, `ucf101.py`), and in nothing after that.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.datasets.records import DataError, DatasetSplit, Records, VideoRecord, join_problems
from timesformer.datasets.sources.clip_files import ClipFolder, is_system_name, is_video_name, list_classes
from timesformer.datasets.sources.held_out import hold_out
from timesformer.datasets.sources.lists import leave_out, splits_folder
from timesformer.errors import shorten

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedClip:
    """A line of an official list.

    label: index into the class names.
    name: of the file, as the list spells it.
    source: the film, or the group, that the clip was cut from, as far as its name tells.
    place: file and line.
    """

    label: int
    name: str
    source: str
    place: str


def find_lists(cfg: CfgNode, folder_name: str, pattern: str) -> Path:
    """The folder of the official lists, which has files like `pattern`.

    It is DATA.SPLITS_DIR (else DATA.PATH_TO_DATA_DIR), or the folder of the official name in it or one level below.
    Raises DataError where there is none.
    """
    base = splits_folder(cfg)
    for folder in (base, base / folder_name, *(path / folder_name for path in list_classes(base))):
        if any(not is_system_name(path.name) for path in folder.glob(pattern)):
            return folder
    raise DataError(
        f"{base} has no official split files: expected {pattern} in it, in {base / folder_name}, or in a folder of "
        "that name one level below; set DATA.SPLITS_DIR to the folder that holds them"
    )


def find_official_records(
    cfg: CfgNode,
    split: str,
    lists: Path,
    class_names: tuple[str, ...],
    trained: Sequence[ListedClip],
    tested: Sequence[ListedClip],
) -> DatasetSplit:
    """The videos of `split`, in the order of the lists: "train" and "val" share the clips listed for training.

    Of these DATA.VAL_FRACTION, in every class, is "val" (see `held_out.py`). Videos are found in the class folders of
    DATA.PATH_TO_DATA_DIR, or one level below; names that differ in upper and lower case alone are the same.

    "test" does not need `trained`, which may be empty then.

    Raises DataError for a clip listed twice, a class without training or without test clips, or without a folder, and
    for clips of the split that are not on disk (see DATA.MAX_MISSING_FRACTION).
    """
    _refuse_repeated([*trained, *tested])
    for part, clips in (("training", trained), ("test", tested)):
        if part == "training" and split == "test" and not trained:
            continue
        if absent := _without(class_names, {clip.label for clip in clips}):
            remedy = "complete the list, or take these classes out of all lists"
            raise join_problems(f"{lists}: classes without {part} clips", absent, remedy)
    if split == "test":
        wanted = list(tested)
        logger.info("%s: %d test clips of split %d of %s", split, len(wanted), cfg.DATA.SPLIT, lists)
    else:
        held = _held_out(class_names, trained, cfg.DATA.VAL_FRACTION)
        wanted = [clip for clip in trained if ((clip.label, clip.name) in held) == (split == "val")]
        logger.info(
            "%s: %d of %d training clips of split %d of %s", split, len(wanted), len(trained), cfg.DATA.SPLIT, lists
        )
    return DatasetSplit(Records.of(_on_disk(cfg, class_names, wanted)), class_names)


def _without(class_names: Sequence[str], labels: set[int]) -> list[str]:
    return [name for label, name in enumerate(class_names) if label not in labels]


def _refuse_repeated(clips: Iterable[ListedClip]) -> None:
    places: dict[tuple[int, str], str] = {}
    repeated = []
    for clip in clips:
        key = (clip.label, clip.name.casefold())
        if key in places:
            repeated.append(f"{clip.name}: {places[key]} and {clip.place}")
        places.setdefault(key, clip.place)
    if repeated:
        remedy = "remove one of each two lines: a clip is trained on or tested, once"
        raise join_problems("clips listed twice", repeated, remedy)


def _held_out(class_names: Sequence[str], trained: Sequence[ListedClip], share: float) -> set[tuple[int, str]]:
    sources: list[dict[str, str]] = [{} for _ in class_names]
    for clip in trained:
        sources[clip.label][clip.name] = f"{class_names[clip.label]}/{clip.source}"
    if single := [name for name, clips in zip(class_names, sources, strict=True) if len(clips) < 2]:
        remedy = "list more: at least one is trained on, and one held out for validation (DATA.VAL_FRACTION)"
        raise join_problems("classes with a single training clip", single, remedy)
    return {(label, name) for label, clips in enumerate(sources) for name in hold_out(clips, share)}


def _on_disk(cfg: CfgNode, class_names: Sequence[str], clips: Sequence[ListedClip]) -> Iterable[VideoRecord]:
    base, folders = _class_folders(Path(cfg.DATA.PATH_TO_DATA_DIR), class_names)
    if unlisted := [
        path.name
        for path in list_classes(base)
        if path not in folders.values() and any(is_video_name(clip.name) for clip in path.iterdir())
    ]:
        logger.warning("%s: videos in folders that no list calls a class are not used: %s", base, shorten(unlisted))
    if absent := _without(class_names, set(folders)):
        remedy = f"copy these folders there, or set DATA.PATH_TO_DATA_DIR to the folder that has them all (now {base})"
        raise join_problems(f"{base}: classes without a folder", absent, remedy)
    contents = {label: ClipFolder(folder) for label, folder in folders.items()}
    records, missing = [], []
    for clip in clips:
        name = contents[clip.label].find(clip.name, fold_case=True)
        if name is None:
            missing.append(f"{folders[clip.label] / clip.name} ({clip.place})")
        else:
            path = str(folders[clip.label] / name)
            records.append(VideoRecord(path, clip.label, f"{class_names[clip.label]}/{clip.name}"))
    remedy = "copy or unpack them again; frames in a folder of the same name, or x.mp4 for x.avi, do as well"
    leave_out(cfg, base, missing, len(clips), remedy)
    return records


def _class_folders(root: Path, class_names: Sequence[str]) -> tuple[Path, dict[int, Path]]:
    """The folder that holds the class folders, `root` or one in it, and the class folders by label."""
    if not root.is_dir():
        raise DataError(f"DATA.PATH_TO_DATA_DIR is {root}, which is not a folder here: set it to the folder of clips")
    labels = {name.casefold(): label for label, name in enumerate(class_names)}
    for candidates in ([root], list_classes(root)):
        found: dict[Path, dict[int, Path]] = {folder: {} for folder in candidates}
        for path in (path for folder in candidates for path in list_classes(folder)):
            if (label := labels.get(path.name.casefold())) is not None:
                found[path.parent][label] = path
        found = {folder: classes for folder, classes in found.items() if classes}
        if len(found) > 1:
            raise DataError(
                f"class folders such as {class_names[0]} are in {' and in '.join(map(str, found))}: set "
                "DATA.PATH_TO_DATA_DIR to the one meant, and DATA.SPLITS_DIR to the folder of the split files"
            )
        if found:
            return next(iter(found.items()))
    raise DataError(
        f"{root} holds no class folders, nor does a folder in it: expected {root}/<class>/<clip> with the classes "
        f"{shorten(class_names)}; set DATA.PATH_TO_DATA_DIR to the folder of the dataset"
    )
