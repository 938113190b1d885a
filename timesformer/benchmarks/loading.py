"""Loading: clips per second by number of DataLoader workers, a worker's memory, and opening large lists."""

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.benchmarks.tables import header, row
from timesformer.benchmarks.timing import CPU, describe_machine, run_in_subprocess
from timesformer.config import get_cfg
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.loader import construct_loader, set_epoch
from timesformer.runtime.device import peak_memory
from timesformer.runtime.resource_limits import available_cores

CLASSES = 400  # of the large lists


def loader_table(
    files: Mapping[str, Path], folder: Path, workers: Sequence[int], rounds: int, clips: int
) -> Iterator[str]:
    """Table with a row for each file, repeated `clips` times, and a column for each number of workers."""
    caption = (
        f"{describe_machine()}; cores: {available_cores()}. Training batches of 8 clips of 8x32 frames, 224x224 "
        f"pixels, from files to uint8 tensors: clips per second, medians of {rounds} epochs of {clips} clips."
    )
    columns = [f"{number} workers" if number else "in the main process" for number in workers]
    yield from header(caption, ["file", *columns])
    for title, path in files.items():
        cfg = dataset_of([path] * clips, folder / path.stem)
        cells = [title]
        for cfg.DATA_LOADER.NUM_WORKERS in workers:
            loader, seconds = construct_loader(cfg, "train"), []
            for epoch in range(rounds + 1):
                set_epoch(loader, epoch)
                start = time.perf_counter()
                loaded = sum(len(batch["clip"]) for batch in loader)
                seconds.append(time.perf_counter() - start)
            cells.append(f"{loaded / statistics.median(seconds[1:]):.0f}")
        yield row(cells)


def memory_table(paths: Sequence[Path], folder: Path, clips: int) -> Iterator[str]:
    """Table of the memory of one DataLoader worker, about 20 times while it loads `clips` clips; Linux only."""
    caption = f"{describe_machine()}. One DataLoader worker, {len(paths)} files; clips of 8x4 frames, 112x112 pixels."
    yield from header(caption, ["clips", "resident memory (MB)"], text_columns=0)
    cfg = dataset_of(paths, folder)
    cfg.DATA.SAMPLING_RATE, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_JITTER_SCALES = 4, 112, [128, 160]
    cfg.DATA_LOADER.NUM_WORKERS = 1
    loader = construct_loader(cfg, "train")
    done = epoch = due = 0
    while done < clips:
        set_epoch(loader, epoch)
        for batch in loader:
            done += len(batch["clip"])
            if done >= due + clips // 20:
                (worker,) = multiprocessing.active_children()
                yield row([done, f"{resident_memory(worker.pid) / 1e6:.1f}"])
                due = done
        epoch += 1


def list_table(folder: Path, clips: int) -> Iterator[str]:
    """Table of the time and memory to open a train.csv, and class folders that are split at random; Linux only."""
    caption = f"{clips:,} clips of {CLASSES} classes; processor time, and memory added at the peak."
    yield from header(f"{describe_machine()}. {caption}", ["list", "training clips", "seconds", "memory (MB)"])
    names = [f"class_{number % CLASSES:03d}/{number:010d}_000010_000020.mp4" for number in range(clips)]
    for label in range(CLASSES):
        (folder / f"clips/class_{label:03d}").mkdir(parents=True)
    for name in names:
        (folder / "clips" / name).touch()
    lines = (f"clips/{name} {number % CLASSES}\n" for number, name in enumerate(names))
    (folder / "train.csv").write_text("".join(lines))
    for title, root in (("kinetics, `train.csv`", folder), ("folder, split at random", folder / "clips")):
        cfg = get_cfg()
        cfg.TRAIN.DATASET, cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.PATH_PREFIX = title.split(",")[0], str(root), str(root)
        cfg.DATA.SPLIT_RULE, cfg.MODEL.NUM_CLASSES = "random", CLASSES
        found, seconds, memory = run_in_subprocess(_open_split, cfg)
        yield row([title, f"{found:,}", f"{seconds:.2f}", f"{memory / 1e6:.0f}"])


def _open_split(cfg: CfgNode) -> tuple[int, float, int]:
    """Number of training clips, seconds of processor time, and bytes of memory added at the peak."""
    before, start = resident_memory(os.getpid()), time.process_time()
    clips = ClipDataset(cfg, "train")
    seconds = time.process_time() - start
    return len(clips), seconds, peak_memory(CPU) - before


def resident_memory(process: int) -> int:
    """Bytes of main memory that a process holds; Linux only."""
    return os.sysconf("SC_PAGE_SIZE") * int(Path(f"/proc/{process}/statm").read_text().split()[1])


def dataset_of(paths: Sequence[Path], folder: Path) -> CfgNode:
    """Configuration whose training split has a record for each path (which may repeat), listed in `folder`."""
    folder.mkdir(parents=True)
    for number, path in enumerate(paths):
        (folder / f"{number}{path.suffix}").symlink_to(path.resolve())
    lines = [f"{number}{path.suffix} {number % 2}" for number, path in enumerate(paths)]
    (folder / "train.csv").write_text("\n".join(lines))
    cfg = get_cfg()
    cfg.TRAIN.DATASET, cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.PATH_PREFIX = "kinetics", str(folder), str(folder)
    cfg.TRAIN.BATCH_SIZE, cfg.MODEL.NUM_CLASSES, cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE = 8, 2, 8, 32
    return cfg
