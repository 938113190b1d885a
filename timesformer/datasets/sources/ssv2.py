"""Something-Something V2: the official JSON lists, with lists of frames or with the videos themselves.

Labels, training and validation clips are in something-something-v2-{labels,train,validation}.json, or labels.json,
train.json and validation.json, as newer copies name them. train.csv and val.csv are the lists of frames that
facebookresearch/SlowFast uses; without them, clips are <id>.webm, another video <id>, or the folder <id> of its frames.
"""

import codecs
import functools
import itertools
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.datasets.records import DataError, DatasetSplit, join_problems
from timesformer.datasets.sources.clip_files import Located
from timesformer.datasets.sources.lists import ListedClips, build_split, clip_source, splits_folder

logger = logging.getLogger(__name__)

VIDEO_FOLDER = "20bn-something-something-v2"  # the folder in the official archive

_BLOCK = 4 * 2**20  # bytes of a list that are read together
_LINES_OF_CLIP = re.compile(rb"([^ \n]+ )[^\n]*\n(?:\1[^\n]*\n)*")
_FIRST_LINE = re.compile(rb"([^ \n]+)( [^ \n]+ )(\d+) ([^\n]*?)(\d+)(\.\w+)( [^ \n]*\n)")
_decode = functools.partial(str, encoding=sys.getfilesystemencoding(), errors=sys.getfilesystemencodeerrors())
_FRAME_LIST_HEADER = b"original_vido_id video_id frame_id path labels"  # "vido" is the official spelling


def ssv2(cfg: CfgNode, split: str) -> DatasetSplit:
    """Clips of `split`, named by their ids; the lists are in DATA.SPLITS_DIR, else DATA.PATH_TO_DATA_DIR.

    The test list has no labels, so "test" is the validation list, as in published accuracies. Paths of a list of frames
    start at DATA.PATH_PREFIX; the frames of a clip become one path, `DIR/NAME_%06d.jpg#FIRST-LAST`. Videos are in
    DATA.PATH_PREFIX, else in DATA.PATH_TO_DATA_DIR or its folder 20bn-something-something-v2. Raises DataError.
    """
    folder = splits_folder(cfg)
    class_names = _read_labels(_locate(folder, "labels"))
    number_of = {name: number for number, name in enumerate(class_names)}
    own, other = ("train", "validation") if split == "train" else ("validation", "train")
    listed, opposite = _locate(folder, own), _locate(folder, other)
    labels = _read_list(listed, number_of)
    if opposite.is_file() and (shared := sorted(labels.keys() & _read_list(opposite, number_of).keys())):
        raise join_problems(
            f"{folder}: clips in both {listed.name} and {opposite.name}", shared, "remove them from one"
        )
    if split == "test":
        logger.info("testing on the validation list of Something-Something V2, %s: the test list has no labels", listed)

    frame_list = folder / ("train.csv" if split == "train" else "val.csv")
    if frame_list.is_file():
        paths = _read_frame_list(frame_list, cfg.DATA.PATH_PREFIX)
        if not any(os.path.isdir(os.path.dirname(path)) for path in itertools.islice(paths.values(), 20)):
            raise DataError(
                f"{frame_list}: none of the first clips has frames on disk, e.g. {next(iter(paths.values()))}: "
                "set DATA.PATH_PREFIX to the folder that the paths start from"
            )
        remedy = f"add their frames to {frame_list}, or remove it to use the videos"
        keys = [*map(paths.get, labels)]
        located = Located(keys, lambda: iter(keys))
    else:
        videos = Path(cfg.DATA.PATH_TO_DATA_DIR, VIDEO_FOLDER)
        source = clip_source(cfg, None if cfg.DATA.PATH_PREFIX or not videos.is_dir() else videos)
        located = source.locate([f"{video}.webm" for video in labels], split)._replace(folder=None)
        remedy = (
            f"unpack the videos into {source.source}, or set DATA.PATH_PREFIX to the folder of the videos <id>.webm"
        )
    names = list(labels)
    clips = ListedClips(names, np.fromiter(labels.values(), np.int64), located, lambda row: names[row])
    return build_split(cfg, split, listed, clips, class_names, remedy)


