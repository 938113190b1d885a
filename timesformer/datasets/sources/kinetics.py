"""Kinetics, and any list of paths and labels: train.csv, val.csv and test.csv.

The lists have lines `path<separator>label`, or are Kinetics' annotation files with a header.
"""

import functools
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.datasets.records import DataError, DatasetSplit, MissingSplitError, Records, join_problems
from timesformer.datasets.sources import lists
from timesformer.datasets.sources.clip_files import Located, stem, walk
from timesformer.datasets.sources.shards import ShardClips, open_shards
from timesformer.errors import shorten

logger = logging.getLogger(__name__)

_PATH_HEADERS = frozenset({"path", "video", "video_name", "video_path", "file", "filename", "name", "clip"})
_ANNOTATION_COLUMNS = ("youtube_id", "time_start", "time_end")


def kinetics(cfg: CfgNode, split: str) -> DatasetSplit:
    """Clips of the list of `split` in DATA.SPLITS_DIR, else DATA.PATH_TO_DATA_DIR (datasets/kinetics/README.md).

    Raises DataError for a missing list, a bad line, a repeated video, and a training video that is also in validation
    or testing. Only the first videos of a list of paths are looked up on disk.
    """
    folder = lists.splits_folder(cfg)
    files = lists.split_files(folder)
    if split not in files:
        raise MissingSplitError(
            f"{folder / f'{split}.csv'} not found: write it, or set DATA.PATH_TO_DATA_DIR (or DATA.SPLITS_DIR) to the "
            "folder of train.csv, val.csv and test.csv"
        )
    return (_from_annotations if _is_annotation(files[split]) else _from_paths)(cfg, split, files)


def _is_annotation(path: Path) -> bool:
    return set(_ANNOTATION_COLUMNS) <= set(lists.split_cells(lists.first_line(path)))


def _from_paths(cfg: CfgNode, split: str, files: dict[str, Path]) -> DatasetSplit:
    class_names = lists.read_class_names(files[split].parent)
    splits = {name: _read_paths(path, cfg, class_names or ()) for name, path in files.items()}
    mine = splits[split]
    texts = set(mine.labels)
    # Without classes.txt, labels that are mostly no numbers are class names.
    if class_names is None and sum(map(str.isdecimal, texts)) < len(texts) / 2:
        if len(texts) > cfg.MODEL.NUM_CLASSES:
            raise DataError(
                f"{mine.path}: {len(texts)} labels ({shorten(sorted(texts))}), but MODEL.NUM_CLASSES is "
                f"{cfg.MODEL.NUM_CLASSES}: set DATA.PATH_LABEL_SEPARATOR or MODEL.NUM_CLASSES to match the file"
            )
        class_names = tuple(sorted(texts.union(*(clips.labels for clips in splits.values()))))
        numbers = {name: label for label, name in enumerate(class_names)}
    else:
        class_names = class_names or tuple(map(str, range(cfg.MODEL.NUM_CLASSES)))
        numbers = lists.number_labels(mine.path, (), class_names)
    keys = {name: [*map(_normalize, clips.names)] for name, clips in splits.items()}
    expected = f"expected 0 to {len(class_names) - 1} (MODEL.NUM_CLASSES), or a name in classes.txt"
    for name, clips in splits.items():
        problems = []
        if not (all(clips.names) and numbers.keys() >= set(clips.labels)):
            problems = [
                f"line {line}: found the path {path!r} and the label {text!r}, {expected}"
                for line, path, text in zip(clips.lines, clips.names, clips.labels, strict=True)
                if not path or text not in numbers
            ]
        if problems := problems + lists.find_repeats(clips, lambda name=name: keys[name]):
            remedy = "fix these lines, or set DATA.PATH_LABEL_SEPARATOR or MODEL.NUM_CLASSES to match the file"
            raise join_problems(str(clips.path), problems, remedy)
    lists.refuse_shared(split, keys, splits)

    labels = np.fromiter(map(numbers.__getitem__, mine.labels), np.int64)
    if shards := open_shards(cfg):
        located = shards.locate(mine.names, split)
        clips = lists.ListedClips(mine.names, labels, located, lambda row: f"line {mine.lines[row]}: {mine.names[row]}")
        remedy = f"add them to the shards {shards.source}, or set DATA.PATH_PREFIX to other shards"
        return DatasetSplit(lists.records_on_disk(cfg, mine.path, clips, remedy), class_names)
    records = Records(mine.names, labels, folder=cfg.DATA.PATH_PREFIX)
    if not any(os.path.exists(records[number].path) for number in range(min(20, len(records)))):
        raise DataError(
            f"{mine.path}: none of its first videos exists, e.g. {records[0].path}: set DATA.PATH_PREFIX to the folder "
            f"of the paths, or, if the path is cut, DATA.PATH_LABEL_SEPARATOR (now {cfg.DATA.PATH_LABEL_SEPARATOR!r})"
        )
    return DatasetSplit(records, class_names)


