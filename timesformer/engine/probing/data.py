"""Batches of cached features, for the training and evaluation of heads."""

from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from timesformer.datasets.clips import clip_rng
from timesformer.datasets.loader import EpochBatchSampler
from timesformer.datasets.records import DatasetSplit
from timesformer.datasets.workers.dataloader import WorkerStatus
from timesformer.engine.optim import clips_per_step
from timesformer.engine.unreadable import UnreadableClips
from timesformer.errors import UserError
from timesformer.features.extraction import Features, compute_features


class FeatureDataset(Dataset[dict[str, Any]]):
    """The features of a split, by the keys of a `ClipDataset`; items come in batches.

    In training, the epochs take turns in the views of a clip, and a clip of the same class replaces an unreadable one.
    Batches are those of `construct_loader`, with features, float16 [batch, *shape], as `clip`.
    """

    def __init__(self, cfg: CfgNode, split: str, found: DatasetSplit, features: Features) -> None:
        self.split, self.records, self.class_names = split, found.records, found.class_names
        self.features, self.training = features, split == "train"
        self.num_views = 1 if self.training else features.num_views
        self.worker_status = WorkerStatus(0)
        videos = np.arange(len(self.records))
        self._source = videos  # the video whose features each one has
        if self.training:
            self._source = np.array([self._replacement(cfg.RNG_SEED, video) for video in videos.tolist()])
            self._first_view = np.random.default_rng([cfg.RNG_SEED, 0]).integers(features.num_views, size=len(videos))

    def __len__(self) -> int:
        return len(self.records) * self.num_views

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        return self.__getitems__([key])

    def __getitems__(self, keys: list[tuple[int, int, int]]) -> dict[str, Any]:
        epochs, indices, repeats = np.array(keys).T
        videos, views = np.divmod(indices, self.num_views)
        source, problems = self._source[videos], self.features.problems
        if self.training:
            views = (self._first_view[videos] + epochs + repeats) % self.features.num_views
        columns = {"label": self.records.labels[videos], "video": videos, "view": views}
        errors = {video: problems[video] for video in videos.tolist() if video in problems}
        return {
            "clip": torch.from_numpy(self.features.take(source, views)),
            **{name: torch.from_numpy(column) for name, column in columns.items()},
            "readable": torch.tensor([video not in problems for video in source.tolist()]),
            "errors": errors,
        }

    def _replacement(self, seed: int, video: int) -> int:
        problems = self.features.problems
        if video not in problems:
            return video
        same_class = np.flatnonzero(self.records.labels == self.records.labels[video])
        for other in clip_rng(seed, 0, video, 0).permutation(same_class).tolist():
            if other not in problems:
                return other
        raise UserError(
            f"{problems[video]}; no other clip of its class can replace it. Fix it, or remove it from the split"
        )


def load_features(
    cfg: CfgNode, model: nn.Module, split: str, found: DatasetSplit, unreadable: UnreadableClips
) -> FeatureDataset:
    """The features of a split, computed if necessary; all processes must call this together."""
    unreadable.record_known()
    features = compute_features(cfg, model, split, found, unreadable.record)
    unreadable.exchange()
    return FeatureDataset(cfg, split, found, features)


def feature_loader(cfg: CfgNode, dataset: FeatureDataset, rank: int = 0, world_size: int = 1) -> DataLoader:
    """Batches of an optimizer step, shuffled as in training; in validation and test in the order of the items."""
    labels = dataset.records.labels if dataset.training and cfg.DATA.BALANCE == "oversample" else None
    sampler = EpochBatchSampler(
        len(dataset), clips_per_step(cfg), cfg.RNG_SEED, dataset.training, rank, world_size, labels
    )
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=lambda batch: batch)


@torch.no_grad()
def score_features(model: nn.Module, features: Tensor, cfg: CfgNode, device: torch.device) -> Tensor:
    """Logits, float32 [batch, classes], of features [batch, *shape]."""
    return model.forward_head(features.to(device).float()).float()
