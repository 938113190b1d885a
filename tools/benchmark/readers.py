"""Clips per second of video readers: this project's, the original's method, decord and OpenCV.

A reader is a function of (path, positions, window). It opens a file or a folder of frames and returns the frames with
these numbers (non-decreasing) as uint8 [T, H, W, 3] RGB, decoding with one thread. window: length of the clip in
frames, which only the original's method uses. Readers are timed only if they return the correct frames.
"""

import importlib
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import torch
from PIL import Image

from timesformer.datasets.decoding.open import frame_files, open_video
from timesformer.datasets.transforms.sampling import Uniform, VideoInfo
from tools.benchmark.tables import header, row
from tools.benchmark.timing import describe_machine, one_core, speedups, time_in_turn

Reader = Callable[[Path, Sequence[int], int], np.ndarray]

ORIGINAL = "the original's method"
CLIPS = ((8, 32), (16, 4), (8, 4))
"""NUM_FRAMES and SAMPLING_RATE of the clips."""
TOLERANCE = 0.25
"""A frame is incorrect if another frame of the file is closer by more than this (levels of 255)."""
_PACKAGES = ("av", "decord", "opencv-python-headless", "opencv-python", "pillow")


class NotReadable(Exception):
    """The reader does not support this kind of input."""


def find_readers() -> dict[str, Reader | None]:
    """The readers by name, the baseline first; None if the library is not installed."""
    decord, cv2 = _import("decord"), _import("cv2")
    if cv2:
        cv2.setNumThreads(1)
    return {
        ORIGINAL: partial(_read_window, cv2),
        "this project": _read_ours,
        "decord": decord and partial(_read_decord, decord),
        "OpenCV": cv2 and partial(_read_opencv, cv2),
    }


def reader_table(
    files: Mapping[str, Path], readers: Mapping[str, Reader | None], rounds: int, starts: int
) -> Iterator[str]:
    """Table with a row for each file and clip: medians over rounds of the same `starts` random clips, on one core."""
    installed = {name.lower() for names in importlib.metadata.packages_distributions().values() for name in names}
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES if name in installed)
    yield (
        f"{describe_machine()}, one core; {versions}. Clips per second of processor time, opening the file included, "
        f"and in brackets how many times those of {ORIGINAL}: medians of {rounds} rounds of {starts} clips with random "
        "starts."
    )
    yield ""
    yield from header(["file", "clip", *readers, "largest difference"], text_columns=2)
    with one_core():
        for title, path in files.items():
            reference = thumbnails(path)
            for num_frames, rate in CLIPS:
                rng = np.random.RandomState(0)
                sampler = Uniform(num_frames, rate, start="random")
                clips = [sampler.positions(VideoInfo(len(reference)), rng) for _ in range(starts)]
                cells, difference = compare_readers(path, readers, clips, num_frames * rate, reference, rounds)
                yield row([title, f"{num_frames}x{rate}", *cells, f"{difference:.1f}"])


def compare_readers(
    path: Path,
    readers: Mapping[str, Reader | None],
    clips: Sequence[Sequence[int]],
    window: int,
    reference: np.ndarray,
    rounds: int,
) -> tuple[list[str], float]:
    """A table cell for each reader, and the largest difference of a correct frame, in levels of 255.

    clips: positions of the frames of each clip; reference: `thumbnails` of the file.
    """
    cells: dict[str, str] = {}
    largest = 0.0
    for name, read in readers.items():
        if read is None:
            cells[name] = "not installed"
            continue
        try:
            wrong, difference = check_reader(read, path, clips, window, reference)
        except NotReadable:
            cells[name] = "-"
        except Exception as error:  # other libraries raise anything
            cells[name] = f"fails ({type(error).__name__})"
        else:
            if wrong:
                cells[name] = f"{wrong} of {sum(map(len, clips))} frames wrong"
            else:
                largest = max(largest, difference)
    runs = {
        name: lambda read=read: [read(path, positions, window) for positions in clips]
        for name, read in readers.items()
        if name not in cells
    }
    seconds = time_in_turn(runs, rounds, clock=time.process_time)
    for name, times in seconds.items():
        cells[name] = f"{len(clips) / statistics.median(times):.1f}"
        if ORIGINAL in seconds and name != ORIGINAL:
            cells[name] += f" ({statistics.median(speedups(seconds[ORIGINAL], times)):.1f}x)"
    return [cells[name] for name in readers], largest


