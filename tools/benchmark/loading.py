"""Loading: clips per second by number of DataLoader workers, a worker's memory, and opening large lists."""

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.config import get_cfg
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.loader import construct_loader, set_epoch
from timesformer.errors import UserError
from timesformer.runtime.resource_limits import available_cores
from tools.benchmark.tables import header, row
from tools.benchmark.timing import describe_machine, run_in_subprocess

CLASSES = 400
"""Of the large lists."""


def loader_table(
    files: Mapping[str, Path], folder: Path, workers: Sequence[int], rounds: int, clips: int
) -> Iterator[str]:
    """Table with a row for each file and a column for each number of workers (0: the main process).

    Each file makes a dataset of `clips` records, listed in `folder`; medians over epochs, after one to warm up.
    """
    yield (
        f"{describe_machine()}; cores: {available_cores()}. Training batches of 8 clips of 8x32 frames, 224x224 "
        f"pixels, from files to uint8 tensors: clips per second, medians of {rounds} epochs of {clips} clips."
    )
    yield ""
    yield from header(["file", *(f"{number} workers" if number else "in the main process" for number in workers)])
    for title, path in files.items():
        cfg = dataset_of([path] * clips, folder / path.stem)
        yield row([title, *(f"{_clips_per_second(cfg, number, rounds):.0f}" for number in workers)])


def _clips_per_second(cfg: CfgNode, workers: int, rounds: int) -> float:
    cfg.DATA_LOADER.NUM_WORKERS = workers
    loader = construct_loader(cfg, "train")
    rates = []
    for epoch in range(rounds + 1):
        set_epoch(loader, epoch)
        start = time.perf_counter()
        clips = sum(len(batch["clip"]) for batch in loader)
        rates.append(clips / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def memory_table(paths: Sequence[Path], folder: Path, clips: int, every: int) -> Iterator[str]:
    """Table of the memory of one DataLoader worker, a row for every `every` of `clips` clips; Linux only.

    The files are the records of a dataset, listed in `folder`, that is loaded epoch after epoch.
    """
    yield f"{describe_machine()}. One DataLoader worker, {len(paths)} files; clips of 8x4 frames, 112x112 pixels."
    yield ""
    yield from header(["clips", "resident memory (MB)"], text_columns=0)
    cfg = dataset_of(paths, folder)
    cfg.DATA.SAMPLING_RATE, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_JITTER_SCALES = 4, 112, [128, 160]
    cfg.DATA_LOADER.NUM_WORKERS = 1
    loader = construct_loader(cfg, "train")
    done, epoch, due = 0, 0, every
    while done < clips:
        set_epoch(loader, epoch)
        for batch in loader:
            done += len(batch["clip"])
            if done >= due:
                (worker,) = multiprocessing.active_children()
                yield row([done, f"{resident_memory(worker.pid) / 1e6:.1f}"])
                due += every
        epoch += 1


def list_table(folder: Path, clips: int) -> Iterator[str]:
    """Table of the time and memory to open lists of `clips` clips, written to `folder`; Linux only.

    One is a train.csv, the other class folders of empty files that are split at random.
    """
    yield f"{describe_machine()}. {clips:,} clips of {CLASSES} classes; processor time, and memory added at the peak."
    yield ""
    yield from header(["list", "training clips", "seconds", "memory (MB)"])
    names = [f"class_{number % CLASSES:03d}/{number:010d}_000010_000020.mp4" for number in range(clips)]
    for label in range(CLASSES):
        (folder / f"clips/class_{label:03d}").mkdir(parents=True)
    for name in names:
        os.close(os.open(folder / "clips" / name, os.O_CREAT | os.O_WRONLY))
    lines = (f"clips/{name} {number % CLASSES}\n" for number, name in enumerate(names))
    (folder / "train.csv").write_text("".join(lines))
    for title, dataset, root in (
        ("kinetics, `train.csv`", "kinetics", folder),
        ("folder, split at random", "folder", folder / "clips"),
    ):
        cfg = _config(dataset, root)
        cfg.DATA.SPLIT_RULE, cfg.MODEL.NUM_CLASSES = "random", CLASSES
        found, seconds, memory = run_in_subprocess(title, _open_split, cfg)
        yield row([title, f"{found:,}", f"{seconds:.2f}", f"{memory / 1e6:.0f}"])


def _open_split(cfg: CfgNode) -> tuple[int, float, int]:
    """Number of training clips, seconds of processor time, and bytes of memory added at the peak."""
    before, start = resident_memory(os.getpid()), time.process_time()
    clips = ClipDataset(cfg, "train")
    seconds = time.process_time() - start
    return len(clips), seconds, resident_memory(os.getpid(), peak=True) - before


def resident_memory(process: int, peak: bool = False) -> int:
    """Bytes of main memory that a process holds, or has held at most; UserError without /proc."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        raise UserError(f"{status} not found: the memory of a process is measured on Linux only")
    key = "VmHWM:" if peak else "VmRSS:"
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def dataset_of(paths: Sequence[Path], folder: Path) -> CfgNode:
    """Configuration whose training split has a record for each path (which may repeat), listed in `folder`."""
    folder.mkdir(parents=True)
    for number, path in enumerate(paths):
        (folder / f"{number}{path.suffix}").symlink_to(path.resolve())
    lines = [f"{number}{path.suffix} {number % 2}" for number, path in enumerate(paths)]
    (folder / "train.csv").write_text("\n".join(lines))
    cfg = _config("kinetics", folder)
    cfg.TRAIN.BATCH_SIZE, cfg.MODEL.NUM_CLASSES = 8, 2
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE = 8, 32
    return cfg


def _config(dataset: str, folder: Path) -> CfgNode:
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = dataset
    cfg.DATA.PATH_TO_DATA_DIR = cfg.DATA.PATH_PREFIX = str(folder)
    return cfg
