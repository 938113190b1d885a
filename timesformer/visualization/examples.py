"""Test videos worth looking at, the surest mistakes and the least sure hits, with the frames that the model saw."""

import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode
from PIL import Image

from timesformer.atomic import explained_failure, write_atomically
from timesformer.datasets.clips import ClipDataset
from timesformer.visualization.run_files import Predictions

SHOWN = 12
"""Videos of each kind."""

_FRAMES = 8  # of a clip, in a strip
_SIDE = 112  # pixels
_GAP = 2
_INDEX = "frames.json"


@dataclass(frozen=True)
class Strip:
    """Frames of a clip side by side.

    Attributes:
        jpeg: the picture.
        count: frames in it.
        sampled: frames of the clip, of which those in the picture are evenly spaced.
    """

    jpeg: bytes
    count: int
    sampled: int


def surest_mistakes(predictions: Predictions, limit: int = SHOWN) -> list[int]:
    """Numbers of the videos that were taken for a wrong class with the highest probability, the surest first."""
    wrong = np.flatnonzero(predictions.readable & ~predictions.right)
    return _first(wrong, -predictions.confidence[wrong], limit)


def least_sure_hits(predictions: Predictions, limit: int = SHOWN) -> list[int]:
    """Numbers of the videos that were recognised with the lowest probability, the least sure first."""
    right = np.flatnonzero(predictions.readable & predictions.right)
    return _first(right, predictions.confidence[right], limit)


def clips_of(cfg: CfgNode, videos: Iterable[str]) -> dict[str, np.ndarray]:
    """Frames of test videos as the model saw them, uint8 (T, H, W, 3) RGB, by name.

    It is the middle crop of the middle one of the clips that the test takes of a video. Those that cannot be read any
    more, or are not in the split, are left out.

    Raises:
        DataError: if the split cannot be found.
    """
    dataset = ClipDataset(cfg, "test")
    wanted = set(videos)
    numbers = {name: number for number, name in enumerate(dataset.records.names) if name in wanted}
    clips = dataset.num_views // dataset.num_crops
    view = clips // 2 * dataset.num_crops + dataset.num_crops // 2
    found = {}
    for name, number in numbers.items():
        item = dataset[number * dataset.num_views + view]
        if item["readable"]:
            clip = item["clip"].flip(0) if cfg.DATA.REVERSE_INPUT_CHANNEL else item["clip"]
            found[name] = clip.permute(1, 2, 3, 0).numpy()
    return found


def shrunk(frames: np.ndarray, side: int = _SIDE) -> list[Image.Image]:
    """Frames, uint8 (T, H, W, 3), as images of no more than `side` pixels in height."""
    height, width = frames.shape[1:3]
    scale = min(1.0, side / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return [Image.fromarray(frame).resize(size, Image.Resampling.BOX) for frame in frames]


def strip(frames: np.ndarray) -> Strip:
    """Up to 8 of the frames, uint8 (T, H, W, 3), evenly spaced, side by side and small."""
    chosen = np.linspace(0, len(frames) - 1, min(_FRAMES, len(frames))).round().astype(int)
    images = shrunk(frames[chosen])
    width, height = images[0].size
    picture = Image.new("RGB", (len(images) * (width + _GAP) - _GAP, height), "white")
    for number, image in enumerate(images):
        picture.paste(image, (number * (width + _GAP), 0))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=82)
    return Strip(file.getvalue(), len(images), len(frames))


def keep_strips(path: Path, strips: dict[str, Strip]) -> None:
    """Writes strips, by the names of their videos, into a zip archive of JPEG files; WriteError if it fails."""
    index = [
        {"video": video, "file": f"{number:02d}.jpg", "count": one.count, "sampled": one.sampled}
        for number, (video, one) in enumerate(strips.items())
    ]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_INDEX, json.dumps(index, indent=1))
        for entry in index:
            archive.writestr(entry["file"], strips[entry["video"]].jpeg)
    with explained_failure(path):
        write_atomically(path, lambda target: target.write(file.getvalue()))


def kept_strips(path: Path) -> dict[str, Strip]:
    """What `keep_strips` wrote; empty where there is no such file, or a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                entry["video"]: Strip(archive.read(entry["file"]), int(entry["count"]), int(entry["sampled"]))
                for entry in json.loads(archive.read(_INDEX))
            }
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return {}


def _first(numbers: np.ndarray, key: Sequence[float] | np.ndarray, limit: int) -> list[int]:
    return numbers[np.argsort(key, kind="stable")[:limit]].tolist()
