"""Which clips a dataset's folder holds, however deep: video files, and folders of frames."""

import os
from collections.abc import Sequence
from pathlib import Path

from timesformer.datasets.records import SPLITS, DataError
from timesformer.datasets.sources.clip_files import KINDS, find_below, report_skipped, walk

_LIST_EXTENSIONS = frozenset({".txt", ".csv", ".json"})


def find_clips(root: Path) -> list[str]:
    """The clips of a dataset: paths from its folder, with slashes and sorted.

    Files that are not clips are named in the log, where they lie as deep as clips do or in a folder above clips; lists
    and archives lie elsewhere.

    Raises DataError where there is no clip, and for a line break in a name, which no list of clips could hold.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: expected the folder of a dataset")
    clips, others = find_below(root)
    if not clips:
        found = f"; found {len(others)} other files" if others else ""
        raise DataError(f"{root} holds no clips: expected {KINDS} in it, at any depth{found}")
    if broken := [clip for clip in clips if "\n" in clip or "\r" in clip]:
        raise DataError(f"{root}: {broken[0]!r} has a line break in its name: give it another name")
    depths = {clip.count("/") for clip in clips} - {0}
    above = {clip[:end] for clip in clips for end, letter in enumerate(clip) if letter == "/"}
    skipped = [
        name
        for name in others
        if name.rpartition("/")[0] in above or (name.count("/") in depths and not is_list_name(name))
    ]
    report_skipped(root, skipped)
    return clips


def find_empty_classes(root: Path, clips: Sequence[str], only_split_lists: bool = False) -> list[str]:
    """Paths from `root`, sorted, of empty folders that lie as deep as the folders of `clips` do.

    A folder in `root`, or in that of a split, counts as empty if it has files, none of which is a clip.

    Folders of lists, which a dataset may have next to its classes, do not count.

    only_split_lists: take only files named after a split, such as train.csv, for lists.
    """
    depths = {clip.count("/") - 1 for clip in clips}
    lowest, deepest = min(depths, default=-1), max(depths, default=-1)
    full, empty = {clip.rpartition("/")[0] for clip in clips}.union(clips), []
    for place, folders, files in walk(root):
        depth = -1 if place == "." else place.count("/")
        if depth in depths and depth >= 0 and not folders and place not in full:
            is_class = depth == lowest and (not depth or place.partition("/")[0] in SPLITS)
            lists = filter(is_list_name, files)
            if not files or (is_class and not any(Path(name).stem in SPLITS or not only_split_lists for name in lists)):
                empty.append(place)
        if depth >= deepest:
            folders.clear()  # nothing below matters
    return empty


def is_list_name(name: str) -> bool:
    """Whether a file may be one of the lists that belong to a dataset."""
    return os.path.splitext(name)[1].lower() in _LIST_EXTENSIONS
