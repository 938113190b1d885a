"""Test videos worth looking at, the surest mistakes and the least sure hits, with the frames that the model saw."""

import io
import json
import logging
import math
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode
from PIL import Image

from timesformer.atomic import report_write_errors, write_atomically
from timesformer.datasets.catalog import load_split
from timesformer.datasets.clips import ClipMaker, SampledClip, clip_rng, middle_view
from timesformer.datasets.decoding.open import VideoError
from timesformer.datasets.workers.time_limit import TimeLimit, TookTooLongError
from timesformer.visualization.run_files import Predictions

logger = logging.getLogger(__name__)

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
        sampled: frames of the clip, of which those in the picture are evenly spaced.
        numbers: of the frames in the picture, counted in the video from 0.
        times: of them, in seconds from the start of the video; None where that is not known.
    """

    jpeg: bytes
    sampled: int
    numbers: list[int]
    times: list[float | None]


def surest_mistakes(predictions: Predictions, limit: int = SHOWN, among: np.ndarray | None = None) -> list[int]:
    """Numbers of the videos that were taken for a wrong class with the highest probability, the surest first.

    among: bool (videos,), those that may be chosen; None: all.
    """
    wrong = np.flatnonzero(predictions.readable & ~predictions.right & (True if among is None else among))
    return _first(wrong, -predictions.confidence[wrong], limit)


def least_sure_hits(predictions: Predictions, limit: int = SHOWN) -> list[int]:
    """Numbers of the videos that were recognised with the lowest probability, the least sure first."""
    right = np.flatnonzero(predictions.readable & predictions.right)
    return _first(right, predictions.confidence[right], limit)


def clips_of(cfg: CfgNode, videos: Iterable[str]) -> Iterator[tuple[str, SampledClip]]:
    """Names and clips of test videos as the model saw them: the middle crop of the middle one of the clips of each.

    They come in the order of the split. Those that cannot be read any more, or are not in the split, are left out.

    Raises:
        DataError: if the split cannot be found.
    """
    records, maker = load_split(cfg, "test").records, ClipMaker(cfg, "test")
    wanted = set(videos)
    view = middle_view(cfg)
    with closing(TimeLimit(cfg.DATA.DECODE_TIMEOUT)) as in_time:
        for number, name in enumerate(records.names):
            if name not in wanted:
                continue
            record, rng = records[number], clip_rng(cfg.RNG_SEED, 0, number, view)
            try:
                (clip,) = in_time(lambda record=record, rng=rng: maker.make(record, [view], [rng]))
            except (VideoError, TookTooLongError) as error:
                logger.warning("%s cannot be shown: %s", name, error)
            else:
                yield name, clip


def shrunk(frames: np.ndarray, side: int = _SIDE) -> list[Image.Image]:
    """Frames, uint8 (T, H, W, 3), as images of no more than `side` pixels in height."""
    height, width = frames.shape[1:3]
    scale = min(1.0, side / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return [Image.fromarray(frame).resize(size, Image.Resampling.BOX) for frame in frames]


def strip(clip: SampledClip) -> Strip:
    """Up to 8 frames of a clip, evenly spaced, side by side and small."""
    frames = len(clip.frames)
    chosen = np.linspace(0, frames - 1, min(_FRAMES, frames)).round().astype(int).tolist()
    images = shrunk(clip.frames[chosen])
    width, height = images[0].size
    picture = Image.new("RGB", (len(images) * (width + _GAP) - _GAP, height), "white")
    for number, image in enumerate(images):
        picture.paste(image, (number * (width + _GAP), 0))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=82)
    times = [None if math.isnan(clip.times[number]) else round(clip.times[number], 3) for number in chosen]
    return Strip(file.getvalue(), frames, [clip.numbers[number] for number in chosen], times)


def keep_strips(path: Path, strips: dict[str, Strip]) -> None:
    """Writes strips, by the names of their videos, into a zip archive of JPEG files; WriteError if it fails."""
    index = [
        {
            "video": video,
            "file": f"{number:02d}.jpg",
            "sampled": one.sampled,
            "numbers": one.numbers,
            "times": one.times,
        }
        for number, (video, one) in enumerate(strips.items())
    ]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(_INDEX, json.dumps(index, indent=1))
        for entry in index:
            archive.writestr(entry["file"], strips[entry["video"]].jpeg)
    with report_write_errors(path):
        write_atomically(path, lambda target: target.write(file.getvalue()))


def kept_strips(path: Path) -> dict[str, Strip]:
    """What `keep_strips` wrote; empty where there is no such file, or a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                entry["video"]: Strip(
                    archive.read(entry["file"]), int(entry["sampled"]), entry["numbers"], entry["times"]
                )
                for entry in json.loads(archive.read(_INDEX))
            }
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return {}


def _first(numbers: np.ndarray, key: Sequence[float] | np.ndarray, limit: int) -> list[int]:
    return numbers[np.argsort(key, kind="stable")[:limit]].tolist()
