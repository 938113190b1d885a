"""Options for speed and memory leave the losses of 20 steps unchanged, on the CPU.

They are equal bit for bit in float32 if the same sums are computed, and in float64 if the order of sums differs.
"""

import os
import shutil
import sysconfig
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from tests.engine.training import Clips, loader_of, new_model, small_cfg, trainer_of
from timesformer.datasets.transforms.spatial import normalize_clips, tensor_normalize
from timesformer.errors import UserError
from timesformer.models.wrappers import checkpoint_activations

pytestmark = [pytest.mark.numerical, pytest.mark.slow]
STEPS, BATCH = 20, 4
NUM_CLIPS = STEPS * BATCH - 1  # so that the last batch is smaller
ROUNDING = 1e-6  # relative: losses are computed in float32 and averaged over the batches of a step


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    cfg = small_cfg(tmp_path)
    cfg.TIMESFORMER.DEPTH, cfg.TIMESFORMER.DROP_PATH_RATE = 3, 0.1
    cfg.TRAIN.BATCH_SIZE = cfg.GLOBAL_BATCH_SIZE = BATCH
    cfg.SOLVER.BASE_LR, cfg.SOLVER.CLIP_GRAD_L2NORM, cfg.LOG_PERIOD = 0.05, 1.0, 1
    return cfg


def losses_of(cfg: CfgNode, model: nn.Module, clips: Clips | None = None, workers: int = 0) -> list[float]:
    """The mean loss of each step."""
    loader = loader_of(clips or Clips(NUM_CLIPS), cfg.TRAIN.BATCH_SIZE, shuffle=True, workers=workers)
    trainer = trainer_of(cfg, model, loader)
    trainer.train_epoch()
    losses = torch.tensor([metrics["loss"] for metrics in trainer.writer.written["train_step"]], dtype=torch.float64)
    means = [step.mean().item() for step in losses.split(cfg.GLOBAL_BATCH_SIZE // cfg.TRAIN.BATCH_SIZE)]
    assert len(means) == STEPS
    assert max(means) - min(means) > 0.1
    return means


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.skipif(os.environ.get("ATEN_CPU_CAPABILITY") == "default", reason="PyTorch compiles invalid C++ for it")
@pytest.mark.skipif(
    not (any(map(shutil.which, ("g++", "clang++"))) and Path(sysconfig.get_path("include"), "Python.h").exists()),
    reason="there is no C++ compiler, or Python's headers are missing",
)
@pytest.mark.parametrize("rank", [0, 4])
def test_compilation(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    monkeypatch.setattr("timesformer.engine.trainer.normalize_clips", lambda *clip: normalize_clips(*clip).double())
    cfg.TIMESFORMER.DEPTH, cfg.MODEL.LORA_RANK = 1, rank  # compiling is slow
    plain = losses_of(cfg, new_model(cfg).double())
    cfg.TRAIN.COMPILE = True
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    assert losses_of(cfg, new_model(cfg).double()) == pytest.approx(plain, rel=ROUNDING)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # not for the smaller batch


@pytest.mark.parametrize(
    ("mode", "recomputed", "rank"), [("blocks", [0, 1, 2], 0), ("blocks", [0, 1, 2], 4), ("every_2", [0, 2], 0)]
)
def test_activation_checkpointing(cfg: CfgNode, mode: str, recomputed: list[int], rank: int) -> None:
    cfg.TIMESFORMER.DROP_RATE, cfg.MODEL.LORA_RANK = 0.1, rank  # dropout is recomputed with the same random numbers
    plain = losses_of(cfg, new_model(cfg))
    model, passes = new_model(cfg), []
    for number, block in enumerate(model.model.blocks):
        block.temporal_fc.register_forward_hook(lambda *_, number=number: passes.append(number))
    checkpoint_activations(model, mode)
    assert losses_of(cfg, model) == plain
    assert sorted(passes) == sorted(STEPS * [0, 1, 2, *recomputed])
    with pytest.raises(UserError, match=r"MODEL\.ACT_CHECKPOINT"):
        checkpoint_activations(nn.Linear(2, 2), mode)


def test_gradient_accumulation(cfg: CfgNode) -> None:
    # Random numbers depend on the batch size, and so does a learning rate that changes within an epoch.
    cfg.TIMESFORMER.DROP_PATH_RATE = 0.0
    cfg.SOLVER.LR_POLICY, cfg.SOLVER.STEPS, cfg.SOLVER.LRS = "steps_with_relative_lrs", [0], [1]
    at_once = losses_of(cfg, new_model(cfg, torch.float64))
    cfg.TRAIN.BATCH_SIZE = 1
    assert losses_of(cfg, new_model(cfg, torch.float64)) == pytest.approx(at_once, rel=ROUNDING)


def test_clips_as_bytes_and_number_of_workers(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, clips = losses_of(cfg, new_model(cfg)), Clips(NUM_CLIPS)
    assert losses_of(cfg, new_model(cfg), workers=2) == plain
    clips.clips = tensor_normalize(clips.clips, cfg.DATA.MEAN, cfg.DATA.STD)
    monkeypatch.setattr("timesformer.engine.trainer.normalize_clips", lambda clip, cfg, device: clip)
    assert losses_of(cfg, new_model(cfg), clips) == plain
