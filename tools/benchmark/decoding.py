"""Clips per second that different readers get out of the same files, after a check that they are the same frames.

Seconds are those of the processor, of all threads: other work on the machine counts less than on the clock.
"""

import itertools
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

from timesformer.datasets.decoding.open import frame_files
from timesformer.datasets.transforms.sampling import Uniform, VideoInfo
from tools.benchmark.machine import describe_machine, one_core
from tools.benchmark.readers import ORIGINAL, NotReadable, Read, versions

CLIPS = ((8, 32), (16, 4), (8, 4))
"""NUM_FRAMES and SAMPLING_RATE of the clips that are read."""

SAME = 0.25
"""Levels of 255 by which another frame must be nearer to count as the one that was returned: between the frames of a
scene that does not move, colours that libraries round differently decide."""


class Answer(NamedTuple):
    """How the frames of a reader compare with those asked for."""

    wrong: int  # frames that are nearer to another frame of the file
    difference: float  # largest mean difference of a frame, in levels of 255


def reader_table(
    files: Mapping[str, Path],
    readers: Mapping[str, Read | None],
    rounds: int,
    starts: int,
    clips: Sequence[tuple[int, int]] = CLIPS,
) -> Iterator[str]:
    """Lines of a Markdown table, a row for each file and clip, below a line that says what was measured.

    files: by the name in the table; readers: see `find_readers`. The same `starts` random clips are read by all
    readers in turn, round after round, on one core; figures are medians over the rounds.
    """
    yield (
        f"{describe_machine()}, one core; {versions()}. Clips per second of processor time, opening the file included, "
        f"and in brackets how many times those of {ORIGINAL}: medians of {rounds} rounds of {starts} clips with random "
        "starts."
    )
    yield ""
    yield f"| file | clip | {' | '.join(readers)} | largest difference |"
    yield f"|---|---|{'---:|' * len(readers)}---:|"
    with one_core():
        for title, path in files.items():
            reference = thumbnails(path)
            for num_frames, rate in clips:
                rng = np.random.RandomState(0)
                sampler = Uniform(num_frames, rate, start="random")
                asked = [sampler.positions(VideoInfo(len(reference)), rng) for _ in range(starts)]
                cells, difference = measure_readers(path, readers, asked, num_frames * rate, reference, rounds)
                yield f"| {title} | {num_frames}x{rate} | {' | '.join(cells)} | {difference:.1f} |"


def measure_readers(
    path: Path,
    readers: Mapping[str, Read | None],
    asked: Sequence[Sequence[int]],
    window: int,
    reference: np.ndarray,
    rounds: int,
) -> tuple[list[str], float]:
    """A cell of the table for each reader, and the largest difference of a frame by those that read the right ones.

    asked: positions of each clip; reference: `thumbnails` of the file. Only readers with the right frames are timed.
    """
    cells: dict[str, str] = {}
    largest = 0.0
    for name, read in readers.items():
        if read is None:
            cells[name] = "not installed"
            continue
        try:
            wrong, difference = check(read, path, asked, window, reference)
        except NotReadable:
            cells[name] = "-"
        except Exception as error:  # whatever other libraries raise
            cells[name] = f"fails ({type(error).__name__})"
        else:
            if wrong:
                cells[name] = f"{wrong} of {sum(map(len, asked))} frames wrong"
            else:
                largest = max(largest, difference)
    timed = {name: read for name, read in readers.items() if read is not None and name not in cells}
    seconds = {name: [0.0] * rounds for name in timed}
    order = random.Random(0)
    for number, positions in itertools.product(range(rounds), asked):
        # In turn, so that whatever slows the machine down meets all alike, and in changing order, as the one before
        # leaves the caches and the free memory to the one after it.
        for name in order.sample(list(timed), len(timed)):
            start = time.process_time()
            timed[name](path, positions, window)
            seconds[name][number] += (time.process_time() - start) / len(asked)
    for name, times in seconds.items():
        cells[name] = f"{1 / statistics.median(times):.1f}"
        if ORIGINAL in seconds and name != ORIGINAL:
            ratios = (before / now for before, now in zip(seconds[ORIGINAL], times, strict=True))
            cells[name] += f" ({statistics.median(ratios):.1f}x)"
    return [cells[name] for name in readers], largest


def check(read: Read, path: Path, asked: Sequence[Sequence[int]], window: int, reference: np.ndarray) -> Answer:
    """Read all clips, and compare each frame with all frames of the file."""
    wrong, largest = 0, 0.0
    for positions in asked:
        for position, frame in zip(positions, read(path, positions, window), strict=True):
            differences = np.abs(reference - _thumbnail(frame)).mean(axis=(1, 2, 3), dtype=np.float32)
            wrong += bool(differences[position] > differences.min() + SAME)
            largest = max(largest, float(differences[position]))
    return Answer(wrong, largest)


def thumbnails(path: Path) -> np.ndarray:
    """All frames, decoded one after the other without seeking, reduced to some of their pixels: int16 (N, h, w, 3)."""
    if path.is_dir():
        return np.stack([_thumbnail(_image(file)) for file in frame_files(path)])
    with av.open(str(path)) as container:
        return np.stack([_thumbnail(_upright(frame)) for frame in container.decode(video=0)])


def _image(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def _upright(frame: av.VideoFrame) -> np.ndarray:
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    step = max(1, min(frame.shape[:2]) // 64)
    return frame[::step, ::step].astype(np.int16)
