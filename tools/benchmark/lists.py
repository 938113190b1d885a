"""Opening the list of a large dataset: processor time and peak memory, each in a fresh process."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from fvcore.common.config import CfgNode

from timesformer.config import get_cfg
from timesformer.datasets.clips import ClipDataset
from tools.benchmark.loading import resident_memory
from tools.benchmark.machine import describe_machine

CLASSES = 400


class Opened(NamedTuple):
    """Training clips of a dataset, seconds of processor time to open it, and the peak memory that this added, bytes."""

    clips: int
    seconds: float
    memory: int


def list_table(folder: Path, clips: int) -> Iterator[str]:
    """Lines of a Markdown table, a row for each kind of list of `clips` clips in 400 classes. Linux only.

    They are made in `folder`: paths and labels in train.csv, and class folders of empty files, split at random.
    """
    yield f"{describe_machine()}. {clips:,} clips of {CLASSES} classes; processor time, and memory added at the peak."
    yield ""
    yield "| list | training clips | seconds | memory (MB) |"
    yield "|---|---:|---:|---:|"
    for title, cfg in (
        ("kinetics, `train.csv`", write_list(folder / "kinetics", clips)),
        ("folder, split at random", write_folders(folder / "folder", clips)),
    ):
        opened = open_apart(cfg)
        yield f"| {title} | {opened.clips:,} | {opened.seconds:.2f} | {opened.memory / 1e6:.0f} |"


def write_list(folder: Path, clips: int) -> CfgNode:
    """Configuration of a Kinetics dataset that lists `clips` videos, of which the first is there."""
    (folder / "clips/class_000").mkdir(parents=True)
    (folder / "clips" / name_of(0)).touch()
    with (folder / "train.csv").open("w") as file:
        file.writelines(f"clips/{name_of(number)} {number % CLASSES}\n" for number in range(clips))
    return _config("kinetics", folder)


def write_folders(folder: Path, clips: int) -> CfgNode:
    """Configuration of a dataset of class folders with `clips` empty files, split at random."""
    for label in range(CLASSES):
        (folder / f"class_{label:03d}").mkdir(parents=True)
    for number in range(clips):
        os.close(os.open(folder / name_of(number), os.O_CREAT | os.O_WRONLY))
    cfg = _config("folder", folder)
    cfg.DATA.SPLIT_RULE = "random"
    return cfg


def name_of(number: int) -> str:
    """Path of a clip, as long as those of Kinetics."""
    return f"class_{number % CLASSES:03d}/{number:010d}_000010_000020.mp4"


def open_apart(cfg: CfgNode) -> Opened:
    """Open the training split in a fresh process, whose peak memory is not that of earlier work."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_open, cfg).result()


def _open(cfg: CfgNode) -> Opened:
    before, start = resident_memory(os.getpid()), time.process_time()
    dataset = ClipDataset(cfg, "train")
    seconds = time.process_time() - start
    return Opened(len(dataset), seconds, resident_memory(os.getpid(), peak=True) - before)


def _config(dataset: str, folder: Path) -> CfgNode:
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = dataset
    cfg.DATA.PATH_TO_DATA_DIR = cfg.DATA.PATH_PREFIX = str(folder)
    cfg.MODEL.NUM_CLASSES = CLASSES
    return cfg
