"""Time to read clips (this project, the original's method, decord, OpenCV), and to crop and normalize them.

A reader is a function of (path, positions, window) that returns the frames with these numbers (non-decreasing) of a
file or a folder of frames as uint8 [T, H, W, 3] RGB. window: length of the clip in frames, for the original's method.
"""

import importlib.metadata
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from timesformer.benchmarks.generated_clips import moving_scene
from timesformer.benchmarks.tables import header, row
from timesformer.benchmarks.timing import describe_machine, one_core, time_in_turn
from timesformer.config import get_cfg
from timesformer.datasets.decoding.open import frame_files, open_video
from timesformer.datasets.transforms import spatial
from timesformer.datasets.transforms.sampling import Uniform, VideoInfo
from timesformer.errors import counted

Reader = Callable[[Path, Sequence[int], int], np.ndarray]
Readers = Mapping[str, Reader]
Clips = Sequence[Sequence[int]]  # positions of the frames of each clip

ORIGINAL = "the original's method"
CLIPS = ((8, 32), (16, 4), (8, 4))  # NUM_FRAMES and SAMPLING_RATE
TOLERANCE = 0.25  # a frame is incorrect if another frame of the file is closer by more than this (levels of 255)
TURN = 5  # clips that one way of cropping makes before the other's turn, so that caches hold its own data
_DATA = get_cfg().DATA
_PACKAGES = {"av", "decord", "opencv-python-headless", "opencv-python", "pillow", "simplejpeg"}


def reader_table(files: Mapping[str, Path], rounds: int, starts: int) -> Iterator[str]:
    """Table with a row for each file and clip: medians over rounds of the same `starts` random clips, on one core."""
    packages = {package.name.lower(): package.version for package in importlib.metadata.distributions()}
    versions = ", ".join(f"{name} {packages[name]}" for name in sorted(_PACKAGES & packages.keys()))
    caption = (
        f"{describe_machine()}, one core; {versions}. Clips per second of processor time, opening the file included, "
        f"and in brackets how many times those of {ORIGINAL}: medians of {counted(rounds, 'round')} of "
        f"{counted(starts, 'clip')} with random starts."
    )
    yield from header(caption, ["file", "clip", *READERS, "largest difference"], text_columns=2)
    with one_core():
        for title, path in files.items():
            reference = thumbnails(path)
            for num_frames, rate in CLIPS:
                rng = np.random.RandomState(0)
                sampler = Uniform(num_frames, rate, start="random")
                clips = [sampler.positions(VideoInfo(len(reference)), rng) for _ in range(starts)]
                cells, difference = compare_readers(path, READERS, clips, num_frames * rate, reference, rounds)
                yield row([title, f"{num_frames}x{rate}", *cells, f"{difference:.1f}"])


def compare_readers(
    path: Path, readers: Readers, clips: Clips, window: int, reference: np.ndarray, rounds: int
) -> tuple[list[str], float]:
    """A cell for each reader, and the largest difference of a correct frame from `reference`, the thumbnails."""
    cells, runs, largest, numbers = {}, {}, 0.0, np.concatenate(clips)
    for name, read in readers.items():
        try:
            frames = [frame for positions in clips for frame in read(path, positions, window)]
            differences = np.stack([np.abs(reference - _thumbnail(frame)).mean(axis=(1, 2, 3)) for frame in frames])
            own = differences[range(len(numbers)), numbers]
        except ImportError:
            cells[name] = "not installed"
        except IsADirectoryError:
            cells[name] = "-"
        except Exception as error:  # other libraries raise anything
            cells[name] = f"fails ({type(error).__name__})"
        else:
            wrong = np.sum(own > differences.min(axis=1) + TOLERANCE)
            cells[name] = f"{wrong} of {len(numbers)} frames wrong"
            if not wrong:
                largest = max(largest, own.max())
                runs[name] = lambda read=read: read_clips(read, path, clips, window)
    seconds = time_in_turn(runs, rounds, clock=time.process_time)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        cells[name] = f"{len(clips) / median:.1f}"
        if ORIGINAL in medians and name != ORIGINAL:
            cells[name] += f" ({medians[ORIGINAL] / median:.1f}x)"
    return list(cells.values()), largest


def read_clips(read: Reader, path: Path, clips: Clips, window: int) -> None:
    """Read clips one after the other, as a DataLoader worker does: each is freed before the next."""
    for positions in clips:
        read(path, positions, window)


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


