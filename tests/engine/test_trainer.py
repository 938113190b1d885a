"""The training step, and metrics of training and evaluation, on clips in memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils._python_dispatch import TorchDispatchMode

from tests.engine.training import Clips, loader_of, new_model, small_cfg, trainer_of
from timesformer.datasets.loader import collate
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.engine.evaluate import evaluate
from timesformer.engine.loss import ClipMixup
from timesformer.metrics.evaluation import Evaluation

pytestmark = pytest.mark.numerical


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    cfg = small_cfg(tmp_path)
    cfg.TRAIN.BATCH_SIZE = cfg.GLOBAL_BATCH_SIZE = 4
    return cfg


def metrics_of_epoch(cfg: CfgNode, model: nn.Module, clips: Clips, epoch: int = 0) -> dict[str, float]:
    trainer = trainer_of(cfg, model, loader_of(clips, cfg.TRAIN.BATCH_SIZE), epoch)
    trainer.train_epoch()
    return trainer.writer.written["train_epoch"][0]


class Reads(TorchDispatchMode):
    """Counts the numbers that are read from tensors, which on a GPU syncs."""

    number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.slow
def test_step_does_not_sync_until_logging(cfg: CfgNode) -> None:
    cfg.SOLVER.CLIP_GRAD_L2NORM, cfg.EMA.ENABLED, cfg.GLOBAL_BATCH_SIZE, cfg.TRAIN.BATCH_SIZE = 1.0, True, 1, 1

    def reads(batches: int, log_period: int) -> int:
        cfg.LOG_PERIOD = log_period
        with Reads() as counted:
            metrics_of_epoch(cfg, new_model(cfg), Clips(batches))
        return counted.number

    assert reads(12, 1000) - reads(4, 1000) == 8  # one a step: the number of clips, which is on the CPU
    assert reads(12, 1) > reads(12, 1000)


def test_gradient_clipping_bounds_the_step(cfg: CfgNode) -> None:
    cfg.SOLVER.MOMENTUM, cfg.SOLVER.NESTEROV, cfg.SOLVER.WEIGHT_DECAY = 0.0, False, 0.0
    cfg.SOLVER.CLIP_GRAD_L2NORM, model = 0.01, new_model(cfg, torch.float64)
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    metrics_of_epoch(cfg, model, Clips(4))
    moved = nn.utils.parameters_to_vector(model.parameters()) - before
    assert moved.norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


@pytest.mark.parametrize("method", ["sgd", "adamw"])
def test_a_step_that_overflows_in_fp16_changes_nothing(cfg: CfgNode, method: str) -> None:
    cfg.SOLVER.OPTIMIZING_METHOD, cfg.TRAIN.MIXED_PRECISION, weights = method, "fp16", []
    for scales in ([1.0], [2.0**100, 1.0]):
        trainer = trainer_of(cfg, new_model(cfg), loader_of(Clips(4), 4))
        for scale in scales:
            trainer.scaler, trainer.progress.epoch = torch.amp.GradScaler("cpu", init_scale=scale), 0
            trainer.train_epoch()
        weights.append(nn.utils.parameters_to_vector(trainer.model.parameters()).detach())
    assert torch.equal(*weights)


@pytest.mark.parametrize(("method", "max_norm"), [("sgd", 0.01), ("adamw", 0.0)])
def test_loss_scaling_leaves_the_steps_unchanged(cfg: CfgNode, method: str, max_norm: float) -> None:
    cfg.SOLVER.OPTIMIZING_METHOD, cfg.SOLVER.CLIP_GRAD_L2NORM, weights = method, max_norm, []
    for precision in ("off", "fp16"):
        cfg.TRAIN.MIXED_PRECISION = precision
        torch.manual_seed(0)
        trainer = trainer_of(cfg, nn.Linear(4, 3), loader_of(Clips(2), 2))
        for factor in (1.0, float("inf"), 1.0)[:: 1 if precision == "fp16" else 2]:
            loss = trainer.model(torch.arange(8.0).view(2, 4)).square().sum() * factor
            trainer.scaler.scale(loss).backward()
            trainer.optimizer_step(0.01)
        weights.append(trainer.model.weight.detach())
    torch.testing.assert_close(*weights)  # the step with infinite gradients was skipped
    assert trainer.scaler.get_scale() == 0.5 * torch.amp.GradScaler("cpu").get_scale()


def test_label_smoothing_affects_the_training_loss_only(cfg: CfgNode) -> None:
    cfg.SOLVER.BASE_LR, clips = 1e-12, Clips(4)  # the model stays as it is
    model, losses = new_model(cfg), {}
    for smoothing in (0.0, 0.5):
        cfg.SOLVER.LABEL_SMOOTHING = smoothing
        losses[smoothing] = metrics_of_epoch(cfg, model, clips)["loss"]
    with torch.no_grad():
        log_probabilities = model(normalize_clips(clips.clips, cfg, torch.device("cpu"))).log_softmax(dim=1)
    assert losses[0.0] == pytest.approx(evaluate(model, loader_of(clips, 4), cfg, "").loss, abs=1e-5)
    assert losses[0.5] == pytest.approx(0.5 * losses[0.0] - 0.5 * log_probabilities.mean().item(), abs=1e-5)


def test_mixed_clips_are_scored_with_mixed_labels(cfg: CfgNode) -> None:
    cfg.SOLVER.BASE_LR, cfg.SOLVER.LABEL_SMOOTHING = 1e-12, 0.2
    cfg.MIXUP.ENABLED, cfg.MIXUP.MODE, epoch = True, "elem", 3
    model, clips = new_model(cfg), Clips(3)
    found = metrics_of_epoch(cfg, model, clips, epoch)
    batch = normalize_clips(clips.clips, cfg, torch.device("cpu"))
    mixed, target = ClipMixup(cfg)(batch, torch.arange(3), epoch, 0)
    logits = model(mixed).detach()
    assert found["loss"] == pytest.approx(cross_entropy(logits, target).item(), abs=1e-5)
    correct = (logits.argmax(dim=1) == target.argmax(dim=1)).sum().item()
    assert found["top1"] == pytest.approx(100 * correct / 3, abs=1e-3)


def test_padding_clips_have_no_effect(cfg: CfgNode) -> None:
    cfg.SOLVER.WEIGHT_DECAY, clips = 0.0, Clips(4)
    padding = clips[0, 0, 0] | {"video": -1, "readable": False}
    model = nn.Sequential(nn.BatchNorm3d(3), nn.Flatten(), nn.Linear(3 * 2 * 16 * 16, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = trainer_of(cfg, model, loader_of(clips, 4))
    trainer.train_step(collate([padding]) | {"present": torch.tensor([False])}, 0)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert set(map(tuple, trainer.metrics.state_dict().values())) == {(0.0, 0.0)}
    assert model.training


def test_mean_class_accuracy_skips_empty_classes() -> None:
    labels, predicted = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 0])
    scores = one_hot(predicted, 3).float()
    evaluation = Evaluation([*"abcdef"], labels, scores, scores, {"f": "broken"}, 0.0, 1, 0.0)
    assert evaluation.by_class() == [(4, 3, 3), (2, 1, 2), (0, 0, 0)]
    assert evaluation.mean_class_top1() == pytest.approx(100 * (3 / 4 + 1 / 2) / 2)
