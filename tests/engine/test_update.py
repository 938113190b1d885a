"""From gradients to new weights: scaling for fp16, clipping, and the average of the weights in a run."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from timesformer.config import get_cfg
from timesformer.engine.update import Update

pytestmark = pytest.mark.numerical


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.NUM_GPUS, cfg.SOLVER.WEIGHT_DECAY = 0, 0.0
    return cfg


def weights_after_steps(cfg: CfgNode, scales: tuple[float, ...]) -> tuple[list[torch.Tensor], Update]:
    """Weights of a line after each step, where its loss is multiplied by one of the scales."""
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    update, clips, weights = Update(cfg, model), torch.randn(2, 4), []
    for scale in scales:
        update.backward(model(clips).square().sum() * scale)
        update.step(0.01)
        weights.append(model.weight.detach().clone())
    return weights, update


@pytest.mark.parametrize("largest_norm", [0.0, 0.01])
@pytest.mark.parametrize("method", ["sgd", "adamw"])
def test_scaling_the_loss_leaves_the_steps_as_they_are(cfg: CfgNode, method: str, largest_norm: float) -> None:
    cfg.SOLVER.OPTIMIZING_METHOD, cfg.SOLVER.CLIP_GRAD_L2NORM = method, largest_norm
    plain, _ = weights_after_steps(cfg, (1.0, 1.0))
    cfg.TRAIN.MIXED_PRECISION = "fp16"
    scaled, update = weights_after_steps(cfg, (1.0, 1.0))
    assert update.parts["scaler"].get_scale() > 1
    for expected, weight in zip(plain, scaled, strict=True):
        torch.testing.assert_close(weight, expected)


@pytest.mark.parametrize("largest_norm", [0.0, 1.0])
def test_a_step_whose_gradients_overflow_is_left_out_and_the_scale_falls(cfg: CfgNode, largest_norm: float) -> None:
    cfg.TRAIN.MIXED_PRECISION, cfg.SOLVER.CLIP_GRAD_L2NORM = "fp16", largest_norm
    (first, second, third), update = weights_after_steps(cfg, (1.0, float("inf"), 1.0))
    assert torch.equal(second, first)
    assert not torch.equal(third, second)
    assert third.isfinite().all()
    assert update.parts["scaler"].get_scale() == 0.5 * torch.amp.GradScaler("cpu").get_scale()


def test_only_what_is_used_is_a_part_of_a_checkpoint(cfg: CfgNode) -> None:
    assert list(Update(cfg, nn.Linear(2, 1)).parts) == ["optimizer"]
    cfg.EMA.ENABLED, cfg.TRAIN.MIXED_PRECISION = True, "fp16"
    assert list(Update(cfg, nn.Linear(2, 1)).parts) == ["optimizer", "scaler", "ema"]


def test_the_average_is_validated_kept_as_the_best_and_survives_an_interruption(
    run_net: Callable, tiny_command: list[str], tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    command = [*tiny_command, "EMA.ENABLED", "True", "EMA.DECAY", "0.9", "SOLVER.MAX_EPOCH", "3", "OUTPUT_DIR"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert run_net(*command, str(whole)).code == 0
    shutil.copytree(whole, resumed)
    (resumed / "checkpoints" / "checkpoint_epoch_00003.pyth").unlink()
    again = run_net(*command, str(resumed))
    assert again.code == 0
    assert "checkpoint_epoch_00002.pyth, after epoch 2 of 3" in again.out
    states = [
        torch.load(folder / "checkpoints" / "checkpoint_epoch_00003.pyth", weights_only=True)
        for folder in (whole, resumed)
    ]
    assert states[0]["ema_state"]["updates"] == states[1]["ema_state"]["updates"] > 0
    for name, value in states[0]["ema_state"]["weights"].items():
        assert torch.equal(states[1]["ema_state"]["weights"][name], value), name

    best = torch.load(whole / "checkpoints" / "best.pyth", weights_only=True)
    of_then = whole / "checkpoints" / f"checkpoint_epoch_{best['progress']['best_epoch']:05d}.pyth"
    then = torch.load(of_then, weights_only=True)
    assert any(not torch.equal(then["model_state"][name], value) for name, value in best["model_state"].items())
    for name, value in best["model_state"].items():
        assert torch.equal(then["ema_state"]["weights"][name], value), name
