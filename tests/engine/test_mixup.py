"""Mixup and CutMix of batches of clips: labels are mixed as the clips are, in all frames alike."""

import importlib.util
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from timesformer.config import get_cfg
from timesformer.engine.mixup import ClipMixup, heaviest_labels
from timesformer.errors import UserError

pytestmark = pytest.mark.numerical
needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.NUM_CLASSES = 6
    return cfg


def batch(number: int) -> tuple[Tensor, Tensor]:
    """Clips whose every value is their label: 0, 1, 2, ..."""
    label = torch.arange(number)
    return label.float().view(-1, 1, 1, 1, 1).repeat(1, 3, 4, 20, 30), label


@needs_timm
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("number", [1, 2, 5, 6])
@pytest.mark.parametrize(
    "options", [{"CUTMIX_ALPHA": 0.0}, {"ALPHA": 0.0}, {"CUTMIX_MINMAX": [0.2, 0.8], "SWITCH_PROB": 1.0}, {"PROB": 0.5}]
)
def test_labels_are_mixed_in_the_shares_of_the_clips(
    cfg: CfgNode, mode: str, number: int, options: dict[str, Any]
) -> None:
    cfg.MIXUP.update(options)
    cfg.MIXUP.MODE = mode
    mixup, changed = ClipMixup(cfg), 0
    for iteration in range(10):
        clip, label = batch(number)
        mixed, target = mixup(clip.clone(), label, 0, iteration)
        assert (mixed.shape, target.shape) == (clip.shape, (number, 6))
        # A clip's mean over pixels is that of its labels, weighted: in every frame and channel by itself.
        expected = (target @ torch.arange(6.0)).view(-1, 1, 1).expand(number, 3, 4)
        torch.testing.assert_close(mixed.mean((3, 4)), expected, rtol=0, atol=1e-4)
        torch.testing.assert_close(mixed, mixed[:, :1, :1].expand_as(mixed))
        torch.testing.assert_close(target.sum(1), torch.ones(number))
        changed += not torch.equal(mixed, clip)
    assert changed == 0 if number == 1 else changed >= 3


@needs_timm
def test_cutmix_puts_one_rectangle_of_the_partner_into_all_frames(cfg: CfgNode) -> None:
    cfg.MIXUP.ALPHA = 0.0
    clip, label = batch(6)
    mixed, _ = ClipMixup(cfg)(clip.clone(), label, 0, 3)
    for own, partner, found in zip(label, label.flip(0), mixed, strict=True):
        foreign = found[0, 0] == partner
        assert ((found[0, 0] == own) | foreign).all()
        rows, columns = foreign.any(1), foreign.any(0)
        assert 0 < foreign.sum() == rows.sum() * columns.sum() < foreign.numel()


@needs_timm
def test_label_smoothing_is_in_the_mixed_labels(cfg: CfgNode) -> None:
    _, plain = ClipMixup(cfg)(*batch(4), 0, 0)
    cfg.SOLVER.LABEL_SMOOTHING = 0.3
    _, smooth = ClipMixup(cfg)(*batch(4), 0, 0)
    torch.testing.assert_close(smooth, 0.7 * plain + 0.3 / 6)


@needs_timm
def test_seed_epoch_and_iteration_decide_and_the_global_generators_are_left_alone(cfg: CfgNode) -> None:
    def target(epoch: int, iteration: int) -> list[list[float]]:
        return ClipMixup(cfg)(*batch(4), epoch, iteration)[1].tolist()

    first = target(2, 5)
    random.seed(3)
    np.random.seed(3)
    before = random.getstate(), str(np.random.get_state())
    assert target(2, 5) == first
    assert (random.getstate(), str(np.random.get_state())) == before
    cfg.RNG_SEED += 1
    assert len({str(t) for t in (first, target(2, 5), target(2, 6), target(3, 5))}) == 4


def test_the_heaviest_label_is_the_one_of_the_larger_share() -> None:
    assert heaviest_labels(torch.tensor([3, 1])).tolist() == [3, 1]
    assert heaviest_labels(torch.tensor([[0.4, 0.0, 0.6], [0.7, 0.3, 0.0]])).tolist() == [2, 0]


def test_without_timm_the_option_that_needs_it_is_named(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.data.mixup", None)
    with pytest.raises(UserError, match=r"MIXUP\.ENABLED True needs the package timm"):
        ClipMixup(cfg)
