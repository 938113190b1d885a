"""Which clips lie below a folder, however deep: video files, and folders of frames."""

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from timesformer.datasets.clip_files import VIDEO_EXTENSIONS
from timesformer.datasets.reader import FRAME_EXTENSIONS
from timesformer.datasets.records import DataError


def clips_below(root: Path) -> list[str]:
    """Paths from `root`, with slashes and sorted, of all video files and all folders that hold frames and no video.

    A folder without anything in it that lies as deep as clips do is a clip, too: one that lost its frames. Hidden files
    and folders are left out.
    """
    clips, empty = [], []
    for place, folders, files in _folders(root):
        kinds = [(os.path.splitext(name)[1].lower(), name) for name in files]
        if videos := [name for kind, name in kinds if kind in VIDEO_EXTENSIONS]:
            clips += videos if place == "." else [f"{place}/{name}" for name in videos]
        elif place != "." and any(kind in FRAME_EXTENSIONS for kind, _ in kinds):
            clips.append(place)
        elif place != "." and not folders and not files:
            empty.append(place)
    depths = {clip.count("/") for clip in clips}
    return sorted([*clips, *(place for place in empty if place.count("/") in depths)])


def find_clips(root: Path) -> list[str]:
    """The clips of a dataset: `clips_below` its folder.

    Raises DataError where there is none, and for a line break in a name, which no list of clips could hold.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: expected the folder of a dataset")
    clips = clips_below(root)
    if not clips:
        kinds = " ".join(sorted(VIDEO_EXTENSIONS))
        raise DataError(f"{root} holds no clips: expected {kinds} files or folders of frames in it, at any depth")
    if broken := [clip for clip in clips if "\n" in clip or "\r" in clip]:
        raise DataError(f"{root}: {broken[0]!r} has a line break in its name: give it another name")
    return clips


def find_empty_classes(root: Path, clips: Sequence[str]) -> list[str]:
    """Paths from `root`, sorted, of folders without anything in them that lie as deep as the folders of `clips` do."""
    depths = {clip.count("/") - 1 for clip in clips}
    return sorted(
        place
        for place, folders, files in _folders(root, max(depths, default=-1))
        if place.count("/") in depths and place != "." and not folders and not files and place not in clips
    )


def _folders(root: Path, deepest: float = math.inf) -> Iterator[tuple[str, list[str], list[str]]]:
    """Path from `root`, folders and files of every folder, `root` itself being "."; without hidden ones.

    deepest: slashes in the longest paths wanted; nothing below those is looked at.
    """
    for folder, folders, files in os.walk(root, followlinks=True):
        place = os.path.relpath(folder, root).replace(os.sep, "/")
        inside = [name for name in folders if not name.startswith(".")]
        folders[:] = inside if place == "." or place.count("/") < deepest else []
        yield place, inside, [name for name in files if not name.startswith(".")]
