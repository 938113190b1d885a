"""Which files and folders are clips and classes (docs/data.md), and the clip on disk that a split file names."""

import functools
import logging
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from timesformer.datasets.decoding.containers import VIDEO_EXTENSIONS
from timesformer.datasets.decoding.frame_series import is_image_name
from timesformer.datasets.records import SPLITS, DataError
from timesformer.errors import UserError, counted, shorten

logger = logging.getLogger(__name__)

KINDS = "video files (such as .mp4, .avi or .mkv; docs/data.md lists all) or folders of frames (.jpg or .png)"
"""What clips are, for messages."""

_RANKS = {extension[1:]: rank for rank, extension in enumerate(VIDEO_EXTENSIONS)}
_SYSTEM_NAMES = {
    *("__macosx", "network trash folder", "temporary items", "icon\r"),  # macOS
    *("$recycle.bin", "system volume information", "found.000", "thumbs.db", "ehthumbs.db", "desktop.ini"),  # Windows
    *("lost+found", "lost.dir"),  # Linux, Android
    *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # Synology, QNAP
}
_LONGEST = max(map(len, _SYSTEM_NAMES))


def is_system_name(name: str) -> bool:
    """Whether a file or folder of this name is hidden or made by the system: never a clip, a class or a list."""
    return name.startswith(".") or (len(name) <= _LONGEST and name.casefold() in _SYSTEM_NAMES)


def is_video_name(name: str) -> bool:
    """Whether `name` has the extension of a video file."""
    return stem(name) != name


def stem(name: str) -> str:
    """`name` without the extension of a video file, itself if it has none: "a.b.avi" and "a.b" both give "a.b"."""
    start, _, extension = name.rpartition(".")
    return start if start and extension.lower() in _RANKS else name


def list_classes(root: Path) -> list[Path]:
    """Class folders in `root`, sorted by name."""
    return [root / name for name in sorted(_list_folder(root)[0])]


