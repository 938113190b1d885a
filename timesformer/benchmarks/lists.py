"""Time and memory to open large datasets of every kind; Linux only."""

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from fvcore.common.config import CfgNode

from timesformer.benchmarks.loading import resident_memory
from timesformer.benchmarks.tables import header, row
from timesformer.benchmarks.timing import CPU, describe_machine, run_in_subprocess
from timesformer.byte_ranges import file_status
from timesformer.config import get_cfg
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.sources.shard_index import Shard, write_index
from timesformer.progress import Progress
from timesformer.runtime.device import peak_memory

CLASSES = 400
FRAMES = 12
"""Rows of each clip in the list of frames."""
_SHARDS, _BYTES = 100, 100_000  # number of shards; size of a clip in them
_COLUMNS = ("training clips", "processor time (s)", "elapsed (s)", "listing the folder (s)", "memory (MB)")


class _Kind(NamedTuple):
    """A dataset to open. `listed` is the folder whose clips are looked up, if any."""

    title: str
    cfg: CfgNode
    listed: Path | None = None


class _Clip(NamedTuple):
    """A clip of the set. One of 21 is for validation."""

    number: int
    name: str

    @property
    def label(self) -> int:
        return self.number % CLASSES

    @property
    def split(self) -> str:
        return "val" if self.number // CLASSES % 21 == 20 else "train"


