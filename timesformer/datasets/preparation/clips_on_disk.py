"""Which clips lie below a folder, however deep: video files, and folders of frames."""

import os
from collections.abc import Iterator
from pathlib import Path

from timesformer.datasets.clip_files import VIDEO_EXTENSIONS
from timesformer.datasets.reader import FRAME_EXTENSIONS
from timesformer.datasets.records import DataError


def find_clips(root: Path) -> list[str]:
    """Paths from `root`, with slashes and sorted, of all video files and all folders that hold frames and no video.

    Hidden files and folders are left out. Raises DataError where there is no clip, and for a line break in a name,
    which no list of clips could hold.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: expected the folder of a dataset")
    clips = sorted(_walk(root))
    if not clips:
        kinds = " ".join(sorted(VIDEO_EXTENSIONS))
        raise DataError(f"{root} holds no clips: expected {kinds} files or folders of frames in it, at any depth")
    if broken := [clip for clip in clips if "\n" in clip or "\r" in clip]:
        raise DataError(f"{root}: {broken[0]!r} has a line break in its name: give it another name")
    return clips


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        kinds = [(os.path.splitext(name)[1].lower(), name) for name in files if not name.startswith(".")]
        videos = [name for kind, name in kinds if kind in VIDEO_EXTENSIONS]
        place = os.path.relpath(folder, root).replace(os.sep, "/")
        if videos:
            yield from (name if place == "." else f"{place}/{name}" for name in videos)
        elif place != "." and any(kind in FRAME_EXTENSIONS for kind, _ in kinds):
            yield place
