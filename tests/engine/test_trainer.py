"""The training and evaluation loops on clips in memory."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from tests.engine.training import Clips, loader_of, small_cfg, trainer_of
from timesformer.datasets.clips import PADDING_KEY
from timesformer.datasets.loader import EpochBatchSampler, collate
from timesformer.datasets.records import Records
from timesformer.datasets.transforms.spatial import normalize_clips
from timesformer.engine.evaluate import evaluate
from timesformer.engine.loss import ClipMixup
from timesformer.engine.results import Evaluation
from timesformer.models import build_model
from timesformer.models.parts import freeze
from timesformer.runtime.device import choose_device

pytestmark = pytest.mark.numerical


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    return small_cfg(tmp_path)


def new_model(cfg: CfgNode, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The same model each time, which computes in this type."""
    torch.manual_seed(0)
    model = build_model(cfg).to(choose_device(cfg), dtype)
    model.register_forward_pre_hook(lambda _, clips: (clips[0].to(dtype),))
    return model


def metrics_of_epoch(cfg: CfgNode, model: nn.Module, clips: Clips, batch_size: int, epoch: int = 0) -> dict[str, float]:
    trainer = trainer_of(cfg, model, loader_of(clips, batch_size), epoch)
    trainer.train_epoch()
    return trainer.writer.written["train_epoch"][0]


def trained_weights(
    cfg: CfgNode, clips: Clips, batch_size: int, global_batch_size: int, dtype: torch.dtype = torch.float64
) -> dict[str, torch.Tensor]:
    """Weights after an epoch with a constant learning rate."""
    cfg.TRAIN.BATCH_SIZE, cfg.GLOBAL_BATCH_SIZE = batch_size, global_batch_size
    cfg.SOLVER.LR_POLICY, cfg.SOLVER.STEPS, cfg.SOLVER.LRS = "steps_with_relative_lrs", [0], [1]
    model = new_model(cfg, dtype)
    metrics_of_epoch(cfg, model, clips, batch_size)
    return model.state_dict()


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Weights of float64 models are equal but for the order of sums; the loss is computed in float32."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_accumulated_batches_equal_one_large_batch(cfg: CfgNode) -> None:
    clips = Clips(11)  # steps of 4, 4 and 3 clips; in batches of 2, the last of 1
    at_once, accumulated = trained_weights(cfg, clips, 4, 4), trained_weights(cfg, clips, 2, 4)
    assert_close(accumulated, at_once)
    smaller_steps = trained_weights(cfg, clips, 1, 1)
    assert not torch.allclose(smaller_steps["model.head.weight"], at_once["model.head.weight"], atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_matches_cpu(cfg: CfgNode) -> None:
    clips = Clips(8)
    on_cpu = trained_weights(cfg, clips, 4, 4, torch.float32)
    cfg.NUM_GPUS = 1
    on_gpu = {name: value.cpu() for name, value in trained_weights(cfg, clips, 4, 4, torch.float32).items()}
    torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-4)