def walk(
    root: Path, folder: str = ".", above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Like `os.walk` without system names: paths from `root` with slashes ("." for `root`), sorted folders and files.

    Folders that the caller removes from the list are not entered. Links to folders are followed, except back to a
    folder above. Raises DataError if a folder cannot be listed.
    """
    status = os.stat(root / folder)
    identity = status.st_dev, status.st_ino
    if identity in above:
        return
    folders, files = _list_folder(root / folder)
    folders.sort()
    files.sort()
    yield folder, folders, files
    for name in folders:
        yield from walk(root, name if folder == "." else f"{folder}/{name}", above | {identity})


def _list_folder(folder: Path | str) -> tuple[list[str], list[str]]:
    """Names in a folder without system names: folders, and files. Raises DataError if it cannot be listed."""
    folders, files = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_system_name(name := entry.name):
                    continue
                try:
                    is_folder = entry.is_dir()
                except OSError:  # a link to itself
                    is_folder = False
                (folders if is_folder else files).append(name)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}; make it readable, or remove it") from error
    return folders, files


class Found(NamedTuple):
    """Sorted paths below a folder, with slashes: clips, and skipped files and folders (ending in a slash)."""

    clips: list[str]
    skipped: list[str]


_OF_PREPARATION = {
    "manifest.csv",
    "fingerprints.npy",
    "data_report.html",
    "data_report.json",
    "duplicate_groups.csv",
    "conversion.csv",
    "conversion.json",
}
"""Files that tools/prepare.py writes into the folder of a dataset."""


def find_below(root: Path, is_class: bool = False, is_known: Callable[[str], bool] | None = None) -> Found:
    """Find the clips below a folder, at any depth. Raises DataError as `walk`.

    * A folder with images and no video is a clip. Folders in it are skipped; if there are any, it needs two images,
      since a single one is a cover picture.
    * In a folder with a video, images are skipped.
    * An empty folder at the depth of the clips is a clip that lost its frames.

    `root` itself is not a clip, and files of tools/prepare.py in it are not reported as skipped.

    is_class: `root` is a class folder, so that empty folders in it are clips if there are no other clips.
    is_known: whether a folder is a clip that need not be listed.
    """
    clips, empty, skipped = [], [], []
    for folder, subfolders, files in walk(root):
        prefix = "" if folder == "." else f"{folder}/"
        videos = [name for name in files if is_video_name(name)]
        others = [name for name in files if not is_video_name(name)]
        num_frames = 0 if videos else sum(map(is_image_name, others))
        if folder != "." and num_frames > bool(subfolders):
            clips.append(folder)
            skipped += [f"{prefix}{name}/" for name in subfolders]
            subfolders.clear()
            continue
        clips += [prefix + name for name in videos]
        skipped += [prefix + name for name in others if prefix or name not in _OF_PREPARATION]
        if not (files or subfolders) and folder != ".":
            empty.append(folder)
        if is_known and (known := {name for name in subfolders if is_known(f"{root}/{prefix}{name}")}):
            clips += [prefix + name for name in known]
            subfolders[:] = [name for name in subfolders if name not in known]
    depths = {clip.count("/") for clip in clips} or ({0} if is_class else set())
    return Found(sorted([*clips, *(path for path in empty if path.count("/") in depths)]), sorted(skipped))


def list_clips(root: Path, is_known: Callable[[str], bool] | None = None) -> dict[str, list[str]]:
    """The clips of each class folder in `root`: paths from the class folder, sorted, as `find_below` finds them.

    Logs, once per process, what is not used and which clips are in subfolders. Raises DataError as `walk`.
    """
    folders, files = _list_folder(root)
    found = {name: find_below(root / name, True, is_known) for name in sorted(folders)}
    warn_skipped(root, [f"{label}/{name}" for label, below in found.items() for name in below.skipped])
    if nested := [f"{label}/{clip}" for label, below in found.items() for clip in below.clips if "/" in clip]:
        what = f"{counted(len(nested), 'clip')} in subfolders have the class of the outer folder"
        _warn_once(f"{root}: {what}: {shorten(nested)}")
    if strays := sorted(name for name in files if is_video_name(name) and (root / name).is_file()):
        _warn_once(f"{root}: {strays_line(strays)}")
    return {label: below.clips for label, below in found.items()}


def class_of(clip: str) -> str:
    """The class of a clip by its path from the dataset's folder: the first folder below a split's folder, if any."""
    folders = clip.split("/")[:-1]
    if len(folders) > 1 and folders[0] in SPLITS:
        del folders[0]
    return folders[0] if folders else ""


def find_videos(sources: Iterable[str]) -> Found:
    """Find the clips that `sources` name or have below them, without repetition; UserError for a folder without any.

    A source that is no folder is a clip. Paths are in the order of the sources.
    """
    videos: dict[str, None] = {}
    skipped: dict[str, None] = {}
    for source in sources:
        if not os.path.isdir(source):
            videos[source] = None
            continue
        found = find_below(Path(source))
        if found.clips:
            videos.update(dict.fromkeys(os.path.join(source, clip) for clip in found.clips))
            skipped.update(dict.fromkeys(os.path.join(source, name) for name in found.skipped))
        elif any(map(is_image_name, os.listdir(source))):
            videos[source] = None
        else:
            others = f"; {skipped_line(found.skipped)}" if found.skipped else ""
            raise UserError(f"{source} holds no videos: expected {KINDS}, at any depth{others}")
    return Found(list(videos), list(skipped))


def skipped_line(skipped: Sequence[str]) -> str:
    """A message with the number of files that are not clips, and the first of them."""
    what = "1 file is not a clip and is" if len(skipped) == 1 else f"{len(skipped)} files are not clips and are"
    return f"{what} skipped: {shorten(skipped)}"


def strays_line(strays: Sequence[str]) -> str:
    """A message with the number of clips that are in no class folder, and the first of them."""
    what = f"{counted(len(strays), 'clip')} {'is' if len(strays) == 1 else 'are'}"
    return f"{what} in no class folder and not used: {shorten(strays)}; move each into a class folder"


def warn_skipped(root: Path, skipped: Sequence[str]) -> None:
    """Log which files below `root` are not clips, once per process."""
    if skipped:
        _warn_once(f"{root}: {skipped_line(skipped)}")


@functools.cache
def _warn_once(line: str) -> None:
    logger.warning("%s", line)


class Located(NamedTuple):
    """Where the clips of names are.

    `keys` has what identifies each clip, None if there is none; `paths` returns the paths, also with None. `folder` is
    set if each path that is there is this folder joined with the name.
    """

    keys: Sequence[Hashable | None]
    paths: Callable[[], Iterable[str | None]]
    folder: str | None = None

    def is_found(self) -> np.ndarray:
        """Whether there is a clip of each name, bool (names,)."""
        return np.fromiter((key is not None for key in self.keys), bool, len(self.keys))


class ClipFolder:
    """Looks up the clips of a folder by the names in split files. Each folder is listed once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder, str(folder)
        folders, files = _list_folder(folder) if folder.is_dir() else ([], [])
        self._names, extensions = set(folders), {name[len(stem(name)) :] for name in folders}
        for name in files:
            start = stem(name)
            if start is not name:
                self._names.add(name)
                extensions.add(name[len(start) :])
        # Of several clips of one stem: the folder of frames, then video files in the order of VIDEO_EXTENSIONS.
        self._extensions = sorted(extensions, key=_preference)
        self._subfolders: dict[str, ClipFolder] = {}

    @functools.cached_property
    def _by_lower_stem(self) -> dict[str, str]:
        names = sorted(self._names, key=lambda name: (*_preference(name[len(stem(name)) :]), name), reverse=True)
        return {stem(name).casefold(): name for name in names}

    def find(self, name: str, ignore_case: bool = False) -> str | None:
        """The path from this folder of the clip that a split file calls `name`, which may have folders; None if absent.

        "x.avi" and "x" are the file x.avi, the folder x of its frames, or another video file such as x.mp4.
        ignore_case: accept a name in another case if there is no exact match.
        """
        whole = name.rstrip("/")
        parent, slash, base = whole.rpartition("/")
        folder = self
        if slash:
            folder = self._subfolders.get(parent)
            if folder is None:
                folder = self._subfolders[parent] = ClipFolder(self.folder / (parent or "/"))
        if base in folder._names:
            return whole
        start = stem(base)
        found = next((start + end for end in folder._extensions if start + end in folder._names), None)
        if found is None and ignore_case:
            found = folder._by_lower_stem.get(start.casefold())
        return f"{parent}/{found}" if found and slash else found

    def locate(self, names: Sequence[str], split: str = "") -> Located:
        """The clips that a split file calls `names`, as `find`; the keys are paths from this folder."""
        keys, start = [self.find(name) for name in names], os.path.join(self.source, "")
        is_as_listed = all(key is name or key is None for key, name in zip(keys, names, strict=True))
        return Located(
            keys,
            lambda: (key and (key if key.startswith("/") else start + key) for key in keys),
            self.source if is_as_listed else None,
        )


def _preference(extension: str) -> tuple[int, str]:
    return _RANKS.get(extension[1:].lower(), -1), extension
