"""How clips lie on disk: class folders, clips in them, and the clip that a split file names.

A clip is a video file, or a folder of its frames.
"""

import functools
import os
from pathlib import Path

VIDEO_EXTENSIONS = frozenset({".avi", ".mp4", ".mkv", ".webm", ".mov"})
_ENDINGS = frozenset(extension[1:] for extension in VIDEO_EXTENSIONS)


def list_classes(root: Path) -> list[Path]:
    """Class folders in `root`, sorted by name; hidden ones are left out."""
    with os.scandir(root) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def list_clips(folder: Path) -> list[Path]:
    """Clips in `folder`, sorted by name: video files, and folders (of frames); hidden and other files are left out."""
    return [folder / name for name in clip_names(folder)]


def clip_names(folder: Path) -> list[str]:
    """Names of the clips in `folder`, as `list_clips` gives them: a million take half the time that paths would."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and (is_video_name(entry.name) or entry.is_dir())
        )


def is_video_name(name: str) -> bool:
    """Whether `name` ends like a video file."""
    beginning, _, ending = name.rpartition(".")
    return bool(beginning) and ending.lower() in _ENDINGS


def stem(name: str) -> str:
    """`name` without the extension of a video file, if it has one: "a.b.avi" and "a.b" both give "a.b"."""
    beginning, _, ending = name.rpartition(".")
    return beginning if beginning and ending.lower() in _ENDINGS else name


class ClipFolder:
    """The clips of one folder, which is listed once, by the names that split files give them.

    Attributes:
        folder: the folder.
        names: the names of the clips in it, sorted; none where there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = clip_names(folder) if folder.is_dir() else []
        self._whole = {name: name for name in self.names}

    @functools.cached_property
    def _by_stem(self) -> dict[str, str]:
        # Of several clips of one stem the first in order is meant: the folder of frames, then .avi before .mp4.
        return {stem(name): name for name in reversed(self.names)}

    def find(self, name: str) -> str | None:
        """The name here of the clip that a split file calls `name`, or None.

        "x.avi" may lie there as x.avi, as the folder x of its frames, or as x.mp4 made from it; so may "x".
        """
        # Not `name` itself: a million of those that are found are in memory already.
        return self._whole.get(name) or self._by_stem.get(stem(name))
