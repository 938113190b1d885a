"""Class weights, Mixup and CutMix, and the detection of losses and weights that are not finite."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from tests.processes import Ranks, launched
from timesformer.config import get_cfg
from timesformer.engine.loss import LOSSES, ClassificationLoss, ClipMixup, FiniteCheck, class_weights
from timesformer.errors import UserError
from timesformer.runtime.ranks import dist_info

pytestmark = pytest.mark.numerical
LABELS = np.array([0, 0, 0, 0, 0, 0, 2, 2, 2, 3])
needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.NUM_CLASSES, cfg.DATA.BALANCE = 4, "class_weights"
    return cfg


def test_class_weights_are_inverse_to_class_sizes(cfg: CfgNode) -> None:
    assert class_weights(cfg, LABELS).tolist() == pytest.approx([10 / 18, 0, 10 / 9, 10 / 3])  # mean 1 over the clips
    cfg.DATA.BALANCE = "none"
    assert class_weights(cfg, LABELS).tolist() == [1, 1, 1, 1]


def test_mixed_labels_have_the_mean_weight_of_their_classes(cfg: CfgNode) -> None:
    logits, weights = torch.zeros(2, 4), class_weights(cfg, LABELS)
    loss = ClassificationLoss(cfg, LABELS, torch.device("cpu"))
    mixed = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]])
    expected = math.log(4) * torch.stack(((weights[0] + weights[2]) / 2, weights[3]))
    torch.testing.assert_close(loss(logits, mixed), expected)
    torch.testing.assert_close(loss(logits, torch.tensor([2, 3])), math.log(4) * weights[2:])


def batch(number: int) -> tuple[Tensor, Tensor]:
    """Clips whose every value is their label: 0, 1, 2, ..."""
    label = torch.arange(number)
    return label.float().view(-1, 1, 1, 1, 1).repeat(1, 3, 4, 20, 30), label


@needs_timm
@pytest.mark.parametrize(("mode", "number"), [("batch", 6), ("pair", 2), ("elem", 5), ("elem", 1)])
@pytest.mark.parametrize(
    "options", [{"CUTMIX_ALPHA": 0.0}, {"ALPHA": 0.0}, {"CUTMIX_MINMAX": [0.2, 0.8], "SWITCH_PROB": 1.0}, {"PROB": 0.5}]
)
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
        torch.testing.assert_close(mixed, mixed[:, :1, :1].expand_as(mixed))
        changed += not torch.equal(mixed, clip)
    assert changed == 0 if number == 1 else changed >= 3


@needs_timm
def test_cutmix_cuts_the_same_rectangle_in_all_frames(cfg: CfgNode) -> None:
    cfg.MIXUP.ALPHA, cfg.MODEL.NUM_CLASSES = 0.0, 6
    clip, label = batch(6)
    mixed, _ = ClipMixup(cfg)(clip.clone(), label, 0, 3)
    for partner, found in zip(label.flip(0), mixed, strict=True):
        foreign = found == partner
        assert (foreign == foreign[:1, :1]).all()
        assert (
            0 < foreign[0, 0].sum() == foreign[0, 0].any(1).sum() * foreign[0, 0].any(0).sum() < foreign[0, 0].numel()
        )


def test_first_batch_with_a_broken_loss_is_reported() -> None:
    check = FiniteCheck(nn.Identity(), ["a", "b", "c", "d", "e", "f"])
    check.add(0, 0, torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
    check.check_losses()
    check.add(2, 4, torch.tensor([1.0, math.nan, 0.0]), torch.tensor([3, 4, -1]))
    check.add(2, 5, torch.tensor([math.inf]), torch.tensor([5]))
    with pytest.raises(UserError, match=r"nan in epoch 3, iteration 5, over the clips d, e;"):
        check.check_losses()
    check.check_losses()  # reported once


@pytest.mark.usefixtures("unhurried")
def test_first_broken_batch_of_all_processes_is_reported(ranks: Ranks) -> None:
    def main() -> None:
        check, rank = FiniteCheck(nn.Identity(), ["a", "b", "c", "d"]), dist_info().rank
        check.add(0, 7, torch.tensor([math.inf if rank == 1 else 1.0]), torch.tensor([rank]))
        check.add(0, 8, torch.tensor([math.nan]), torch.tensor([2 + rank]))
        check.check_losses()

    for ended in ranks(2, launched(main)):
        assert ended.code == 2
        assert not ended.err or "inf in epoch 1, iteration 8, over the clips b;" in ended.err


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["loss", "gradient"])
@pytest.mark.parametrize("batch", [2, 4])
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
    stopped = run_net(*tiny_command, *options, "OUTPUT_DIR", str(tmp_path))
    assert stopped.code == 2
    assert ("loss became nan" if broken == "loss" else "weights became") in stopped.err
    found = sorted(path.name for path in (tmp_path / "checkpoints").glob("checkpoint*"))
    mid_epoch = f"checkpoint_epoch_0000{0 if batch == 2 else 1}_iteration_00000003.pyth"
    assert found == sorted(["checkpoint_epoch_00001.pyth", mid_epoch])
    assert (tmp_path / "metrics.jsonl").read_text().count('"train_epoch"') == 1
