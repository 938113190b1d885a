"""Ways to read some frames of a video that are measured side by side: this project's, the original's, other libraries'.

Each is a function of (path, positions, window): it opens the file or folder, and returns the frames of these numbers
(rising, some perhaps equal) as uint8 (T, H, W, 3) RGB. window: frames from the first position on that the clip spans,
which only the original's method looks at. All decode with one thread.
"""

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import torch

from timesformer.datasets.decoding.open import frame_files, open_video

Read = Callable[[Path, Sequence[int], int], np.ndarray]

ORIGINAL = "the original's method"


def find_readers() -> dict[str, Read | None]:
    """The readers by name, None where the library is not installed; first the one that others are compared with."""
    decord, cv2 = _library("decord"), _library("cv2")
    if cv2:
        cv2.setNumThreads(1)
    return {
        ORIGINAL: lambda *clip: _convert_whole_window(cv2, *clip),
        "this project": _this_project,
        "decord": decord and (lambda *clip: _decord(decord, *clip)),
        "OpenCV": cv2 and (lambda *clip: _opencv(cv2, *clip)),
    }


def versions() -> str:
    """Of the libraries that decode, those that are installed."""
    packages = ("av", "decord", "opencv-python-headless", "opencv-python", "pillow")
    installed = []
    for package in packages:
        try:
            installed.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(installed)


class NotReadable(Exception):
    """A reader that has no way to read what it was given."""


def _this_project(path: Path, positions: Sequence[int], window: int) -> np.ndarray:
    with open_video(path) as reader:
        return reader.read(positions)


def _convert_whole_window(cv2: ModuleType | None, path: Path, positions: Sequence[int], window: int) -> np.ndarray:
    """Decode from the key frame before the window to its end, convert every frame of it, then pick.

    Written anew after what facebookresearch/TimeSformer does. From a folder it, too, reads only the frames asked for,
    by OpenCV.
    """
    if path.is_dir():
        return _opencv_images(cv2, path, positions)
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        step = 1 / (stream.average_rate * stream.time_base)  # of the time stamps, from one frame to the next
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


def _decord(decord: ModuleType, path: Path, positions: Sequence[int], window: int) -> np.ndarray:
    _needs_file(path)
    return decord.VideoReader(str(path), num_threads=1).get_batch(list(positions)).asnumpy()


def _opencv(cv2: ModuleType, path: Path, positions: Sequence[int], window: int) -> np.ndarray:
    """Seek to the first frame, and decode on from there: seeking to each takes longer in most files."""
    _needs_file(path)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    capture.set(cv2.CAP_PROP_POS_FRAMES, positions[0])
    found, last = {}, positions[0] - 1
    for number in sorted(set(positions)):
        for _ in range(last + 1, number):
            capture.grab()
        last = number
        found[number] = capture.read()[1]
    capture.release()
    return np.stack([cv2.cvtColor(found[position], cv2.COLOR_BGR2RGB) for position in positions])


def _opencv_images(cv2: ModuleType | None, folder: Path, positions: Sequence[int]) -> np.ndarray:
    if cv2 is None:
        raise NotReadable("OpenCV is not installed")
    files = frame_files(folder)
    found = {number: cv2.cvtColor(cv2.imread(str(files[number])), cv2.COLOR_BGR2RGB) for number in set(positions)}
    return np.stack([found[position] for position in positions])


def _needs_file(path: Path) -> None:
    if path.is_dir():
        raise NotReadable(f"{path} is a folder of frames")


def _library(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # OSError: a library that it needs is missing
        return None
