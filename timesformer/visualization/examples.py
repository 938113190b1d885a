"""Test videos worth looking at, most confident errors and least confident correct predictions, with their frames."""

import io
import json
import logging
import math
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode
from PIL import Image

from timesformer.atomic import report_write_errors, write_atomically
from timesformer.datasets.catalog import Splits
from timesformer.datasets.clips import ClipMaker, SampledClip, clip_rng, middle_view
from timesformer.datasets.decoding.open import VideoError
from timesformer.datasets.workers.time_limit import TimeLimit, TookTooLongError
from timesformer.preparation.strips import encode_strip
from timesformer.visualization.run_files import Predictions

logger = logging.getLogger(__name__)

MAX_EXAMPLES = 12  # videos of each kind
_MAX_FRAMES, _HEIGHT = 8, 112  # of a strip; pixels
_INDEX = "frames.json"


@dataclass(frozen=True)
class Strip:
    """Some of the `sampled` frames of a clip side by side, with their numbers and seconds (or None) in the video."""

    jpeg: bytes
    sampled: int
    numbers: list[int]
    times: list[float | None]


def most_confident_errors(predictions: Predictions, among: np.ndarray | bool = True) -> list[int]:
    """Numbers of incorrectly predicted videos, of `among`, bool (videos,), by falling confidence."""
    errors = np.flatnonzero(predictions.readable & ~predictions.correct & among)
    return errors[np.argsort(-predictions.confidence[errors], kind="stable")[:MAX_EXAMPLES]].tolist()


def least_confident_correct(predictions: Predictions) -> list[int]:
    """Numbers of correctly predicted videos by rising confidence."""
    correct = np.flatnonzero(predictions.readable & predictions.correct)
    return correct[np.argsort(predictions.confidence[correct], kind="stable")[:MAX_EXAMPLES]].tolist()


def load_clips(cfg: CfgNode, videos: Iterable[str], splits: Splits | None = None) -> Iterator[tuple[str, SampledClip]]:
    """Names and middle views of test videos, in the order of the split; unreadable and unknown ones are left out."""
    records, maker = (splits or Splits(cfg))["test"].records, ClipMaker(cfg, "test")
    wanted, view = set(videos), middle_view(cfg)
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


def shrink(frames: np.ndarray, height: int = _HEIGHT) -> list[Image.Image]:
    """Frames, uint8 (T, H, W, 3), as images of at most this height in pixels."""
    scale = min(1.0, height / frames.shape[1])
    size = (max(1, round(frames.shape[2] * scale)), max(1, round(frames.shape[1] * scale)))
    return [Image.fromarray(frame).resize(size, Image.Resampling.BOX) for frame in frames]


def make_strip(clip: SampledClip) -> Strip:
    """Up to 8 evenly spaced frames of a clip, shrunk and side by side."""
    total = len(clip.frames)
    chosen = np.linspace(0, total - 1, min(_MAX_FRAMES, total)).round().astype(int).tolist()
    images = shrink(clip.frames[chosen])
    times = [None if math.isnan(clip.times[number]) else round(clip.times[number], 3) for number in chosen]
    return Strip(encode_strip(images), total, [clip.numbers[number] for number in chosen], times)


def write_strips(path: Path, strips: dict[str, Strip]) -> None:
    """Writes strips, by the names of their videos, into a zip archive; WriteError if that fails."""
    file, index = io.BytesIO(), []
    with zipfile.ZipFile(file, "w") as archive:
        for number, (video, strip) in enumerate(strips.items()):
            entry = {"video": video, "file": f"{number:02d}.jpg", **asdict(strip)}
            archive.writestr(entry["file"], entry.pop("jpeg"))
            index.append(entry)
        archive.writestr(_INDEX, json.dumps(index, indent=1))
    with report_write_errors(path):
        write_atomically(path, lambda target: target.write(file.getvalue()))


def read_strips(path: Path) -> dict[str, Strip]:
    """What `write_strips` wrote; empty if the file is missing or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = json.loads(archive.read(_INDEX))
            return {entry.pop("video"): Strip(archive.read(entry.pop("file")), **entry) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return {}
