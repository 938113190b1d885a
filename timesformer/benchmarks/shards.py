"""Clips per second from tar shards, compared with single files."""

import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.benchmarks.tables import header, row
from timesformer.benchmarks.timing import describe_machine, time_in_turn
from timesformer.config import get_cfg
from timesformer.datasets.clips import ClipDataset
from timesformer.errors import counted
from timesformer.preparation.shards import write_shards

_SHARD = 20_000_000  # bytes


def shard_table(files: Mapping[str, Path], folder: Path, rounds: int, clips: int) -> Iterator[str]:
    """Table with a row for each file, copied `clips` times; processor time of the main process."""
    caption = (
        f"{describe_machine()}. Training clips of 8x8 frames, 112x112 pixels, in the main process; clips per second of "
        f"processor time, medians of {counted(rounds, 'round')} of {counted(clips, 'clip')} in turn. Ratio: shards to "
        "files in a round."
    )
    yield from header(caption, ["file", "single files", "shards", "ratio"])
    for title, path in files.items():
        source = folder / path.name
        for number in range(clips):
            target = source / f"train/{number % 2}" / f"{number:04d}{path.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, target)
        single, shards = _configuration(source), folder / f"{path.name}_shards"
        write_shards(single, shards, _SHARD)
        datasets = {"files": ClipDataset(single, "train"), "shards": ClipDataset(_configuration(shards), "train")}
        runs = {name: lambda dataset=dataset: _load(dataset, clips) for name, dataset in datasets.items()}
        seconds = time_in_turn(runs, rounds, clock=time.process_time)
        rates = [f"{clips / statistics.median(seconds[name]):.0f}" for name in datasets]
        ratio = statistics.median(a / b for a, b in zip(seconds["files"], seconds["shards"], strict=True))
        yield row([title, *rates, f"{ratio:.2f}"])


def _configuration(folder: Path) -> CfgNode:
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "folder"
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(folder), 2
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE = 8, 8
    cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_JITTER_SCALES = 112, [128, 160]
    return cfg


def _load(dataset: ClipDataset, clips: int) -> None:
    for index in range(clips):
        if not dataset[0, index]["readable"]:
            raise RuntimeError(f"clip {index} is unreadable")
