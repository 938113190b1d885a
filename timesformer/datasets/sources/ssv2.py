"""Something-Something V2: the official JSON lists, with lists of frames or with the videos themselves.

Labels, training and validation clips are in something-something-v2-{labels,train,validation}.json, or labels.json,
train.json and validation.json, as they are called in newer copies. train.csv and val.csv are the lists of frames that
facebookresearch/SlowFast uses; without them, clips are <id>.webm, a video made of it, or the folder <id> of its frames.
"""

import codecs
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from tqdm import tqdm

from timesformer.datasets.records import DataError, DatasetSplit, Records, join_problems
from timesformer.datasets.sources.clip_files import ClipFolder
from timesformer.datasets.sources.lists import check_training, leave_out, require_utf8, splits_folder

logger = logging.getLogger(__name__)

VIDEO_FOLDER = "20bn-something-something-v2"  # what the official archive unpacks to

_FRAME_LIST = ("original_vido_id", "video_id", "frame_id", "path", "labels")  # "vido": so it is spelt there


def ssv2(cfg: CfgNode, split: str) -> DatasetSplit:
    """Find the clips of `split`; the lists are in DATA.SPLITS_DIR, else DATA.PATH_TO_DATA_DIR.

    The test is the validation list, as in published accuracies: the test list has no labels. Paths of a list of frames
    start at DATA.PATH_PREFIX; the videos are there, else in DATA.PATH_TO_DATA_DIR or its folder
    20bn-something-something-v2. The frames of a clip become one path, `DIR/NAME_%06d.jpg#FIRST-LAST`; they are not
    looked for on disk, but for those of the first clips. A clip is called by its id. Classes are in the order of their
    official numbers. Raises DataError.
    """
    folder = splits_folder(cfg)
    class_names = _read_labels(_locate(folder, "labels"))
    number_of = {name: number for number, name in enumerate(class_names)}
    own, other = ("train", "validation") if split == "train" else ("validation", "train")
    listed = _locate(folder, own)
    labels = _read_list(listed, number_of)
    if (opposite := _locate(folder, other)).is_file() and (
        shared := sorted(labels.keys() & _read_list(opposite, number_of).keys())
    ):
        raise join_problems(
            f"{folder}: clips in both {listed.name} and {opposite.name}", shared, "take them out of one"
        )
    if split == "test":
        logger.info("the test of Something-Something V2 is its validation list, %s: test labels are not in use", listed)

    frame_list = folder / ("train.csv" if split == "train" else "val.csv")
    if frame_list.is_file():
        paths = _read_frame_list(frame_list, cfg.DATA.PATH_PREFIX)
        if paths and not any(os.path.isdir(os.path.dirname(path)) for path in list(paths.values())[:20]):
            raise DataError(
                f"{frame_list}: none of the first clips' frames is there, e.g. {next(iter(paths.values()))}: "
                "set DATA.PATH_PREFIX to the folder that the paths start from"
            )
        remedy = f"add their frames to {frame_list}, or remove it to use the videos"
    else:
        root = Path(cfg.DATA.PATH_PREFIX or cfg.DATA.PATH_TO_DATA_DIR)
        if not cfg.DATA.PATH_PREFIX and (root / VIDEO_FOLDER).is_dir():
            root /= VIDEO_FOLDER
        clips = ClipFolder(root)
        found = {video: clips.find(f"{video}.webm") for video in labels}
        paths = {video: str(root / name) for video, name in found.items() if name}
        remedy = f"unpack the videos into {root}, or set DATA.PATH_PREFIX to the folder of the videos <id>.webm"
    missing = [video for video in labels if video not in paths]
    leave_out(cfg, listed, missing, len(labels), remedy)
    there = [video for video in labels if video in paths]
    numbers = np.array([labels[video] for video in there])
    if split == "train":
        check_training(listed, class_names, numbers.tolist())
    return DatasetSplit(Records(there, numbers, (paths[video] for video in there)), class_names)


def _locate(folder: Path, name: str) -> Path:
    """The official file of this name, whether it is there or not."""
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
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg}): download it again") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: download it again") from error
    except RecursionError as error:
        raise DataError(f"{path}: nested more deeply than such a file ever is: download it again") from error


