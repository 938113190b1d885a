"""The whole way from files to batches: clips per second by number of loading processes, and memory over many clips."""

import multiprocessing
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.config import get_cfg
from timesformer.datasets.loader import available_cores, construct_loader, set_epoch
from timesformer.errors import UserError
from tools.benchmark.machine import describe_machine


def loader_table(
    files: Mapping[str, Path], folder: Path, workers: Sequence[int], rounds: int, clips: int
) -> Iterator[str]:
    """Lines of a Markdown table, a row for each file, below a line that says what was measured.

    files: by the name in the table; each makes a dataset of `clips` records, listed in `folder`. workers: numbers of
    loading processes; 0 loads in the main one. Figures are medians over `rounds` epochs, after one to start them.
    """
    yield (
        f"{describe_machine()}; cores: {available_cores()}. Training batches of 8 clips of 8x32 frames, 224x224 "
        f"pixels, from files to uint8 tensors: clips per second, medians of {rounds} epochs of {clips} clips."
    )
    yield ""
    titles = ["in the main process" if number == 0 else f"{number} loading" for number in workers]
    yield f"| file | {' | '.join(titles)} |"
    yield f"|---|{'---:|' * len(workers)}"
    for title, path in files.items():
        cfg = dataset_of([path] * clips, folder / path.stem)
        cells = [f"{clips_per_second(cfg, number, rounds):.0f}" for number in workers]
        yield f"| {title} | {' | '.join(cells)} |"


def clips_per_second(cfg: CfgNode, workers: int, rounds: int) -> float:
    """Median over `rounds` epochs of the training split, after one that is not counted."""
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
    """Lines of a Markdown table: memory of one loading process while it loads `clips` clips of these files. Linux only.

    paths: each is a record of a dataset, listed in `folder`, that is loaded epoch after epoch. A row says what the
    process holds in memory after so many clips; there is one every `every` clips.
    """
    yield f"{describe_machine()}. One loading process, {len(paths)} files; training clips, 8x4 frames, 112x112 pixels."
    yield ""
    yield "| clips | resident memory (MB) |"
    yield "|---:|---:|"
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
                yield f"| {done} | {resident_memory(worker.pid) / 1e6:.1f} |"
                due += every
        epoch += 1


def resident_memory(process: int, peak: bool = False) -> int:
    """Bytes of a process that are in memory; with `peak`, the most so far. UserError where there is no /proc."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        raise UserError(f"{status} is not there, where the memory of a process stands: measure on Linux")
    key = "VmHWM:" if peak else "VmRSS:"
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def dataset_of(paths: Sequence[Path], folder: Path) -> CfgNode:
    """Configuration whose training split has a record for each of `paths`, which may repeat; listed in `folder`."""
    folder.mkdir(parents=True)
    for number, path in enumerate(paths):
        (folder / f"{number}{path.suffix}").symlink_to(path.resolve())
    lines = [f"{number}{path.suffix} {number % 2}" for number, path in enumerate(paths)]
    (folder / "train.csv").write_text("\n".join(lines))
    cfg = get_cfg()
    cfg.TRAIN.DATASET, cfg.TRAIN.BATCH_SIZE = "kinetics", 8
    cfg.DATA.PATH_TO_DATA_DIR = cfg.DATA.PATH_PREFIX = str(folder)
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE = 8, 32
    cfg.MODEL.NUM_CLASSES = 2
    return cfg
