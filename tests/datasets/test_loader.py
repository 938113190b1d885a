"""Batches: the same with any number of workers, shuffled by seed and epoch, complete."""

import pytest
import torch

from timesformer.datasets.loader import EpochBatchSampler, construct_loader, set_epoch


def batches(cfg, split, epochs=(0,)):
    loader = construct_loader(cfg, split)
    found = []
    for epoch in epochs:
        set_epoch(loader, epoch)
        found.append(list(loader))
    return found


@pytest.mark.parametrize("split", ["train", "test"])
def test_batches_are_the_same_with_no_and_with_two_workers_over_several_epochs(cfg, split):
    epochs = (0, 1)
    cfg.TEST.NUM_ENSEMBLE_VIEWS = 1
    alone = batches(cfg, split, epochs)
    cfg.DATA_LOADER.NUM_WORKERS = 2
    for mine, theirs in zip(alone, batches(cfg, split, epochs), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert a["errors"] == b["errors"]
            assert all(torch.equal(a[key], b[key]) for key in ("clip", "label", "video", "view"))


def test_a_batch_holds_uint8_clips_and_int64_numbers(cfg):
    first, *_, last = batches(cfg, "train")[0]
    assert first["clip"].shape == (3, 3, 4, 16, 16)
    assert first["clip"].dtype == torch.uint8
    assert all(first[key].dtype == torch.int64 and first[key].shape == (3,) for key in ("label", "video", "view"))
    assert first["errors"] == {}
    assert len(last["clip"]) == 2  # 8 clips in batches of 3: none is dropped


def test_training_order_is_a_permutation_that_changes_with_epoch_and_seed(cfg):
    orders = [torch.cat([b["video"] for b in epoch]).tolist() for epoch in batches(cfg, "train", (0, 1))]
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert orders[0] != orders[1]
    assert orders == [torch.cat([b["video"] for b in epoch]).tolist() for epoch in batches(cfg, "train", (0, 1))]
    cfg.RNG_SEED += 1
    assert torch.cat([b["video"] for b in batches(cfg, "train")[0]]).tolist() != orders[0]


def test_evaluation_keeps_the_order_and_its_clips_in_every_epoch(cfg):
    cfg.DATA.SAMPLER = "random"
    first, later = batches(cfg, "val", (0, 7))
    assert torch.cat([b["video"] for b in later]).tolist() == [0, 1, 2, 3]
    assert all(torch.equal(a["clip"], b["clip"]) for a, b in zip(first, later, strict=True))


def test_batch_sampler_gives_keys_of_epoch_and_index():
    sampler = EpochBatchSampler(5, 2, seed=1, shuffle=True)
    sampler.set_epoch(3)
    keys = list(sampler)
    assert len(sampler) == len(keys) == 3
    assert sorted(key for batch in keys for key in batch) == [(3, i) for i in range(5)]
