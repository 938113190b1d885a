"""How clips lie on disk: class folders, clips in them, and the clip that a split file names.

A clip is a video file, known by its extension in upper or lower case, or a folder of frames. Hidden files and folders,
and those that operating systems and storage devices make for themselves, are neither clips nor classes.
"""

import functools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from timesformer.datasets.decoding.containers import VIDEO_EXTENSIONS
from timesformer.datasets.decoding.frame_series import FRAME_EXTENSIONS, is_image_name
from timesformer.datasets.records import SPLITS, DataError
from timesformer.errors import shorten

logger = logging.getLogger(__name__)

KINDS = "video files (such as .mp4, .avi or .mkv; docs/data.md lists all) or folders of frames (.jpg or .png)"
"""What clips are, for messages."""

_ENDINGS = {extension[1:]: rank for rank, extension in enumerate(VIDEO_EXTENSIONS)}
_SYSTEM_NAMES = frozenset(
    {
        "__macosx",  # zip archives made by macOS
        *("network trash folder", "temporary items", "icon\r"),  # macOS on a network drive
        *("$recycle.bin", "system volume information", "found.000"),  # Windows
        *("thumbs.db", "ehthumbs.db", "desktop.ini"),
        "lost+found",  # file systems of Linux
        "lost.dir",  # Android
        *("@eadir", "@tmp", "#recycle", "#snapshot"),  # Synology
        *("@recycle", "@recently-snapshot"),  # QNAP
    }
)


def is_system_name(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or made by the system: never a clip, a class or a list."""
    return name.startswith(".") or name.casefold() in _SYSTEM_NAMES


def is_video_name(name: str) -> bool:
    """Whether `name` ends like a video file."""
    beginning, _, ending = name.rpartition(".")
    return bool(beginning) and ending.lower() in _ENDINGS


def stem(name: str) -> str:
    """`name` without the extension of a video file, if it has one: "a.b.avi" and "a.b" both give "a.b"."""
    beginning, _, ending = name.rpartition(".")
    return beginning if beginning and ending.lower() in _ENDINGS else name


def list_classes(root: Path) -> list[Path]:
    """Class folders in `root`, sorted by name."""
    return sorted(Path(entry.path) for entry in _entries(root) if _is_folder(entry))


def walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Path from `root` with slashes, folders and files of every folder, top down, names sorted; without system names.

    `root` itself is ".". Folders that the caller takes out of the list are not entered. Links to folders are followed,
    except to a folder that the way to the link passes through. Raises DataError where a folder cannot be listed.
    """
    yield from _walk(os.fspath(root), "", frozenset())


def _walk(folder: str, place: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, list[str], list[str]]]:
    facts = os.stat(folder)
    identity = facts.st_dev, facts.st_ino
    if identity in above:
        return
    folders, files = [], []
    for entry in _entries(folder):
        (folders if _is_folder(entry) else files).append(entry.name)
    folders.sort()
    files.sort()
    yield place or ".", folders, files
    for name in folders:
        yield from _walk(os.path.join(folder, name), f"{place}/{name}" if place else name, above | {identity})


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_system_name(entry.name)]
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}; make it readable, or remove it") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


class Found(NamedTuple):
    """What lies below a folder: paths from it, with slashes and sorted.

    clips: video files, and folders of frames.
    skipped: all other files, and folders (with a slash at the end) that were not looked into; no system names.
    """

    clips: list[str]
    skipped: list[str]


def find_below(root: Path, is_class: bool = False) -> Found:
    """Find the clips below a folder, however deep. Raises DataError as `walk`.

    * A folder of frames is a clip: it has images and no video. Folders in it are skipped. (With folders in it, it must
      have two images: a single one is a cover picture.)
    * In a folder with a video, images are skipped.
    * An empty folder that lies as deep as clips do is a clip that lost its frames.

    `root` itself is not a clip.

    is_class: where all clips of the folder lost their frames, they lie in `root`.
    """
    clips, empty, skipped = [], [], []
    for place, folders, files in walk(root):
        beginning = "" if place == "." else f"{place}/"
        videos: list[str] = []
        others: list[str] = []
        for name in files:
            (videos if is_video_name(name) else others).append(name)
        frames = 0 if videos else sum(map(is_image_name, others))
        if place != "." and frames > bool(folders):
            clips.append(place)
            skipped += [f"{beginning}{name}/" for name in folders]
            folders.clear()
            continue
        simple = [name for name in folders if _has_frames_alone(os.path.join(root, place, name))]
        folders[:] = sorted(set(folders).difference(simple))
        clips += [beginning + name for name in (*videos, *simple)]
        skipped += [beginning + name for name in others]
        if not (files or folders or simple) and place != ".":
            empty.append(place)
    depths = {clip.count("/") for clip in clips} or ({0} if is_class else set())
    return Found(sorted([*clips, *(place for place in empty if place.count("/") in depths)]), sorted(skipped))


