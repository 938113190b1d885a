"""Which clips a dataset's folder holds, at any depth: video files, and folders of frames."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from timesformer.datasets.records import SPLITS, DataError
from timesformer.datasets.sources.clip_files import KINDS, find_below, walk, warn_skipped
from timesformer.errors import counted


def find_clips(root: Path) -> list[str]:
    """The clips of a dataset: sorted paths from its folder, with slashes. Other files next to them are logged.

    Raises DataError if there is no clip, and for a line break in a name, which no list could hold.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: expected the folder of a dataset")
    clips, others = find_below(root)
    if not clips:
        raise DataError(
            f"{root} has no clips, but {counted(len(others), 'other file')}: expected {KINDS} in it, at any depth"
        )
    if broken := [clip for clip in clips if "\n" in clip or "\r" in clip]:
        raise DataError(f"{root}: {broken[0]!r} has a line break in its name: rename it")
    depths = {clip.count("/") for clip in clips} - {0}
    above = {parent for clip in clips for parent in map(str, PurePosixPath(clip).parents)} - {"."}

    def is_next_to_clips(name: str) -> bool:
        return name.rpartition("/")[0] in above or (name.count("/") in depths and not is_list_name(name))

    warn_skipped(root, list(filter(is_next_to_clips, others)))
    return clips


def find_empty_classes(root: Path, clips: Sequence[str], only_split_lists: bool = False) -> list[str]:
    """Sorted paths from `root` of folders without clips at the depth of the folders of `clips`.

    They are empty, or are folders in `root` or a split's folder with files that are neither clips nor lists (with
    `only_split_lists`, lists are only files named after a split, such as train.csv).
    """
    depths = {clip.count("/") - 1 for clip in clips}
    lowest, deepest = min(depths, default=-1), max(depths, default=-1)
    full, empty = {clip.rpartition("/")[0] for clip in clips}.union(clips), []
    for folder, subfolders, files in walk(root):
        depth = -1 if folder == "." else folder.count("/")
        if depth in depths and depth >= 0 and not subfolders and folder not in full:
            is_class = depth == lowest and (not depth or folder.partition("/")[0] in SPLITS)
            lists = [name for name in files if is_list_name(name)]
            if only_split_lists:
                lists = [name for name in lists if Path(name).stem in SPLITS]
            if not files or (is_class and not lists):
                empty.append(folder)
        if depth >= deepest:
            subfolders.clear()
    return empty


def is_list_name(name: str) -> bool:
    """Whether a file may be a list that belongs to a dataset."""
    return os.path.splitext(name)[1].lower() in (".txt", ".csv", ".json")