def _locate(folder: Path, name: str) -> Path:
    """The official file of this name, which may not exist."""
    newer = folder / f"{name}.json"
    return newer if newer.is_file() else folder / f"something-something-v2-{name}.json"


def _read_json(path: Path, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    if not path.is_file():
        raise DataError(
            f"{path} not found, nor {path.name.removeprefix('something-something-v2-')}: point DATA.PATH_TO_DATA_DIR "
            "(or DATA.SPLITS_DIR) to the folder of the official label, train and validation JSON files"
        )
    try:
        return json.loads(path.read_bytes(), object_hook=hook)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}): download it again") from error


def _iterate_list(path: Path, hook: Callable[[dict[str, Any]], Any]) -> Iterator[Any]:
    """The entries of a JSON file with a list of objects. Raises DataError as `_read_json`, and for other values."""
    number = 0
    try:
        for block in _read_blocks(path):
            number += len(block := json.loads(block, object_hook=hook))
            yield from block
    except (OSError, ValueError, RecursionError):
        entries = _read_json(path, hook)  # as a whole: another form of JSON, or an error with its place
        if not isinstance(entries, list) or not entries:
            raise DataError(f"{path}: expected a list of clips with an id and a template: download it again") from None
        yield from itertools.islice(entries, number, None)


def _read_blocks(path: Path) -> Iterator[bytes]:
    """The parts of a JSON file with a list of objects, as lists that are not empty; ValueError where it cannot be cut.

    It is cut where a comma follows a brace. Where that is in a string or a nested object, the part is not JSON.
    """
    with open(path, "rb") as file:
        is_list, rest = file.read(1) == b"[", b""
        while is_list and (more := file.read(_BLOCK)):
            part, cut, rest = (rest + more).rpartition(b"},")
            if cut:
                yield b"[%b}]" % part
            elif len(rest) > 2 * _BLOCK:
                break
        rest = rest.strip()
        if file.read(1) or not is_list or rest == b"]":  # a comma in front of it, or an empty list
            raise ValueError("not in the usual form")
        yield b"[" + rest


def _read_labels(path: Path) -> tuple[str, ...]:
    """Class names in label order."""
    found = _read_json(path)
    if not isinstance(found, dict) or sorted(map(str, found.values())) != sorted(map(str, range(len(found)))):
        raise DataError(f"{path}: expected an object of class names and their numbers from 0: download it again")
    return tuple(_without_brackets(name) for name in sorted(found, key=lambda name: int(found[name])))


def _without_brackets(template: str) -> str:
    """The template "Holding [something]" is the label "Holding something"."""
    return template.replace("[", "").replace("]", "")


def _read_list(path: Path, number_of: dict[str, int]) -> dict[str, int]:
    """The label of each clip, by its id."""
    # The hook drops the other three quarters of an entry while the file is read.
    entries = _iterate_list(path, lambda entry: (entry.get("id"), entry.get("template")))
    find = functools.cache(lambda template: number_of.get(_without_brackets(template)))
    labels: dict[str, int] = {}
    problems = []
    for position, entry in enumerate(entries, start=1):
        video, template = entry if isinstance(entry, tuple) else (None, None)
        if not isinstance(video, str | int) or not isinstance(template, str):
            problems.append(f"entry {position}: expected an id and a template")
        elif (number := find(template)) is None:
            problems.append(f"entry {position}: the template {template!r} of clip {video} is not among the labels")
        elif (video := str(video)) in labels:
            problems.append(f"entry {position}: clip {video} is listed twice")
        else:
            labels[video] = number
    if problems:
        raise join_problems(str(path), problems, "take all of these files from the same release")
    return labels


def _read_frame_list(csv: Path, prefix: str) -> dict[str, str]:
    """The numbered frames of each clip, `DIR/NAME_%06d.jpg#FIRST-LAST`, by its id."""
    paths = _read_regular_frame_list(csv, prefix)
    return _read_any_frame_list(csv, prefix) if paths is None else paths