def _read_labels(path: Path) -> tuple[str, ...]:
    """Names of the classes in the order of their numbers."""
    found = _read_json(path)
    if not isinstance(found, dict) or sorted(map(str, found.values())) != sorted(map(str, range(len(found)))):
        raise DataError(
            f"{path}: expected an object of one class name and its number, from 0, for each class: download it again"
        )
    return tuple(_template(name) for name in sorted(found, key=lambda name: int(found[name])))


def _template(text: str) -> str:
    """A template as it stands among the labels: "Holding [something]" is called "Holding something" there."""
    return text.replace("[", "").replace("]", "")


def _read_list(path: Path, number_of: dict[str, int]) -> dict[str, int]:
    """The number of the class of each clip, by its id."""
    # The other three quarters of an entry are let go while the file is read.
    entries = _read_json(path, lambda entry: (entry.get("id"), entry.get("template")))
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: expected a list of clips with an id and a template: download it again")
    labels: dict[str, int] = {}
    problems = []
    for place, entry in enumerate(entries, start=1):
        video, template = entry if isinstance(entry, tuple) else (None, None)
        number = number_of.get(_template(template)) if isinstance(template, str) else None
        if not isinstance(video, str | int) or template is None:
            problems.append(f"entry {place}: expected an id and a template")
        elif number is None:
            problems.append(f"entry {place}: the template {template!r} of clip {video} is not among the labels")
        elif str(video) in labels:
            problems.append(f"entry {place}: clip {video} stands there twice")
        else:
            labels[str(video)] = number
    if problems:
        raise join_problems(str(path), problems, "take all of these files from the same release")
    return labels


def _read_frame_list(csv: Path, prefix: str) -> dict[str, str]:
    """The numbered frames of each clip, `DIR/NAME_%06d.jpg#FIRST-LAST`, by its id."""
    paths: dict[str, str] = {}
    problems: list[str] = []
    video, head, width, tail, first, last, expected = b"", b"", 0, b"", 0, 0, b""

    def finish() -> None:
        if video:
            path = os.fsdecode(b"%b%%0%dd%b#%d-%d" % (head, width, tail, first, last))
            paths[os.fsdecode(video)] = os.path.join(prefix, path)

    require_utf8(csv)
    with (
        open(csv, "rb") as file,
        tqdm(total=csv.stat().st_size, unit="B", unit_scale=True, desc=csv.name, disable=None, leave=False) as bar,
    ):
        if tuple(os.fsdecode(file.readline().removeprefix(codecs.BOM_UTF8)).split()) != _FRAME_LIST:
            raise DataError(f"{csv}, line 1: expected the header '{' '.join(_FRAME_LIST)}'")
        for number, line in enumerate(file, start=2):
            fields = line.split(b" ", 3)
            path = fields[3].rpartition(b" ")[0] if len(fields) == 4 else b""
            if path == expected and fields[0] == video:
                last += 1
            elif match := re.fullmatch(rb"(.*?)(\d+)(\.\w+)", path):
                if fields[0] == video:
                    problems.append(_wrong(number, line, expected))
                else:
                    finish()
                    bar.update(file.tell() - bar.n)
                    video, first = fields[0], int(match[2])
                    if (name := os.fsdecode(video)) in paths:
                        problems.append(f"line {number}: more frames of clip {name}, which has others before")
                head, width, tail, last = match[1], len(match[2]), match[3], int(match[2])
            elif line.strip():
                problems.append(_wrong(number, line))
            expected = b"%b%0*d%b" % (head, width, last + 1, tail)
    finish()
    if problems:
        raise join_problems(str(csv), problems, "download the list again, or remove it to use the videos")
    if not paths:
        raise DataError(f"{csv} has a header but no frames: download it again, or remove it to use the videos")
    return paths


def _wrong(number: int, line: bytes, expected: bytes = b"") -> str:
    wanted = f"the next frame, {os.fsdecode(expected)}" if expected else f"'{' '.join(_FRAME_LIST)}', blank separated"
    return f"line {number}: found {os.fsdecode(line).strip()!r}, expected {wanted}"
