"""Batches: the same for any number of workers and ranks, shuffled by seed and epoch, complete, balanced."""

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode

from timesformer.datasets import loader as loader_module
from timesformer.datasets.clips import PADDING_KEY
from timesformer.datasets.loader import EpochBatchSampler, construct_loader, set_epoch


def batches(cfg, split, epochs=(0,)):
    loader = construct_loader(cfg, split)
    return [set_epoch(loader, epoch) or list(loader) for epoch in epochs]


def items(cfg: CfgNode, split: str, world_size: int = 1) -> list[tuple]:
    """Every item of two epochs of the loaders of all ranks: epoch, index and repeat, and its values."""
    found = []
    for rank in range(world_size):
        loader = construct_loader(cfg, split, rank, world_size)
        for epoch in (0, 1):
            set_epoch(loader, epoch)
            for batch, keys in zip(loader, loader.batch_sampler, strict=True):
                values = zip(*(batch[k].tolist() for k in ("clip", "label", "video", "view", "readable")), strict=True)
                found += [pair for pair in zip(keys, values, strict=True) if pair[0] != PADDING_KEY]
    return sorted(found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 8 worker processes")
@pytest.mark.parametrize(
    ("split", "balance", "workers", "world_size"),
    [("train", "none", 8, 1), ("train", "oversample", 0, 4), ("test", "none", 8, 1), ("test", "none", 2, 4)],
)
def test_clips_do_not_depend_on_workers_or_ranks(cfg, hmdb_root, monkeypatch, split, balance, workers, world_size):
    monkeypatch.setattr(loader_module, "available_cores", lambda: 8)
    for frame in (hmdb_root / "train/catch/clip4").iterdir():
        frame.write_bytes(b"no image")
    shutil.rmtree(hmdb_root / "train/wave/clip0")
    cfg.DATA.SAMPLER, cfg.DATA.BALANCE, cfg.TEST.NUM_ENSEMBLE_VIEWS = "random", balance, 1
    alone = items(cfg, split)
    cfg.DATA_LOADER.NUM_WORKERS = workers
    assert items(cfg, split, world_size) == alone


def test_order(cfg):
    def orders(split: str, epochs: tuple[int, ...]) -> list[list[int]]:
        return [torch.cat([b["video"] for b in epoch]).tolist() for epoch in batches(cfg, split, epochs)]

    assert [len(batch["clip"]) for batch in batches(cfg, "train")[0]] == [3, 3, 2]  # no clip is dropped
    first, second = orders("train", (0, 1))
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second
    assert orders("train", (1, 0)) == [second, first]
    assert orders("val", (0, 7)) == [[0, 1, 2, 3]] * 2
    cfg.RNG_SEED += 1
    assert orders("train", (0,)) != [first]


@pytest.mark.parametrize("workers", [0, 1])
def test_start_in_mid_epoch(cfg, workers):
    cfg.DATA_LOADER.NUM_WORKERS = workers
    whole = [batch["clip"] for epoch in batches(cfg, "train", (2, 3)) for batch in epoch]
    loader = construct_loader(cfg, "train")
    set_epoch(loader, 2, start=1)
    rest = [batch["clip"] for batch in loader]
    set_epoch(loader, 3)
    rest += [batch["clip"] for batch in loader]
    assert all(torch.equal(clip, other) for clip, other in zip(rest, whole[1:], strict=True))


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("num_items", [37, 32, 3])
def test_ranks_share_batches(num_items, world_size):
    whole = EpochBatchSampler(num_items, 8, seed=1, shuffle=True)
    parts = [EpochBatchSampler(num_items, 8, 1, True, rank, world_size) for rank in range(world_size)]
    assert {len(part) for part in parts} == {len(whole)}
    for together, *batches in zip(whole, *parts, strict=True):
        assert [key for batch in batches for key in batch if key != PADDING_KEY] == together
        sizes = [len(batch) for batch in batches]
        assert min(sizes) == max(1, len(together) // world_size)
        assert max(sizes) == max(1, -(-len(together) // world_size))
    assert sorted(index for part in parts for index in part.indices()) == list(range(num_items))


@pytest.mark.parametrize("world_size", [1, 3, 7])
def test_ranks_evaluate_each_clip_once(world_size):
    for num_items in (1, 5, 8, 17):
        parts = [EpochBatchSampler(num_items, 4, 1, False, rank, world_size) for rank in range(world_size)]
        batches = [list(part) for part in parts]
        assert [len(part) for part in parts] == [len(found) for found in batches]
        keys = sorted(key for found in batches for batch in found for key in batch)
        assert keys == [(0, index, 0) for index in range(num_items)]


def test_parts_of_ranks(cfg):
    cfg.TRAIN.BATCH_SIZE, cfg.NUM_SHARDS = 2, 2
    assert len(next(iter(construct_loader(cfg, "train", 0, 2)))["clip"]) == 2  # of the 4 clips of two nodes
    cfg.TRAIN.BATCH_SIZE, cfg.NUM_SHARDS = 3, 1
    loaders = [construct_loader(cfg, "train", rank, 3) for rank in range(3)]  # 8 clips: 3, 3 and 2
    last = [list(loader)[-1] for loader in loaders]
    (padding,) = [batch for batch in last if batch["video"].tolist() == [-1]]
    assert not padding["clip"].any()
    assert not padding["readable"].any()


def test_oversampling():
    labels = np.array([0] * 7 + [2] * 3 + [1])
    sampler = EpochBatchSampler(len(labels), 4, seed=1, shuffle=True, labels=labels)
    epochs = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        keys = [key for batch in sampler for key in batch]
        assert len(keys) == len(set(keys)) == sampler.num_items == 21
        assert Counter(labels[index] for _, index, _ in keys) == {0: 7, 1: 7, 2: 7}
        times = Counter(index for _, index, _ in keys)
        assert sorted(times.values()) == [1] * 7 + [2, 2, 3, 7]
        assert sorted(repeat for _, index, repeat in keys if index == 10) == list(range(7))
        epochs.append(keys)
    assert epochs[0] == epochs[2]
    assert [key[1:] for key in epochs[0]] != [key[1:] for key in epochs[1]]