def _read_paths(path: Path, cfg: CfgNode, class_names: tuple[str, ...]) -> lists.ClipList:
    """Read lines `path<separator>label`; the path is empty without a separator."""
    separator = cfg.DATA.PATH_LABEL_SEPARATOR
    clips, is_first = lists.ClipList.empty(path), True
    for number, line in lists.iterate_lines(path):
        name, _, label = line.rpartition(separator)
        name, label = _unquote(name), _clean_label(label)
        is_header = is_first and name.lower() in _PATH_HEADERS
        is_first = False
        if is_header and not label.lstrip("-").isdecimal() and label not in class_names:
            logger.info("%s, line %d: %r is taken as a header", path, number, line)
            continue
        clips.add(number, name, label)
    if not clips.names:
        raise DataError(f"{path} has a header but no videos: expected one line `path{separator}label` per video")
    return clips


def _unquote(text: str) -> str:
    text = text.strip()
    # Spreadsheets quote cells with commas.
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text


@functools.lru_cache(maxsize=4096)
def _clean_label(text: str) -> str:
    text = _unquote(text)
    return str(int(text)) if text.isdecimal() else text


def _normalize(path: str) -> str:
    return os.path.normpath(path) if "./" in path or "//" in path or path.endswith("/") else path


def _from_annotations(cfg: CfgNode, split: str, files: dict[str, Path]) -> DatasetSplit:
    """Clips of Kinetics' annotation files, found by their names `<youtube_id>_<start>_<end>` in any subfolder."""
    annotated = {name: path for name, path in files.items() if _is_annotation(path)}
    labelled = {name: path for name, path in annotated.items() if "label" in lists.split_cells(lists.first_line(path))}
    if split not in labelled:
        raise MissingSplitError(f"{files[split]} has no labels: to test on the validation list, copy that to test.csv")
    splits = {name: _read_annotations(path) for name, path in labelled.items()}
    mine = splits[split]
    texts = set().union(*(clips.labels for clips in splits.values()))
    class_names = lists.read_class_names(mine.path.parent) or tuple(sorted(texts))
    numbers = lists.number_labels(mine.path, texts, class_names)
    lists.refuse_shared(split, {name: clips.names for name, clips in splits.items()}, splits)

    shards = open_shards(cfg)
    root = shards.source if shards else lists.clips_folder(cfg)
    found = _find_by_name(mine.names, _clips_in_shards(shards) if shards else _clips_below(root))
    located = Located(found, lambda: (path and f"{root}/{path}" for path in found), str(root))
    if shards:
        located = shards.locate([path or name for path, name in zip(found, mine.names, strict=True)], split)
    labels = np.fromiter(map(numbers.__getitem__, mine.labels), np.int64)
    clips = lists.ListedClips(found, labels, located, lambda row: f"line {mine.lines[row]}: {mine.names[row]}")
    remedy = f"download these clips to {root}, or set DATA.PATH_PREFIX to the folder of the clips"
    return lists.build_split(cfg, split, mine.path, clips, class_names, remedy)


def _find_by_name(names: Sequence[str], clips: Iterable[tuple[str, str]]) -> list[str | None]:
    """The first path of each of the unique names, among the names and paths of `clips`."""
    found: list[str | None] = [None] * len(names)
    row_of = dict(zip(names, range(len(names)), strict=True))
    for name, path in clips:
        row = row_of.pop(name, None)
        if row is not None:
            found[row] = path
    return found


def _read_annotations(path: Path) -> lists.ClipList:
    clips, problems = lists.ClipList.empty(path), []
    add = clips.add
    for number, (video, start, end, label) in lists.read_table(path, (*_ANNOTATION_COLUMNS, "label"), problems):
        try:
            name = video + _format_times(start, end)
        except (ValueError, OverflowError):
            problems.append(f"line {number}: time_start {start!r} and time_end {end!r}, expected seconds")
            continue
        add(number, name, label)
    if repeats := lists.find_repeats(clips, lambda: clips.names):
        raise join_problems(str(path), repeats, "remove one of each two lines")
    return clips


@functools.lru_cache(maxsize=65536)
def _format_times(start: str, end: str) -> str:
    """Whole seconds as in the name of a clip. Raises ValueError or OverflowError if they are no numbers."""
    return f"_{int(float(start)):06d}_{int(float(end)):06d}"


def _clips_in_shards(shards: ShardClips) -> Iterator[tuple[str, str]]:
    """Names, without folders and extension, and paths of all clips."""
    return ((stem(path.rpartition("/")[2]), path) for path in shards.names)


def _clips_below(root: Path) -> Iterator[tuple[str, str]]:
    """Names and paths from `root` of the clips below it: video files, and folders with the name of a clip."""
    for folder, subfolders, files in walk(root):
        frames = {name for name in subfolders if _is_clip_name(name)}
        subfolders[:] = [name for name in subfolders if name not in frames]
        prefix = "" if folder == "." else f"{folder}/"
        for file in sorted([*frames, *files]):
            name = stem(file)
            if name is not file or file in frames:
                yield name, prefix + file


def _is_clip_name(name: str) -> bool:
    """Whether a folder is named like a clip, `<youtube_id>_<start>_<end>`, and not like a class."""
    _, start, end = ("__" + name).rsplit("_", 2)
    return len(start) == len(end) == 6 and start.isdecimal() and end.isdecimal()
