"""Batches of clips in an order that depends on the seed and the epoch alone."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, Sampler, get_worker_info

from timesformer.datasets.clips import PADDING_KEY, ClipDataset, Key
from timesformer.datasets.records import DatasetSplit
from timesformer.datasets.workers.dataloader import SentBatch, WorkerStatus, start_worker
from timesformer.runtime.resource_limits import available_cores


class EpochBatchSampler(Sampler[list[Key]]):
    """Batches of keys (epoch, index, repeat) for one rank; the last batch may be smaller.

    The order is cut into batches for all ranks together, and each batch into equal parts for the ranks, up to one key.
    So the batches of a run do not depend on the number of ranks, and each key is loaded by one rank, once. Shuffled, as
    in training, all ranks have the same number of batches: a rank without a part of the last gets PADDING_KEY.
    Otherwise, as in evaluation, a rank may have one batch less.

    The epoch is part of the keys, because workers outlive an epoch and hold a copy of the dataset.

    `batch_size` counts the keys of all ranks together, and so does the attribute `num_items`, the keys of an epoch.
    With `labels`, int (num_items,), every class is drawn as often as the largest one; else each item once. `start` is
    the first batch of the next iteration; `len` includes those before it.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world_size: int = 1,
        labels: np.ndarray | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}: expected 0 to {world_size - 1}")
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self._items, self._labels = np.arange(num_items), labels
        counts = np.ones(num_items, np.int64) if labels is None else np.bincount(labels)
        self.num_items = int(counts.max() * np.count_nonzero(counts))
        self.epoch = self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch (from 0) of the next iteration, always 0 without shuffling, and its first batch."""
        self.start = start
        if self.shuffle:
            self.epoch = epoch

    def select(self, items: np.ndarray) -> None:
        """Choose the items, int64, of the next iterations; not for `labels`."""
        self._items, self.num_items = items, len(items)

    def __len__(self) -> int:
        return sum(self.shuffle or stop > start for start, stop in self._parts())

    def __iter__(self) -> Iterator[list[Key]]:
        order, repeats = self._order()
        for start, stop in islice(self._parts(), self.start, None):
            indices, times = order[start:stop].tolist(), repeats[start:stop].tolist()
            keys = [(self.epoch, index, repeat) for index, repeat in zip(indices, times, strict=True)]
            if keys or self.shuffle:
                yield keys or [PADDING_KEY]

    @property
    def part_size(self) -> int:
        """Keys of this rank in each batch, except a smaller last one."""
        start, stop = next(self._parts())
        return stop - start

    def indices(self) -> np.ndarray:
        """Return the items of this rank in the epoch, in their order; int64."""
        order, _ = self._order()
        return np.concatenate([order[start:stop] for start, stop in self._parts()])

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Items of an epoch for all ranks, and how often each of them came before."""
        order, repeats = self._items, np.zeros(len(self._items), np.int64)
        rng = np.random.default_rng([self.seed, self.epoch])
        if self._labels is not None:
            order, repeats = _oversample(self._labels, rng)
        if self.shuffle:
            shuffled = rng.permutation(len(order))
            order, repeats = order[shuffled], repeats[shuffled]
        return order, repeats

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Where this rank's part of each batch starts and stops in the order."""
        for start in range(0, self.num_items, self.batch_size):
            size = min(self.batch_size, self.num_items - start)
            yield tuple(start + rank * size // self.world_size for rank in (self.rank, self.rank + 1))


def _oversample(labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Items with every class as often as the largest, each once before any repeats; and how often each came before."""
    by_label = np.argsort(labels, kind="stable")
    classes = np.split(by_label, np.flatnonzero(np.diff(labels[by_label])) + 1)
    largest = max(map(len, classes))
    items = [np.resize(rng.permutation(members), largest) for members in classes]
    repeats = [np.arange(largest) // len(members) for members in classes]
    return np.concatenate(items), np.concatenate(repeats)


def construct_loader(
    cfg: CfgNode, split: str, rank: int = 0, world_size: int = 1, found: DatasetSplit | None = None
) -> DataLoader:
    """Build the DataLoader of a split: "train" is shuffled, "val" and "test" keep the order of the items.

    TRAIN.BATCH_SIZE (TEST.BATCH_SIZE) clips for each of the NUM_SHARDS nodes are a batch of all ranks together; each
    rank gets its part (see EpochBatchSampler). DATA.BALANCE oversample applies to "train".

    Batches are dicts: clip uint8 [batch, 3, frames, height, width], RGB or BGR, not normalized; label, video, view
    int64 [batch]; readable bool [batch]; errors dict, see ClipDataset. In training, a rank without a part of the last
    batch gets one black clip of `video` -1, which must not count.

    `found` is the split, if it was loaded before; else it is found on disk, with DataError if that fails.
    """
    dataset, training = ClipDataset(cfg, split, found), split == "train"
    batch_size = (cfg.TEST.BATCH_SIZE if split == "test" else cfg.TRAIN.BATCH_SIZE) * cfg.NUM_SHARDS
    labels = dataset.records.labels if training and cfg.DATA.BALANCE == "oversample" else None
    return batch_loader(cfg, dataset, batch_size, rank, world_size, training, labels)


def batch_loader(
    cfg: CfgNode,
    dataset: ClipDataset,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    shuffle: bool = False,
    labels: np.ndarray | None = None,
) -> DataLoader:
    """Build the DataLoader of a dataset in the batches of an `EpochBatchSampler` with RNG_SEED and these arguments."""
    workers = min(cfg.DATA_LOADER.NUM_WORKERS, available_cores())  # more would only wait for each other
    dataset.worker_status = WorkerStatus(workers)
    return DataLoader(
        dataset,
        batch_sampler=EpochBatchSampler(len(dataset), batch_size, cfg.RNG_SEED, shuffle, rank, world_size, labels),
        num_workers=workers,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and torch.cuda.is_available(),
        persistent_workers=workers > 0,
        collate_fn=collate,
        worker_init_fn=start_worker,
    )


def set_epoch(loader: DataLoader, epoch: int, start: int = 0) -> None:
    """Choose the epoch (from 0) and first batch of the loader's next iteration; validation and testing stay at 0."""
    loader.batch_sampler.set_epoch(epoch, start)


def collate(items: list[dict[str, Any]]) -> dict[str, Any] | SentBatch:
    """Stack items of a ClipDataset into a batch; in a DataLoader worker, one that is ready to be sent."""
    batch: dict[str, Any] = {"clip": torch.stack([item["clip"] for item in items])}
    for key in ("label", "video", "view"):
        batch[key] = torch.tensor([item[key] for item in items], dtype=torch.int64)
    batch["readable"] = torch.tensor([item["readable"] for item in items])
    batch["errors"] = {video: reason for item in items for video, reason in item["errors"].items()}
    return SentBatch(batch) if get_worker_info() else batch