def _read_regular_frame_list(csv: Path, prefix: str) -> dict[str, str] | None:
    """The clips of a list of frames whose lines are all as expected; None for other lists.

    The lines of each clip are written from the first of them, and compared with those in the file.
    """
    paths: dict[str, str] = {}
    start, rest = os.path.join(prefix, ""), b""
    with open(csv, "rb") as file:
        if file.readline().removeprefix(codecs.BOM_UTF8).split() != _FRAME_LIST_HEADER.split():
            return None
        while more := file.read(_BLOCK):
            block, end = rest + more, 0
            for match in _LINES_OF_CLIP.finditer(block):
                if block.find(b"\n", match.end()) < 0:
                    break  # there may be more lines of this clip
                if match.start() != end or not _add_clip(paths, match, start):
                    return None
                end = match.end()
            rest = block[end:]
    last = _LINES_OF_CLIP.fullmatch(rest)
    return paths if last and _add_clip(paths, last, start) else None


def _add_clip(paths: dict[str, str], lines: re.Match[bytes], start: str) -> bool:
    """Add a clip of a regular list of frames by its lines; return False if they are not regular."""
    first = _FIRST_LINE.match(lines[0])
    if first is None:
        return False
    video, clip, frame, head, number, tail, label = first.groups()
    count, width, low = lines[0].count(b"\n"), len(number), int(number)
    expected = _numbered_lines(count, int(frame), low, width).replace(b"\2", tail + label)
    name = _decode(video)
    if lines[0] != expected.replace(b"\1", head).replace(b"\0", video + clip) or name in paths:
        return False
    path = _decode(b"%b%%0%dd%b#%d-%d" % (head, width, tail, low, low + count - 1))
    paths[name] = path if path.startswith("/") else start + path
    return True


@functools.lru_cache(maxsize=4096)
def _numbered_lines(count: int, frame: int, number: int, width: int) -> bytes:
    """Lines of a list of frames, with marks in place of what the lines of a clip have in common."""
    return b"".join(b"\0%d \1%0*d\2" % (frame + row, width, number + row) for row in range(count))


def _read_any_frame_list(csv: Path, prefix: str) -> dict[str, str]:
    """The clips of any list of frames, line by line. Raises DataError."""
    paths: dict[str, str] = {}
    problems: list[str] = []
    with open(csv, "rb") as file:
        header = file.readline().removeprefix(codecs.BOM_UTF8)
        if header.split() != _FRAME_LIST_HEADER.split():
            raise DataError(f"{csv}: its first line is {header!r}, expected {_FRAME_LIST_HEADER.decode()!r} in UTF-8")
        number = 2
        for video, group in groupby(file, lambda line: line.strip().partition(b" ")[0]):
            lines = list(group)
            frames = [line.split(b" ", 3)[-1].rpartition(b" ")[0] for line in lines]
            match = re.fullmatch(rb"(.*?)(\d+)(\.\w+)", frames[0])
            head, first, tail = match.groups() if match else (b"", b"0", b"")
            numbers = range(int(first), int(first) + len(frames))
            expected = [b"%b%0*d%b" % (head, len(first), n, tail) for n in numbers] if match else []
            name = os.fsdecode(video)
            bad = [row for row, (frame, wanted) in enumerate(zip_longest(frames, expected)) if frame != wanted]
            if bad and video:
                wanted = os.fsdecode(expected[bad[0]]) if match else _FRAME_LIST_HEADER.decode()
                found = os.fsdecode(lines[bad[0]]).strip()
                problems.append(f"line {number + bad[0]}: found {found!r}, expected {wanted!r}")
            elif name in paths:
                problems.append(f"line {number}: clip {name} has other frames in earlier lines")
            elif video:
                path = b"%b%%0%dd%b#%d-%d" % (head, len(first), tail, numbers[0], numbers[-1])
                paths[name] = os.path.join(prefix, os.fsdecode(path))
            number += len(lines)
    if problems:
        raise join_problems(str(csv), problems, "download the list again, or remove it to use the videos")
    if not paths:
        raise DataError(f"{csv} has a header but no frames: download it again, or remove it to use the videos")
    return paths
