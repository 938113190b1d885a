"""What only a GPU shows: copies on a stream, fp16 with loss scaling, TF32, compilation, NCCL; skipped without one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from fvcore.common.config import CfgNode
from torch import nn

from tests.engine.training import Clips, loader_of, new_model, small_cfg, trainer_of
from timesformer.engine.trainer import Trainer
from timesformer.inference.classifier import Classifier, load_model
from timesformer.models.wrappers import CompiledForward, checkpoint_activations
from timesformer.runtime import distributed
from timesformer.runtime.device import (
    autocast,
    peak_memory,
    prefetch_to_device,
    reset_peak_memory,
    set_float32_precision,
)
from timesformer.runtime.ranks import DistInfo

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.numerical,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
DEVICE = torch.device("cuda")


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    cfg = small_cfg(tmp_path)
    cfg.NUM_GPUS, cfg.TRAIN.BATCH_SIZE, cfg.GLOBAL_BATCH_SIZE = 1, 4, 4
    return cfg


@pytest.fixture
def float32_precision() -> Iterator[None]:
    """Restores the precision of float32 products."""
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


def train_epoch(cfg: CfgNode, prepare: Callable[[Trainer], object] = lambda trainer: None) -> Trainer:
    trainer = trainer_of(cfg, new_model(cfg), loader_of(Clips(16), cfg.TRAIN.BATCH_SIZE))
    prepare(trainer)
    trainer.train_epoch()
    return trainer


def loss_of(trainer: Trainer) -> float:
    return trainer.writer.written["train_epoch"][0]["loss"]


def weights_of(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().cpu()


def test_training_on_a_gpu_has_the_losses_of_the_cpu(cfg: CfgNode) -> None:
    losses = []
    for cfg.NUM_GPUS in (0, 1):
        losses.append(loss_of(train_epoch(cfg)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_batches_arrive_unchanged_while_the_gpu_is_busy() -> None:
    batches, square = 20, torch.randn(2048, 2048, device=DEVICE)

    def pinned() -> Iterator[dict[str, Any]]:
        for number in range(batches):
            clip = torch.full((8, 3, 8, 112, 112), number, dtype=torch.uint8).pin_memory()
            yield {"clip": clip, "label": torch.full((8,), number).pin_memory(), "video": torch.arange(8)}

    sums = []
    for batch in prefetch_to_device(pinned(), DEVICE):
        for _ in range(4):  # work that the next copy does not wait for
            square = square @ square / 2048
        sums.append(batch["clip"].double().mean() + batch["label"].double().mean())
        del batch  # its memory may be used for the next copy
    assert torch.stack(sums).tolist() == [2.0 * number for number in range(batches)]


def test_fp16_with_loss_scaling_trains_like_float32(cfg: CfgNode) -> None:
    expected = loss_of(train_epoch(cfg))
    cfg.TRAIN.MIXED_PRECISION = "fp16"
    trainer = train_epoch(cfg)
    assert trainer.scaler.is_enabled()
    # Losses of about 1 from logits with 11 bits.
    assert loss_of(trainer) == pytest.approx(expected, rel=2e-2)


def test_a_step_that_overflows_in_fp16_changes_no_weight(cfg: CfgNode) -> None:
    cfg.TRAIN.MIXED_PRECISION = "fp16"
    scales = []

    def scale_too_much(trainer: Trainer) -> None:
        trainer.scaler = torch.amp.GradScaler(DEVICE.type, init_scale=2.0**100)
        scales.append(weights_of(trainer.model))

    trainer = train_epoch(cfg, scale_too_much)
    assert torch.equal(weights_of(trainer.model), scales[0])
    assert trainer.scaler.get_scale() == 2.0 ** (100 - 4)  # halved in each of four steps


def test_tf32_rounds_the_factors_of_products(cfg: CfgNode, float32_precision: None) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("needs a GPU with TF32")
    left, right = torch.rand(2, 512, 512, device=DEVICE)
    exact, errors = left.double() @ right.double(), []
    for cfg.TRAIN.TF32 in (False, True):
        set_float32_precision(cfg)
        errors.append(((left @ right - exact).abs() / exact).max().item())
    assert errors[0] < 512 * torch.finfo(torch.float32).eps
    assert 2.0**-16 < errors[1] < 2.0**-9  # TF32 has 10 bits after the first


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["off", "bf16"])
def test_the_compiled_model_has_the_logits_and_gradients_of_the_model(cfg: CfgNode, precision: str) -> None:
    cfg.TRAIN.MIXED_PRECISION, model = precision, new_model(cfg)
    clip, results = torch.randn(4, 3, 2, 16, 16, device=DEVICE), []
    for forward in (model.train(), CompiledForward(model, 4)):
        model.zero_grad()
        with autocast(cfg, DEVICE):
            logits = forward(clip)
        logits.float().square().sum().backward()
        results.append([logits.float(), *(parameter.grad for parameter in model.parameters())])
    bits = torch.finfo(torch.bfloat16 if precision == "bf16" else torch.float32).eps
    for expected, found in zip(*results, strict=True):
        assert (found - expected).abs().max() <= 64 * bits * max(1.0, expected.abs().max().item())


def test_recomputed_activations_take_less_memory_and_give_the_same_gradients(cfg: CfgNode) -> None:
    cfg.TIMESFORMER.EMBED_DIM, cfg.TIMESFORMER.DEPTH = 128, 8
    clip, gradients, peaks = torch.randn(16, 3, 2, 64, 64, device=DEVICE), [], []
    for mode in ("none", "blocks"):
        model = new_model(cfg).train()
        checkpoint_activations(model, mode)
        reset_peak_memory(DEVICE)
        before = torch.cuda.memory_allocated()
        model(clip).square().sum().backward()
        peaks.append(peak_memory(DEVICE) - before)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert peaks[1] < 0.6 * peaks[0]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4 * gradients[0].abs().max().item())


def test_nccl_averages_gradients_with_one_process(
    cfg: CfgNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, clip = new_model(cfg), torch.randn(4, 3, 2, 16, 16, device=DEVICE)
    expected = torch.autograd.grad(model(clip).square().sum(), list(model.parameters()))
    distributed.init_process_group(cfg, DistInfo(), (tmp_path / "rendezvous").as_uri())
    try:
        values = torch.arange(4.0, device=DEVICE)
        dist.all_reduce(values)
        assert values.tolist() == [0, 1, 2, 3]
        assert distributed.all_reduce_sum(2, 3) == [2, 3]  # of numbers on the CPU
        with monkeypatch.context() as patch:  # a single process does without DistributedDataParallel
            patch.setattr(distributed, "dist_info", lambda: DistInfo(0, 2, 0, 2))
            forward = distributed.parallel(model, model)
        for _ in range(2):  # the first backward pass records the static graph
            model.zero_grad()
            forward(clip).square().sum().backward()
        for parameter, gradient in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)
    finally:
        distributed.destroy_process_group()


def test_a_classifier_on_a_gpu_has_the_scores_of_the_cpu(tiny_checkpoint: Path, tiny_data: Path) -> None:
    clips = sorted((tiny_data / "test").glob("*/*"))
    scores = []
    for device in ("cpu", str(DEVICE)):
        classifier: Classifier = load_model(tiny_checkpoint, device)
        scores.append([prediction.probabilities for prediction in classifier.predict_many(clips)])
    for expected, found in zip(*scores, strict=True):
        assert found == pytest.approx(expected, abs=1e-3)
