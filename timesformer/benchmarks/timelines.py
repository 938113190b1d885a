"""Reading the overlapping windows of a long video: in one pass, and each window alone."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from fvcore.common.config import CfgNode

from timesformer.benchmarks.readers import ORIGINAL, READERS
from timesformer.benchmarks.tables import header, row
from timesformer.benchmarks.timing import CPU, describe_machine, one_core, run_in_subprocess, time_in_turn
from timesformer.config import get_cfg
from timesformer.datasets.clips import ClipMaker, clip_rng
from timesformer.datasets.decoding.open import open_video
from timesformer.datasets.transforms.sampling import VideoInfo
from timesformer.errors import counted
from timesformer.localization.window_length import default_window
from timesformer.localization.window_reader import WindowReader
from timesformer.runtime import device

CLIPS = ((8, 32), (16, 4))  # NUM_FRAMES and SAMPLING_RATE
PASS = "one pass"
ALONE = {ORIGINAL: "each alone, decoding all its frames", "this project": "each alone, decoding what it needs"}


def timeline_table(files: Sequence[Path], rounds: int) -> Iterator[str]:
    """Table with a row for each file and clip: windows per second of processor time, half overlapping, on one core."""
    caption = (
        f"{describe_machine()}, one core. Windows per second of processor time, from the file to cropped clips of "
        f"224 x 224 pixels, medians of {counted(rounds, 'round')} in turn; in brackets, how many times as fast one "
        "pass is. Windows have the span of a clip and overlap by half. Peak memory is that of a fresh process "
        "that reads all windows in one pass, PyTorch included."
    )
    columns = ["file", "seconds", "clip", "windows", PASS, *ALONE.values(), "peak memory (MiB)"]
    yield from header(caption, columns, text_columns=3)
    for path in files:
        with open_video(path) as video:
            seconds, fps = video.seconds, video.fps
        for num_frames, rate in CLIPS:
            cfg = dense_options(num_frames, rate)
            window = default_window(cfg, fps)[0]
            number = read_together(cfg, path, window)
            runs: dict[str, Callable[[], object]] = {PASS: partial(read_together, cfg, path, window)}
            runs |= {name: partial(read_alone, name, cfg, path, window) for name in ALONE}
            with one_core():
                times = time_in_turn(runs, rounds, clock=time.process_time)
            medians = {name: statistics.median(found) for name, found in times.items()}
            alone = [f"{number / medians[name]:.1f} ({medians[name] / medians[PASS]:.1f}x)" for name in ALONE]
            memory = run_in_subprocess(peak_memory, cfg, path, window)
            cells = [f"{seconds:.0f}", f"{num_frames}x{rate}", number, f"{number / medians[PASS]:.1f}", *alone]
            yield row([path.name, *cells, f"{memory:.0f}"])


def dense_options(num_frames: int, rate: int) -> CfgNode:
    """Options of a test with one view of this clip."""
    cfg = get_cfg()
    cfg.TEST.NUM_ENSEMBLE_VIEWS = cfg.TEST.NUM_SPATIAL_CROPS = 1
    cfg.DATA.update({"NUM_FRAMES": num_frames, "SAMPLING_RATE": rate, "SAMPLER": "dense"})
    return cfg


def read_together(cfg: CfgNode, path: Path, window: float) -> int:
    """Reads all windows in one pass; returns their number."""
    with WindowReader(cfg, path) as reader:
        return sum(1 for _ in reader.read(window, window / 2))


def read_alone(name: str, cfg: CfgNode, path: Path, window: float) -> None:
    """Reads every window with one of READERS, which opens the file each time, and crops it."""
    maker, rng = ClipMaker(cfg, "test"), clip_rng(0)
    with open_video(path) as video:
        total, fps = video.num_frames, video.fps
    length = min(round(window * fps), total)
    for start in range(0, total - length + 1, max(1, round(length / 2))):
        positions = [start + int(frame) for frame in maker.plan(VideoInfo(length, fps), 0, rng)]
        maker.to_clip(maker.crop(READERS[name](path, positions, length), 0, rng), rng)


def peak_memory(cfg: CfgNode, path: Path, window: float) -> float:
    """Peak memory of this process in MiB after reading all windows."""
    torch.set_num_threads(1)
    read_together(cfg, path, window)
    return device.peak_memory(CPU) / 2**20
