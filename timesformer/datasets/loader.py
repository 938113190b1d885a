"""Batches of clips in an order that depends on the seed and the epoch alone."""

import os
import signal
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, Sampler

from timesformer.datasets.clips import ClipDataset


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of keys (epoch, index); shuffled by (seed, epoch) if asked for. The last batch may be smaller.

    The epoch travels in the keys, because worker processes outlive an epoch and hold a copy of the dataset.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int, shuffle: bool) -> None:
        self.num_items, self.batch_size, self.seed, self.shuffle = num_items, batch_size, seed, shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 0) of the next iteration; without shuffling every epoch is epoch 0."""
        if self.shuffle:
            self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_items // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.arange(self.num_items)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        keys = [(self.epoch, int(index)) for index in order]
        for start in range(0, self.num_items, self.batch_size):
            yield keys[start : start + self.batch_size]


def construct_loader(cfg: CfgNode, split: str) -> DataLoader:
    """Loader of a split: "train" is shuffled, "val" and "test" keep the order of records, views and crops.

    Batches are dicts of: clip uint8 (B, 3, T, H, W) RGB, 0..255, not normalised; label, video, view int64 (B,);
    errors, the reasons why videos could not be read, by name of the record (see ClipDataset).

    Raises DataError when the split cannot be found.
    """
    dataset = ClipDataset(cfg, split)
    # More processes than cores only wait for each other; what an item is does not depend on their number.
    workers = min(cfg.DATA_LOADER.NUM_WORKERS, os.cpu_count() or 1)
    batch_size = cfg.TEST.BATCH_SIZE if split == "test" else cfg.TRAIN.BATCH_SIZE
    return DataLoader(
        dataset,
        batch_sampler=EpochBatchSampler(len(dataset), batch_size, cfg.RNG_SEED, shuffle=split == "train"),
        num_workers=workers,
        pin_memory=cfg.DATA_LOADER.PIN_MEMORY and torch.cuda.is_available(),
        persistent_workers=workers > 0,
        collate_fn=collate,
        worker_init_fn=_stop_with_the_main_process,
    )


def _stop_with_the_main_process(worker: int) -> None:
    # Ctrl-C and job schedulers signal the whole process group. A worker that dies of it makes the main process fail
    # with "DataLoader worker was killed" while it stops in good order; it ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.excepthook = _report_unless_cut_off


def _report_unless_cut_off(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:  # what a worker's thread for handing over tensors says when the main process is interrupted meanwhile
    if not issubclass(kind, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


def set_epoch(loader: DataLoader, epoch: int) -> None:
    """Choose the epoch (from 0) of the loader's next iteration; validation and testing stay at epoch 0."""
    loader.batch_sampler.set_epoch(epoch)


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Join items of a ClipDataset into one batch."""
    batch: dict[str, Any] = {"clip": torch.stack([item["clip"] for item in items])}
    for key in ("label", "video", "view"):
        batch[key] = torch.tensor([item[key] for item in items], dtype=torch.int64)
    batch["errors"] = {name: reason for item in items for name, reason in item["errors"].items()}
    return batch