def list_table(folder: Path, clips: int) -> Iterator[str]:
    """Table of the time and memory to open the training split of each kind of dataset, of about `clips` clips.

    The time to list the folder alone is measured in another process, in which nothing else happens.
    """
    caption = (
        f"{describe_machine()}. {clips:,} training clips and {clips // 20:,} validation clips of {CLASSES} classes, "
        "each kind in a fresh process; memory is what opening adds at the peak."
    )
    yield from header(caption, ["dataset", *_COLUMNS])
    with Progress("opening datasets", 16, "dataset") as progress:
        for kind in _kinds(folder, clips + clips // 20):
            listing = run_in_subprocess(_list, kind.listed) if kind.listed else None
            found, seconds, elapsed, memory = run_in_subprocess(_open_split, kind.cfg)
            cells = [f"{seconds:.2f}", f"{elapsed:.2f}", "-" if listing is None else f"{listing:.2f}"]
            yield row([kind.title, f"{found:,}", *cells, f"{memory / 1e6:.0f}"])
            progress.advance()


def _open_split(cfg: CfgNode) -> tuple[int, float, float, int]:
    """Number of training clips, seconds of processor time, seconds, and bytes of memory added at the peak."""
    before, start, start_elapsed = resident_memory(os.getpid()), time.process_time(), time.perf_counter()
    clips = ClipDataset(cfg, "train")
    seconds, elapsed = time.process_time() - start, time.perf_counter() - start_elapsed
    return len(clips), seconds, elapsed, peak_memory(CPU) - before


def _list(folder: Path) -> float:
    """Seconds of processor time to list a folder and all folders in it."""
    start, todo = time.process_time(), [str(folder)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            todo += [entry.path for entry in entries if entry.is_dir()]
    return time.process_time() - start


def _kinds(folder: Path, clips: int) -> Iterator[_Kind]:
    """The datasets, each on disk when it is yielded."""
    yield from _in_class_folders(folder / "classes", clips)
    yield from _official(folder / "official", clips)
    yield from _something(folder / "ssv2", clips)
    yield from _in_shards(folder / "shards", clips)


def _in_class_folders(root: Path, clips: int) -> Iterator[_Kind]:
    made = [_Clip(number, _class_folder(number) + f"{number:011d}_000010_000020.mp4") for number in range(clips)]
    _make(root / "clips", (clip.name for clip in made))
    lists = _write_lists(root, made)
    for title, name in lists.items():
        files = root / "clips"
        data = {"SPLITS_DIR": str(root / name), "PATH_TO_DATA_DIR": str(files), "PATH_PREFIX": str(files)}
        dataset = title.partition(",")[0].strip("`")
        yield _Kind(title, _cfg(dataset, **data), None if title == "`kinetics`, paths" else files)
        if dataset == "folder":
            yield _Kind(title.replace("folder", "hmdb_simp"), _cfg("hmdb_simp", **data), files)
    yield _Kind("`folder`, at random", _cfg("folder", root / "clips", SPLIT_RULE="random"), root / "clips")
    (root / "splits").mkdir()
    (root / "clips").rename(root / "splits/train")
    for label in range(CLASSES):
        (root / "splits/val" / _class_folder(label)).mkdir(parents=True)
    for clip in made:
        if clip.split == "val":
            (root / "splits/train" / clip.name).rename(root / "splits/val" / clip.name)
    yield _Kind("`folder`, folder per split", _cfg("folder", root / "splits"), root / "splits")
    shutil.rmtree(root)


def _write_lists(root: Path, made: list[_Clip]) -> dict[str, str]:
    """Write lists of the clips in class folders; returns their folders by title."""
    for split in ("train", "val"):
        mine = [clip for clip in made if clip.split == split]
        _write(root / f"paths/{split}.csv", (f"{clip.name} {clip.label}" for clip in mine))
        rows = (f"class {clip.label},{os.path.basename(clip.name)[:11]},10,20,{split}" for clip in mine)
        _write(root / f"annotations/{split}.csv", ["label,youtube_id,time_start,time_end,split", *rows])
        rows = (",".join(clip.name.split("/")) for clip in mine)
        _write(root / f"files/{split}.csv", ["class,video_name", *rows])
    subjects = {"train": 1, "val": get_cfg().DATA.VAL_SUBJECTS[0]}
    rows = (f"{clip.name},{clip.label},{subjects[clip.split]},scene" for clip in made)
    _write(root / "muwiges/clips.csv", ["path,label,subject,scene", *rows])
    return {
        "`kinetics`, paths": "paths",
        "`kinetics`, annotations": "annotations",
        "`folder`, `class,video_name`": "files",
        "`muwiges`": "muwiges",
    }


def _official(root: Path, clips: int) -> Iterator[_Kind]:
    """HMDB51 and UCF101: names that have the film of the one and the group of the other."""
    rows = []
    for number in range(clips):
        class_folder, group = _class_folder(number), number // CLASSES // 25
        film = f"{chr(97 + group // 26 % 26)}{chr(97 + group % 26)}_{class_folder[:-1]}_f_cm_np1_fr_med_0"
        rows.append(_Clip(number, f"{class_folder}{film}_g{group:02d}_c{number // CLASSES % 25:02d}.avi"))
    _make(root / "clips", (clip.name for clip in rows))
    _write(root / "ucf/classInd.txt", (f"{label + 1} {_class_folder(label)[:-1]}" for label in range(CLASSES)))
    _write(root / "ucf/trainlist01.txt", (f"{clip.name} {clip.label + 1}" for clip in rows if clip.split == "train"))
    _write(root / "ucf/testlist01.txt", (clip.name for clip in rows if clip.split == "val"))
    for label in range(CLASSES):
        lines = (f"{os.path.basename(clip.name)} {1 + (clip.split == 'val')}" for clip in rows[label::CLASSES])
        _write(root / f"hmdb/{_class_folder(label)[:-1]}_test_split1.txt", lines)
    for dataset, name in {"hmdb51": "hmdb", "ucf101": "ucf"}.items():
        cfg = _cfg(dataset, root / "clips", SPLITS_DIR=str(root / name))
        yield _Kind(f"`{dataset}`", cfg, root / "clips")
    shutil.rmtree(root)


def _something(root: Path, clips: int) -> Iterator[_Kind]:
    made = [_Clip(number, f"{number}.webm") for number in range(clips)]
    _write_something(root, made)
    _make(root / "clips", (clip.name for clip in made))
    cfg = _cfg("ssv2", root, PATH_PREFIX=str(root / "clips"))
    yield _Kind("`ssv2`, videos", cfg, root / "clips")
    for number in range(20):
        (root / f"clips/{number}").mkdir()
    for split in ("train", "val"):
        rows = (
            f'{clip.number} {order} {frame} {clip.number}/{clip.number}_{frame + 1:06d}.jpg ""'
            for order, clip in enumerate(clip for clip in made if clip.split == split)
            for frame in range(FRAMES)
        )
        _write(root / f"{split}.csv", ["original_vido_id video_id frame_id path labels", *rows])
    yield _Kind(f"`ssv2`, list of {FRAMES} frames a clip", cfg)
    shutil.rmtree(root)


def _write_something(root: Path, made: list[_Clip]) -> None:
    labels = {f"Putting something number {label}": str(label) for label in range(CLASSES)}
    _write(root / "labels.json", [json.dumps(labels)])
    for split, name in {"train": "train", "val": "validation"}.items():
        entries = [
            json.dumps(
                {
                    "id": str(clip.number),
                    "label": f"putting thing number {clip.label}",
                    "template": f"Putting [something] number {clip.label}",
                    "placeholders": ["thing"],
                }
            )
            for clip in made
            if clip.split == split
        ]
        _write(root / f"{name}.json", [f"[{', '.join(entries)}]"])


def _in_shards(root: Path, clips: int) -> Iterator[_Kind]:
    """Lists of clips in shards; the shards have an index, and no content."""
    made = [_Clip(number, _class_folder(number) + f"{number:011d}_000010_000020.mp4") for number in range(clips)]
    lists = _write_lists(root / "lists", made)
    _make_shards(root / "shards", made)
    for title, name in lists.items():
        dataset = title.partition(",")[0].strip("`")
        cfg = _cfg(dataset, root / "lists" / name, PATH_PREFIX=str(root / "shards"))
        yield _Kind(f"{title}, in {_SHARDS} shards", cfg)
    made = [_Clip(number, f"{number}.webm") for number in range(clips)]
    _write_something(root / "ssv2", made)
    _make_shards(root / "videos", made)
    cfg = _cfg("ssv2", root / "ssv2", PATH_PREFIX=str(root / "videos"))
    yield _Kind(f"`ssv2`, videos, in {_SHARDS} shards", cfg)
    shutil.rmtree(root)


def _make_shards(folder: Path, made: list[_Clip]) -> None:
    folder.mkdir(parents=True)
    shards = []
    for number in range(_SHARDS):
        path, mine = folder / f"{number:06d}.tar", made[number::_SHARDS]
        with open(path, "wb") as file:
            file.truncate(len(mine) * _BYTES)  # no content, and no space on the disk
        shard = Shard(str(path), *file_status(str(path)))
        for place, clip in enumerate(mine):
            shard.add(clip.name, place * _BYTES + 512, _BYTES - 512)
        shards.append(shard)
    write_index(str(folder), shards)


def _class_folder(number: int) -> str:
    return f"class_{number % CLASSES:03d}/"


def _make(folder: Path, names: Iterable[str]) -> None:
    """Make empty files."""
    parents = set()
    for name in names:
        path = f"{folder}/{name}"
        if (parent := os.path.dirname(path)) not in parents:
            os.makedirs(parent)
            parents.add(parent)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def _cfg(dataset: str, root: Path | None = None, **data: object) -> CfgNode:
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = dataset
    cfg.MODEL.NUM_CLASSES = CLASSES
    if root:
        cfg.DATA.PATH_TO_DATA_DIR = str(root)
    cfg.DATA.update(data)
    return cfg
