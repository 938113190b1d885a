"""Weights of classes of unequal size, and what is said of the classes that a process sees."""

import logging

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, Dataset

from timesformer.config import get_cfg
from timesformer.datasets.loader import EpochBatchSampler
from timesformer.datasets.records import Records
from timesformer.engine.class_balance import class_weights, clip_weights, log_classes

LABELS = np.array([0, 0, 0, 0, 0, 0, 2, 2, 2, 3])


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.NUM_CLASSES, cfg.DATA.BALANCE = 4, "class_weights"
    return cfg


def test_weights_are_inverse_to_the_size_of_a_class_and_on_average_1_over_the_clips(cfg: CfgNode) -> None:
    weights = class_weights(cfg, LABELS)
    assert weights[LABELS].mean().item() == pytest.approx(1)
    assert (weights[0] * 6).item() == pytest.approx((weights[2] * 3).item()) == pytest.approx(weights[3].item())
    assert weights[1] == 0  # of this class there is no clip
    cfg.DATA.BALANCE = "none"
    assert class_weights(cfg, LABELS).tolist() == [1, 1, 1, 1]


def test_a_mixture_of_classes_weighs_the_mean_of_theirs() -> None:
    weights = torch.tensor([1.0, 2.0, 4.0])
    assert clip_weights(torch.tensor([2, 0]), weights).tolist() == [4, 1]
    assert clip_weights(torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]), weights).tolist() == [2.5, 2]


class Clips(Dataset[int]):
    records, class_names = Records(map(str, range(10)), LABELS), ("walk", "sit", "wave", "catch")


@pytest.mark.parametrize(
    ("rank", "seen"), [(0, "5 clips in an epoch, from 0 (sit) to 4 (walk) of a class"), (1, "from 0 (sit) to 2 (walk)")]
)
def test_each_process_tells_what_it_sees_of_the_classes(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture, rank: int, seen: str
) -> None:
    caplog.set_level(logging.DEBUG)
    sampler = EpochBatchSampler(10, 4, seed=4, shuffle=True, rank=rank, world_size=2)
    log_classes(cfg, DataLoader(Clips(), batch_sampler=sampler))
    summary, table = caplog.messages
    assert summary.startswith(f"process {rank} of 2 sees")
    assert summary.endswith("(DATA.BALANCE class_weights)")
    counts = [int(part.split()[1]) for part in table.partition("class: ")[2].split(", ")]
    assert sum(counts) == 5
    assert counts == np.bincount(LABELS[sampler.indices()], minlength=4).tolist()
    assert "(weight 0.556)" in table
    assert f"from {min(counts)}" in summary


def test_a_balanced_epoch_is_told_in_short(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cfg.DATA.BALANCE, cfg.MODEL.NUM_CLASSES = "oversample", 2

    class TwoClasses(Clips):
        records, class_names = Records("abc", [0, 0, 1]), ("walk", "sit")

    sampler = EpochBatchSampler(3, 4, seed=1, shuffle=True, labels=TwoClasses.records.labels)
    log_classes(cfg, DataLoader(TwoClasses(), batch_sampler=sampler))
    assert caplog.messages == ["process 0 of 1 sees 4 clips in an epoch, 2 of each class (DATA.BALANCE oversample)"]
