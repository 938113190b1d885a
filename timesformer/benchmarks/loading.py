"""Loading: clips per second compared with other libraries, and a worker's memory."""

import os
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path

from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader

from timesformer.benchmarks.pipelines import OTHERS, SIZE
from timesformer.benchmarks.tables import header, row
from timesformer.benchmarks.timing import CPU, describe_machine, time_in_turn
from timesformer.config import get_cfg
from timesformer.datasets.loader import construct_loader, set_epoch
from timesformer.datasets.sources.clip_files import find_below
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.errors import UserError, counted
from timesformer.runtime.resource_limits import available_cores

OURS = "this project"
BATCH, NUM_FRAMES = 8, 8


def loader_table(
    sets: Mapping[str, Sequence[Path]], folder: Path, workers: Sequence[int], rounds: int, sampling_rate: int
) -> Iterator[str]:
    """Table with rows for each set of clips, and a column for each number of workers.

    The loaders of other libraries are in `pipelines`; all ways are measured in turn, on the same files.
    """
    caption = (
        f"{describe_machine()}; cores: {available_cores()}. Training batches of {BATCH} clips of "
        f"{NUM_FRAMES}x{sampling_rate} frames, {SIZE}x{SIZE} pixels, from files to normalized tensors: clips per "
        f"second (medians of {counted(rounds, 'epoch')} of all ways in turn), and how many times the better one of the "
        "others."
    )
    columns = [counted(number, "worker") if number else "main process, processor time" for number in workers]
    yield from header(caption, ["clips", "way", *columns], text_columns=2)
    for title, paths in sets.items():
        cfg = dataset_of(paths, folder / f"{len(list(folder.glob('*')))}")
        cfg.DATA.SAMPLING_RATE = sampling_rate
        cells: dict[str, list[str]] = {OURS: [], **{way.name: [] for way in OTHERS}}
        for cfg.DATA_LOADER.NUM_WORKERS in workers:
            for way, cell in _compare_loaders(cfg, paths, rounds).items():
                cells[way].append(cell)
        for way, found in cells.items():
            yield row([title, way, *found])


def _compare_loaders(cfg: CfgNode, paths: Sequence[Path], rounds: int) -> dict[str, str]:
    """A cell for each way of loading all clips with DATA_LOADER.NUM_WORKERS."""
    cells, runs = {}, {OURS: _epochs_of_ours(cfg)}
    for way in OTHERS:
        try:
            clips = way(paths, NUM_FRAMES, cfg.DATA.SAMPLING_RATE)
            number = cfg.DATA_LOADER.NUM_WORKERS
            loader = DataLoader(clips, BATCH, shuffle=True, num_workers=number, persistent_workers=number > 0)
            deque(loader, maxlen=0)
        except UserError:
            cells[way.name] = "not installed"
        except Exception as error:  # other libraries raise anything
            cells[way.name] = f"fails ({type(error).__name__})"
        else:
            runs[way.name] = partial(deque, loader, maxlen=0)
    clock = time.perf_counter if cfg.DATA_LOADER.NUM_WORKERS else time.process_time
    seconds = {way: statistics.median(times) for way, times in time_in_turn(runs, rounds, clock=clock).items()}
    cells |= {way: f"{len(paths) / median:.1f}" for way, median in seconds.items()}
    if best := min((median for way, median in seconds.items() if way != OURS), default=0):
        cells[OURS] += f" ({best / seconds[OURS]:.1f}x)"
    return cells


def _epochs_of_ours(cfg: CfgNode) -> Callable[[], None]:
    """A function that loads the next epoch."""
    loader, epochs = construct_loader(cfg, "train"), count()

    def load() -> None:
        set_epoch(loader, next(epochs))
        for batch in loader:
            normalize_clips(batch["clip"], cfg, CPU)

    return load


def sets_of_videos(folders: Sequence[Path], clips: int) -> dict[str, list[Path]]:
    """At most `clips` random videos of each folder; of a file, as many copies."""
    sets = {}
    for folder in folders:
        names = find_below(folder).clips if folder.is_dir() else []
        files = [path for path in map(folder.joinpath, names) if path.is_file()] or [folder] * clips
        sets[folder.name] = random.Random(0).sample(files, min(clips, len(files)))
    return sets


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
                (worker,) = loader.dataset.worker_status.videos()
                yield row([done, f"{resident_memory(worker) / 1e6:.1f}"])
                due = done
        epoch += 1


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
    cfg.TRAIN.BATCH_SIZE, cfg.MODEL.NUM_CLASSES = BATCH, 2
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE = NUM_FRAMES, 32
    return cfg
