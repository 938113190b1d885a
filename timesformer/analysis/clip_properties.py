"""Properties of test clips: length, brightness and motion. They need no model."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from numpy.random import RandomState
from torch import Tensor

from timesformer.atomic import write_text_atomically
from timesformer.datasets.clips import ClipDataset, ClipMaker, clip_rng, make_item, middle_view
from timesformer.datasets.decoding.base import VideoReader
from timesformer.datasets.decoding.open import VideoError
from timesformer.datasets.loader import batch_loader
from timesformer.datasets.records import DatasetSplit, VideoRecord
from timesformer.datasets.workers.dataloader import report_worker_death

_FILE = "clips.csv"
_LUMA = (0.299, 0.587, 0.114)  # of R, G and B, as in ITU-R BT.601


@dataclass(frozen=True)
class ClipProperties:
    """Properties of a test video and of the middle view of it that the model saw; NaN where unknown.

    Attributes:
        frames: of the video.
        seconds: duration of the video.
        brightness: mean luma of the view, 0 to 255.
        motion: mean absolute difference of luma between successive frames of the view, 0 to 255.
    """

    frames: float
    seconds: float
    brightness: float
    motion: float


class _LengthMaker(ClipMaker):
    """Keeps the reader of the last video."""

    reader: VideoReader | None = None

    def open(self, record: VideoRecord) -> VideoReader:
        self.reader = super().open(record)
        return self.reader


class MiddleViews(ClipDataset):
    """The middle view of each test video, as in a test; `lengths` gets frames and seconds of videos that are read."""

    def __init__(self, cfg: CfgNode, found: DatasetSplit) -> None:
        super().__init__(cfg, "test", found)
        self.maker = _LengthMaker(cfg, "test")
        self._view = middle_view(cfg)
        self.lengths = torch.full((len(self.records), 2), math.nan).share_memory_()  # DataLoader workers write to it

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, ...]) -> dict[str, Any]:
        video = key[1] if isinstance(key, tuple) else key
        label = int(self.records.labels[video])
        try:
            clip = self.load_view(video, self._view, clip_rng(self._seed, 0, video, self._view))
        except VideoError as error:
            return make_item(self.maker.padding_clip(), label, video, self._view, False, {video: str(error)})
        return make_item(clip, label, video, self._view, True, {})

    def load_view(self, video: int, view: int, rng: RandomState) -> Tensor:
        clip, reader = super().load_view(video, view, rng), self.maker.reader
        self.lengths[video, 0] = reader.num_frames
        self.lengths[video, 1] = reader.seconds or math.nan
        return clip


def measure_clips(cfg: CfgNode, found: DatasetSplit) -> Iterator[tuple[Tensor, list[str], dict[str, ClipProperties]]]:
    """Yields batches of the middle views of all readable test videos, their names, and their properties by name.

    Clips are uint8 [batch, 3, frames, height, width], as for `Classifier.compute`.
    """
    dataset = MiddleViews(cfg, found)
    loader = batch_loader(cfg, dataset, cfg.TEST.BATCH_SIZE)
    with report_worker_death(loader):
        for batch in loader:
            clips, videos = batch["clip"][batch["readable"]], batch["video"][batch["readable"]]
            if not len(clips):
                continue
            names = [found.records.names[video] for video in videos.tolist()]
            columns = (
                *dataset.lengths[videos].T.tolist(),
                *brightness_and_motion(clips, cfg.DATA.REVERSE_INPUT_CHANNEL),
            )
            rows = (ClipProperties(*row) for row in zip(*columns, strict=True))
            yield clips, names, dict(zip(names, rows, strict=True))


def brightness_and_motion(clips: Tensor, is_bgr: bool = False) -> tuple[list[float], list[float]]:
    """`brightness` and `motion` (see `ClipProperties`) of clips, uint8 [batch, 3, frames, height, width]."""
    weights = torch.tensor(_LUMA[::-1] if is_bgr else _LUMA)
    brightness, motion = [], []
    for clip in clips:  # one by one, to save memory
        luma = torch.einsum("c,cthw->thw", weights, clip.float())
        brightness.append(luma.mean().item())
        motion.append(luma.diff(dim=0).abs().mean().item() if len(luma) > 1 else math.nan)
    return brightness, motion


def write_properties(folder: Path, properties: dict[str, ClipProperties]) -> None:
    """Writes the properties of videos by name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["video", *(field.name for field in fields(ClipProperties))])
    for video, values in properties.items():
        writer.writerow([video, *("" if math.isnan(value) else f"{value:.6g}" for value in astuple(values))])
    write_text_atomically(folder / _FILE, text.getvalue())


def read_properties(folder: Path) -> dict[str, ClipProperties]:
    """What `write_properties` wrote; empty if the file is missing or damaged."""
    try:
        with (folder / _FILE).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
        names: Sequence[str] = [field.name for field in fields(ClipProperties)]
        return {row["video"]: ClipProperties(*(float(row[name] or "nan") for name in names)) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}