def _has_frames_alone(folder: str) -> bool:
    """Whether a folder has frames and nothing else, in a third of the time that `walk` takes; False if unknown."""
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    endings = {name.rpartition(".")[2] for name in names}
    return all(f".{ending.lower()}" in FRAME_EXTENSIONS for ending in endings) and not all(map(is_system_name, names))


def clip_names(folder: Path, skipped: list[str] | None = None) -> list[str]:
    """The clips of a class: paths from its folder, sorted, as `find_below` finds them, so subfolders do not matter.

    skipped: gets the paths of what is not a clip, from the folder that the class folder is in.
    """
    found = find_below(folder, is_class=True)
    if skipped is not None:
        skipped += [f"{folder.name}/{name}" for name in found.skipped]
    return found.clips


def class_of(clip: str) -> str:
    """The class of a clip by its path from the dataset's folder: the first folder, or the one in a split's folder."""
    folders = clip.split("/")[:-1]
    if len(folders) > 1 and folders[0] in SPLITS:
        del folders[0]
    return folders[0] if folders else ""


def parent_name(clip: str) -> str:
    """The name of the folder that a clip lies in, by its path."""
    return clip.rpartition("/")[0].rpartition("/")[2]


def skipped_line(skipped: Sequence[str]) -> str:
    """How many files are not clips, and the first of them."""
    what = "1 file is not a clip and is" if len(skipped) == 1 else f"{len(skipped)} files are not clips and are"
    return f"{what} skipped: {shorten(skipped)}"


def report_skipped(root: Path, skipped: Sequence[str]) -> None:
    """Log which files below `root` are not clips, once however often a dataset is opened."""
    if skipped:
        _warn_once(f"{root}: {skipped_line(skipped)}")


def stray_line(strays: Sequence[str]) -> str:
    """How many clips lie in no class folder, and the first of them."""
    return (
        f"{len(strays)} clips lie in no class folder and are not used: {shorten(strays)}; move each into the folder of "
        "its class"
    )


def report_strays(folders: Iterable[Path]) -> None:
    """Log which video files lie in folders of classes, in the same way as `report_skipped`."""
    for folder in folders:
        if strays := sorted(entry.name for entry in _entries(folder) if is_video_name(entry.name) and entry.is_file()):
            _warn_once(f"{folder}: {stray_line(strays)}")


def report_nested(root: Path, nested: Sequence[str]) -> None:
    """Log which clips lie in subfolders of their class folders, in the same way."""
    if nested:
        _warn_once(
            f"{root}: {len(nested)} clips lie in subfolders and belong to the class of the outer folder: "
            f"{shorten(nested)}"
        )


@functools.cache
def _warn_once(line: str) -> None:
    logger.warning("%s", line)


class ClipFolder:
    """The clips of one folder, which is listed once, by the names that split files give them.

    Attributes:
        folder: the folder.
        names: of the video files and of all folders in it, sorted; none where there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        entries = _entries(folder) if folder.is_dir() else []
        self.names = sorted(entry.name for entry in entries if is_video_name(entry.name) or _is_folder(entry))
        self._whole = {name: name for name in self.names}
        self._inside: dict[str, ClipFolder] = {}

    @functools.cached_property
    def _by_stem(self) -> dict[str, str]:
        # Of several clips of one stem: the folder of frames, then video files in the order of VIDEO_EXTENSIONS.
        return {stem(name): name for name in sorted(self.names, key=_preference, reverse=True)}

    @functools.cached_property
    def _by_folded_stem(self) -> dict[str, str]:
        return {name.casefold(): clip for name, clip in self._by_stem.items()}

    def find(self, name: str, fold_case: bool = False) -> str | None:
        """The name here of the clip that a split file calls `name`, or None.

        "x.avi" may lie there as x.avi, as the folder x of its frames, or as x.mp4 made from it; so may "x". A name with
        slashes leads into subfolders.

        fold_case: take a name that differs in upper and lower case, where there is none that does not.
        """
        outer, slash, inner = name.partition("/")
        if slash:
            if outer not in self._whole:
                return None
            if outer not in self._inside:
                self._inside[outer] = ClipFolder(self.folder / outer)
            found = self._inside[outer].find(inner, fold_case)
            return found and f"{outer}/{found}"
        # Not `name` itself: a million of those that are found are in memory already.
        found = self._whole.get(name) or self._by_stem.get(stem(name))
        return found or (self._by_folded_stem.get(stem(name).casefold()) if fold_case else None)


def _preference(name: str) -> tuple[int, str]:
    return (_ENDINGS[name.rpartition(".")[2].lower()] if is_video_name(name) else -1), name