def _read_window(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
    """Decodes from the key frame before the clip to its end, converts the whole window to RGB, then picks.

    Written after what facebookresearch/TimeSformer does. From a folder it, too, reads only the requested frames.
    """
    if path.is_dir():
        import cv2

        cv2.setNumThreads(1)
        names = sorted(os.listdir(path))
        return np.stack([cv2.cvtColor(cv2.imread(str(path / names[p])), cv2.COLOR_BGR2RGB) for p in positions])
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
                frames.append(frame.to_ndarray(format="rgb24", threads=1))
    return np.stack(frames)[np.subtract(positions, positions[0])]


def _read_decord(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
    import decord

    if path.is_dir():
        raise IsADirectoryError
    return decord.VideoReader(str(path), num_threads=1).get_batch(list(positions)).asnumpy()


def _read_opencv(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
    """Seeks to the first frame and decodes on from there: seeking to each frame takes longer in most files."""
    import cv2

    if path.is_dir():
        raise IsADirectoryError
    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    capture.set(cv2.CAP_PROP_POS_FRAMES, positions[0])
    found = {}
    for number in range(positions[0], positions[-1] + 1):
        capture.grab()
        if number in positions:
            found[number] = cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB)
    return np.stack([found[position] for position in positions])


READERS = {ORIGINAL: _read_window, "this project": _read_ours, "decord": _read_decord, "OpenCV": _read_opencv}


def crop_table(rounds: int) -> Iterator[str]:
    """Table of the time from decoded frames to a normalized clip, in the original's order and in this project's."""
    caption = (
        "Clips of 8 frames of 340x256 pixels, scaled, cropped, in training mirrored half of the time, and normalized, "
        f"in processor time of one core: medians of {counted(rounds, 'round')} of {TURN} clips, both ways in turn."
    )
    columns = ["clip", "whole float frames first (ms)", "this project (ms)", "share"]
    yield from header(caption, [*columns, "largest difference (levels of 255)"])
    frames = np.stack(list(moving_scene(8, 340, 256)))
    low, high, size = *_DATA.TRAIN_JITTER_SCALES, _DATA.TRAIN_CROP_SIZE
    training_name = f"training: short side {low} to {high}, {size}x{size} at random"
    for training, name in ((True, training_name), (False, f"testing: short side {size}, the center")):
        runs = {
            crop: lambda crop=crop, training=training: [crop(frames, training, seed) for seed in range(TURN)]
            for crop in (crop_floats, crop_bytes)
        }
        with one_core():
            seconds = time_in_turn(runs, rounds, clock=time.process_time)
        floats, ours = (statistics.median(times) / TURN for times in seconds.values())
        difference = max(largest_difference(frames, training, seed) for seed in range(TURN))
        yield row([name, f"{1e3 * floats:.1f}", f"{1e3 * ours:.1f}", f"{ours / floats:.2f}", f"{difference:.2f}"])


def largest_difference(frames: np.ndarray, training: bool, seed: int) -> float:
    """Largest difference of a pixel between both orders before normalisation, in levels of 255."""
    difference = crop_bytes(frames, training, seed) - crop_floats(frames, training, seed)
    return float((difference * torch.tensor(_DATA.STD).view(-1, 1, 1, 1) * 255).abs().max())


def crop_bytes(frames: np.ndarray, training: bool, seed: int) -> Tensor:
    """Crops uint8 frames [T, H, W, 3], then normalises, as this project does: float32 [3, T, size, size]."""
    size, rng = _DATA.TRAIN_CROP_SIZE, np.random.RandomState(seed)
    view, scales = (-1, _DATA.TRAIN_JITTER_SCALES) if training else (spatial.CENTER, (size, size))
    clip = spatial.spatial_sampling(torch.from_numpy(frames).permute(0, 3, 1, 2), view, *scales, size, rng)
    return spatial.tensor_normalize(clip.transpose(0, 1).contiguous(), _DATA.MEAN, _DATA.STD)


def crop_floats(frames: np.ndarray, training: bool, seed: int) -> Tensor:
    """The same clip in the order of facebookresearch/TimeSformer: normalise, scale whole frames, then crop."""
    size, rng = _DATA.TRAIN_CROP_SIZE, np.random.RandomState(seed)
    clip = (torch.from_numpy(frames).float() / 255 - torch.tensor(_DATA.MEAN)) / torch.tensor(_DATA.STD)
    clip = clip.permute(3, 0, 1, 2)
    if training:
        clip = spatial.random_short_side_scale_jitter(clip, *_DATA.TRAIN_JITTER_SCALES, rng)
        return spatial.horizontal_flip(spatial.random_crop(clip, size, rng), 0.5, rng).contiguous()
    return spatial.uniform_crop(spatial.resize_short_side(clip, size), size, spatial.CENTER).contiguous()