def check_reader(
    read: Reader, path: Path, clips: Sequence[Sequence[int]], window: int, reference: np.ndarray
) -> tuple[int, float]:
    """Number of incorrect frames, and the largest mean difference of a frame from the reference, in levels of 255."""
    wrong, largest = 0, 0.0
    for positions in clips:
        for position, frame in zip(positions, read(path, positions, window), strict=True):
            differences = np.abs(reference - _thumbnail(frame)).mean(axis=(1, 2, 3), dtype=np.float32)
            wrong += bool(differences[position] > differences.min() + TOLERANCE)
            largest = max(largest, float(differences[position]))
    return wrong, largest


def thumbnails(path: Path) -> np.ndarray:
    """All frames, decoded without seeking and subsampled: int16 [N, h, w, 3]."""
    if path.is_dir():
        return np.stack([_thumbnail(np.asarray(Image.open(file).convert("RGB"))) for file in frame_files(path)])
    with av.open(str(path)) as container:
        frames = ((frame.to_ndarray(format="rgb24"), frame.rotation) for frame in container.decode(video=0))
        return np.stack([_thumbnail(np.rot90(pixels, round(rotation / 90))) for pixels, rotation in frames])


def _thumbnail(frame: np.ndarray) -> np.ndarray:
    step = max(1, min(frame.shape[:2]) // 64)
    return frame[::step, ::step].astype(np.int16)


def _read_ours(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
    with open_video(path) as reader:
        return reader.read(positions)


def _read_window(cv2: ModuleType | None, path: Path, positions: Sequence[int], window: int) -> np.ndarray:
    """Decodes from the key frame before the clip to its end, converts the whole window to RGB, then picks.

    Written after what facebookresearch/TimeSformer does. From a folder it, too, reads only the requested frames.
    """
    if path.is_dir():
        if cv2 is None:
            raise NotReadable
        files = frame_files(path)
        return np.stack([cv2.cvtColor(cv2.imread(str(files[p])), cv2.COLOR_BGR2RGB) for p in positions])
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        step = 1 / (stream.average_rate * stream.time_base)  # in time stamps, from one frame to the next
        begin = stream.start_time or 0
        container.seek(begin + int(positions[0] * step), stream=stream)
        for frame in container.decode(stream):
            number = round((frame.pts - begin) / step)
            if number >= positions[0] + window:
                break
            if number >= positions[0]:
                frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24", threads=1)))
    picked = torch.tensor([position - positions[0] for position in positions])
    return torch.stack(frames).index_select(0, picked).numpy()


def _read_decord(decord: ModuleType, path: Path, positions: Sequence[int], window: int) -> np.ndarray:
    if path.is_dir():
        raise NotReadable
    return decord.VideoReader(str(path), num_threads=1).get_batch(list(positions)).asnumpy()


def _read_opencv(cv2: ModuleType, path: Path, positions: Sequence[int], window: int) -> np.ndarray:
    """Seeks to the first frame and decodes on from there: seeking to each frame takes longer in most files."""
    if path.is_dir():
        raise NotReadable
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    capture.set(cv2.CAP_PROP_POS_FRAMES, positions[0])
    found = {}
    for number in range(positions[0], positions[-1] + 1):
        if number in positions:
            found[number] = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
        else:
            capture.grab()
    capture.release()
    return np.stack([found[position] for position in positions])


def _import(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError):  # not installed, or a shared library is missing
        return None
