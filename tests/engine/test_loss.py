"""Class weights, Mixup and CutMix, and the detection of losses and weights that are not finite."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.config import get_cfg
from timesformer.datasets.records import Records
from timesformer.engine.loss import (
    LOSSES,
    ClassificationLoss,
    ClipMixup,
    FiniteCheck,
    class_weights,
    log_class_counts,
)
from timesformer.errors import UserError

pytestmark = pytest.mark.numerical


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.NUM_CLASSES, cfg.DATA.BALANCE = 4, "class_weights"
    return cfg


def test_class_weights(cfg: CfgNode) -> None:
    labels = np.array([0, 0, 0, 0, 0, 0, 2, 2, 2, 3])
    weights, logits = class_weights(cfg, labels), torch.zeros(2, 4)
    assert weights.tolist() == pytest.approx([10 / 18, 0, 10 / 9, 10 / 3])  # mean 1 over the clips
    loss = ClassificationLoss(cfg, labels, torch.device("cpu"))
    # Mixed labels have the mean weight of their classes.
    mixed = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]])
    expected = math.log(4) * torch.stack(((weights[0] + weights[2]) / 2, weights[3]))
    torch.testing.assert_close(loss(logits, mixed), expected)
    torch.testing.assert_close(loss(logits, torch.tensor([2, 3])), math.log(4) * weights[2:])


@pytest.mark.parametrize(("labels", "part"), [([0, 1, 1], " 1 (a) to 2 (b) per class"), ([0, 1], ", 1 per class")])
def test_clips_of_each_class_are_logged(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture, labels: list[int], part: str
) -> None:
    caplog.set_level("INFO")
    dataset = SimpleNamespace(class_names=("a", "b"), records=Records(map(str, labels), labels))
    sampler = SimpleNamespace(rank=0, world_size=1, indices=lambda: np.arange(len(labels)))
    log_class_counts(cfg, SimpleNamespace(batch_sampler=sampler, dataset=dataset))
    assert part in caplog.text


def batch(number: int) -> tuple[Tensor, Tensor]:
    """Clips whose every value is their label: 0, 1, 2, ..."""
    label = torch.arange(number)
    return label.float().view(-1, 1, 1, 1, 1).repeat(1, 3, 4, 20, 30), label


@pytest.mark.parametrize(("mode", "number"), [("batch", 6), ("pair", 2), ("elem", 5), ("elem", 1)])
@pytest.mark.parametrize("options", [{"CUTMIX_ALPHA": 0.0}, {"ALPHA": 0.0}, {"CUTMIX_MINMAX": [0.2, 0.8], "PROB": 0.5}])
def test_labels_are_mixed_like_the_clips(cfg: CfgNode, mode: str, number: int, options: dict[str, Any]) -> None:
    cfg.MIXUP.update(options)
    cfg.MIXUP.MODE, cfg.MODEL.NUM_CLASSES = mode, 6
    mixup, changed = ClipMixup(cfg), 0
    for iteration in range(10):
        clip, label = batch(number)
        mixed, target = mixup(clip.clone(), label, 0, iteration)
        assert (mixed.shape, target.shape) == (clip.shape, (number, 6))
        # The mean over pixels is the weighted mean of the labels, in each frame and channel.
        expected = (target @ torch.arange(6.0)).view(-1, 1, 1).expand(number, 3, 4)
        torch.testing.assert_close(mixed.mean((3, 4)), expected, rtol=0, atol=1e-4)
        # CutMix cuts the same rectangle in all frames.
        torch.testing.assert_close(mixed, mixed[:, :1, :1].expand_as(mixed))
        changed += not torch.equal(mixed, clip)
    assert changed == 0 if number == 1 else changed >= 3


def test_first_broken_batch_is_reported() -> None:
    check = FiniteCheck(nn.Identity(), ["a", "b", "c", "d"])
    check.add(0, 6, torch.ones(1), torch.tensor([0]))
    check.check_losses()
    check.add(0, 7, torch.tensor([math.inf, 1.0, 0.0]), torch.tensor([1, 2, -1]))
    check.add(0, 8, torch.tensor([math.nan]), torch.tensor([3]))
    with pytest.raises(UserError, match=r"inf in epoch 1, iteration 8, over the clips b, c;"):
        check.check_losses()


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "batch"), [("loss", 2), ("gradient", 4)])
def test_no_checkpoint_is_written_after_a_broken_number(
    run_net: Callable, tiny_command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, batch: int
) -> None:
    calls = []

    def loss(scores: Tensor, labels: Tensor, reduction: str, label_smoothing: float) -> Tensor:
        calls.append(len(labels))
        losses = nn.functional.cross_entropy(scores, labels, reduction=reduction, label_smoothing=label_smoothing)
        if len(calls) == 6 + batch:  # of the second epoch, which has two steps of three batches
            if broken == "loss":
                return losses * math.nan
            scores.register_hook(lambda gradient: gradient * math.inf)
        return losses

    monkeypatch.setitem(LOSSES, "cross_entropy", loss)
    options = ["GLOBAL_BATCH_SIZE", "6", "LOG_PERIOD", "100", "TRAIN.CHECKPOINT_MINUTES", "0.00001"]
    assert run_net(*tiny_command, *options, "OUTPUT_DIR", str(tmp_path)).code == 2
    found = sorted(path.name for path in (tmp_path / "checkpoints").glob("checkpoint*"))
    mid_epoch = f"checkpoint_epoch_0000{0 if batch == 2 else 1}_iteration_00000003.pyth"
    assert found == sorted(["checkpoint_epoch_00001.pyth", mid_epoch])
    assert (tmp_path / "metrics.jsonl").read_text().count('"train_epoch"') == 1