class Reads(TorchDispatchMode):
    """Counts the numbers that are read from tensors, which on a GPU syncs."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_step_does_not_sync_until_logging(cfg: CfgNode) -> None:
    cfg.SOLVER.CLIP_GRAD_L2NORM, cfg.EMA.ENABLED, cfg.GLOBAL_BATCH_SIZE, cfg.TRAIN.BATCH_SIZE = 1.0, True, 1, 1

    def reads(batches: int, log_period: int) -> int:
        cfg.LOG_PERIOD = log_period
        with Reads() as counted:
            metrics_of_epoch(cfg, new_model(cfg), Clips(batches), 1)
        return counted.number

    assert reads(12, 1000) - reads(4, 1000) == 8  # one a step: the number of clips, which is on the CPU
    assert reads(12, 1) > reads(12, 1000)


def test_gradient_clipping_bounds_the_step(cfg: CfgNode) -> None:
    cfg.SOLVER.MOMENTUM, cfg.SOLVER.NESTEROV, cfg.SOLVER.WEIGHT_DECAY = 0.0, False, 0.0
    before = {name: value.double() for name, value in new_model(cfg).state_dict().items()}
    cfg.SOLVER.CLIP_GRAD_L2NORM = 0.01
    after = trained_weights(cfg, Clips(4), 4, 4)
    moved = torch.cat([(after[name] - before[name]).flatten() for name in after]).norm().item()
    assert moved == pytest.approx(0.1 * 0.01, rel=1e-3)


@pytest.mark.parametrize("max_norm", [0.0, 0.01])
@pytest.mark.parametrize("method", ["sgd", "adamw"])
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
        losses[smoothing] = metrics_of_epoch(cfg, model, clips, 4)["loss"]
    with torch.no_grad():
        log_probabilities = model(normalize_clips(clips.clips, cfg, torch.device("cpu"))).log_softmax(dim=1)
    assert losses[0.0] == pytest.approx(evaluate(model, loader_of(clips, 4), cfg, "").loss, abs=1e-5)
    assert losses[0.5] == pytest.approx(0.5 * losses[0.0] - 0.5 * log_probabilities.mean().item(), abs=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_mixed_clips_are_scored_with_mixed_labels(cfg: CfgNode) -> None:
    cfg.SOLVER.BASE_LR, cfg.SOLVER.LABEL_SMOOTHING, cfg.TRAIN.BATCH_SIZE = 1e-12, 0.2, 4
    cfg.MIXUP.ENABLED, cfg.MIXUP.MODE, epoch = True, "elem", 3
    model, clips, mixup = new_model(cfg), Clips(7), ClipMixup(cfg)
    found, loss, correct = metrics_of_epoch(cfg, model, clips, 4, epoch), 0.0, 0
    with torch.no_grad():
        for iteration, numbers in enumerate((torch.arange(4), torch.arange(4, 7))):
            batch = normalize_clips(clips.clips[numbers], cfg, torch.device("cpu"))
            mixed, target = mixup(batch, numbers % 3, epoch, iteration)
            logits = model(mixed)
            loss += cross_entropy(logits, target, reduction="sum").item()
            correct += (logits.argmax(dim=1) == target.argmax(dim=1)).sum().item()
    assert found["loss"] == pytest.approx(loss / 7, abs=1e-5)
    assert found["top1"] == pytest.approx(100 * correct / 7, abs=1e-3)


def test_class_weights_scale_the_loss(cfg: CfgNode) -> None:
    clips = Clips(6)
    clips.records = Records(clips.records.names, labels := [0, 0, 0, 0, 1, 2])
    plain = trained_weights(cfg, clips, 6, 6)
    cfg.DATA.BALANCE = "class_weights"
    at_once, accumulated = (trained_weights(cfg, clips, size, 6) for size in (6, 2))
    assert_close(accumulated, at_once)
    assert not torch.allclose(plain["model.head.weight"], at_once["model.head.weight"], atol=1e-3)
    cfg.SOLVER.BASE_LR, model = 1e-12, new_model(cfg)
    with torch.no_grad():
        logits = model(normalize_clips(clips.clips, cfg, torch.device("cpu")))
    losses = cross_entropy(logits, torch.tensor(labels), reduction="none")
    expected = torch.stack([losses[:4].mean(), losses[4], losses[5]]).mean().item()
    assert metrics_of_epoch(cfg, model, clips, 6)["loss"] == pytest.approx(expected, abs=1e-5)


def test_frozen_parameters_do_not_change(cfg: CfgNode) -> None:
    cfg.SOLVER.WEIGHT_DECAY, model = 0.1, new_model(cfg)
    freeze(model, "backbone")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    metrics_of_epoch(cfg, model, Clips(4), 2)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"model.head.weight", "model.head.bias"}


class PaddedClips(Clips):
    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        if key == PADDING_KEY:
            return {**super().__getitem__((0, 0, 0)), "video": -1, "readable": False}
        return super().__getitem__(key)


class PaddedBatches(EpochBatchSampler):
    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        return ([*batch, PADDING_KEY] for batch in super().__iter__())


def test_padding_clips_have_no_effect(cfg: CfgNode) -> None:
    trainers = []
    for clips, sampler in ((Clips(5), EpochBatchSampler), (PaddedClips(5), PaddedBatches)):
        loader = DataLoader(clips, batch_sampler=sampler(5, 4, 0, False), collate_fn=collate)
        trainers.append(trainer_of(cfg, new_model(cfg, torch.float64), loader))
        trainers[-1].train_epoch()
    plain, padded = trainers
    assert_close(padded.model.state_dict(), plain.model.state_dict())
    expected = plain.writer.written["train_epoch"][0]
    assert padded.writer.written["train_epoch"][0] == pytest.approx(expected, rel=1e-6)


def test_unreadable_clips_count_as_wrong(cfg: CfgNode) -> None:
    clips, model = Clips(6, broken=(2,)), new_model(cfg).train()
    clips.split = "test"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.head.bias[2] = 1.0  # always predicts class 2: correct for clips 2 and 5
    evaluation = evaluate(model, loader_of(clips, 4), cfg, "test")
    assert evaluation.topk(1, 5) == pytest.approx([100 / 6, 500 / 6])
    assert evaluation.unreadable == {"clip2": "/2: broken"}
    assert evaluation.by_class() == [(2, 0, 0), (2, 0, 0), (2, 1, 5)]
    assert evaluation.mean_class_top1() == pytest.approx(100 / 6)
    assert model.training


def test_mean_class_accuracy_skips_empty_classes() -> None:
    labels, predicted = torch.tensor([0, 0, 0, 0, 1, 1]), torch.tensor([0, 0, 0, 1, 1, 0])
    scores = one_hot(predicted, 3).float()
    evaluation = Evaluation([*"abcdef"], labels, scores, scores, {"f": "broken"}, 0.0, 1, 0.0)
    assert evaluation.by_class() == [(4, 3, 3), (2, 1, 2), (0, 0, 0)]
    assert evaluation.mean_class_top1() == pytest.approx(100 * (3 / 4 + 1 / 2) / 2)
