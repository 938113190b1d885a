"""The augmented clips of a training before it runs, and the frames of the videos that they are made of."""

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import torch
from fvcore.common.config import CfgNode
from numpy.random import RandomState
from torch.utils.data import DataLoader

from timesformer.datasets.clips import ClipDataset, SampledClip, as_video_error, clip_rng
from timesformer.datasets.decoding.open import VideoError
from timesformer.datasets.loader import collate, set_epoch
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.datasets.workers.time_limit import TimeLimit, TookTooLongError
from timesformer.engine.loss import ClipMixup
from timesformer.features.keys import view_seed


@dataclass(frozen=True)
class Draw:
    """A clip as the training sees it in an epoch (with FEATURES.ENABLED: a cached view), and the frames of the video.

    `original` is uint8 [frames, height, width, 3], RGB: the whole frame that each frame of the clip is made of.
    """

    label: str
    clip: SampledClip
    original: np.ndarray


@dataclass
class PreviewVideo:
    """A training video with several draws, or the `problem` why it cannot be read; `seconds` is 0 if unknown."""

    name: str
    class_name: str
    num_frames: int = 0
    seconds: float = 0.0
    draws: list[Draw] = field(default_factory=list)
    problem: str = ""


@dataclass(frozen=True)
class MixedClip:
    """A clip after Mixup or CutMix, with numbers from 0 and no times, and its classes with their probabilities."""

    clip: SampledClip
    label: list[tuple[str, float]]


def choose_videos(loader: DataLoader, number: int) -> list[int]:
    """Numbers of the first videos of the first epoch, of as many classes as possible."""
    set_epoch(loader, 0)
    order = list(dict.fromkeys(loader.batch_sampler.indices().tolist()))
    labels = loader.dataset.records.labels
    first = {}
    for video in order:
        first.setdefault(int(labels[video]), video)
    chosen = list(first.values())
    return (chosen + [video for video in order if video not in set(chosen)])[:number]


def load_draws(cfg: CfgNode, dataset: ClipDataset, videos: Sequence[int], draws: int) -> Iterator[PreviewVideo]:
    """The clips of training videos in the first `draws` epochs, or the first cached views with FEATURES.ENABLED.

    With DATA.DRAW_ONCE, there is one clip of each.
    """
    with closing(TimeLimit(cfg.DATA.DECODE_TIMEOUT)) as in_time:
        for number in videos:
            shown = PreviewVideo(dataset.records.names[number], dataset.class_names[dataset.records.labels[number]])
            try:
                in_time(lambda number=number, shown=shown: _load(cfg, dataset, number, draws, shown))
            except (VideoError, TookTooLongError) as error:
                shown.problem = str(error) or f"decoding took longer than {cfg.DATA.DECODE_TIMEOUT:g} seconds"
            yield shown


def _load(cfg: CfgNode, dataset: ClipDataset, number: int, draws: int, shown: PreviewVideo) -> None:
    record = dataset.records[number]
    if record.problem:
        raise VideoError(f"{record.path}: {record.problem}")
    made = [dataset.maker.make(record, [0], [rng])[0] for rng in _generators(cfg, record.name, number, draws)]
    with as_video_error(record.path):
        reader = dataset.maker.open(record)
    with reader:
        shown.num_frames, shown.seconds = reader.num_frames, reader.seconds
        for index, clip in enumerate(made, start=1):
            with as_video_error(record.path):
                original = reader.read(clip.numbers)
            label = f"{'view' if cfg.FEATURES.ENABLED else 'epoch'} {index}"
            shown.draws.append(Draw("every epoch" if cfg.DATA.DRAW_ONCE else label, clip, original))


def _generators(cfg: CfgNode, name: str, number: int, draws: int) -> list[RandomState]:
    if cfg.FEATURES.ENABLED:
        views = range(min(draws, cfg.FEATURES.NUM_VIEWS))
        return [clip_rng(*view_seed(cfg.FEATURES.SEED, name, view)) for view in views]
    epochs = 1 if cfg.DATA.DRAW_ONCE else min(draws, cfg.SOLVER.MAX_EPOCH)
    return [clip_rng(cfg.RNG_SEED, epoch, number, 0) for epoch in range(epochs)]


def load_mixed(cfg: CfgNode, loader: DataLoader, number: int) -> list[MixedClip]:
    """The first clips of the first batch after Mixup and CutMix, as one process trains on them; [] without MIXUP."""
    if not cfg.MIXUP.ENABLED:
        return []
    set_epoch(loader, 0)
    batch = collate([loader.dataset[key] for key in next(iter(loader.batch_sampler))])
    clips, labels = ClipMixup(cfg)(normalize_clips(batch["clip"], cfg, torch.device("cpu")), batch["label"], 0, 0)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (cfg.DATA.MEAN, cfg.DATA.STD))
    pixels = ((clips[:number] * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    names, frames = loader.dataset.class_names, range(pixels.shape[2])
    times = (math.nan,) * len(frames)
    mixed = []
    for clip, probabilities in zip(pixels, labels, strict=False):
        best = probabilities.topk(min(2, len(names)))
        label = [(names[n], p) for n, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
        mixed.append(MixedClip(SampledClip.of(clip, tuple(frames), times, 0, cfg.DATA.REVERSE_INPUT_CHANNEL), label))
    return mixed
