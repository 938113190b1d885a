"""Options for speed and memory leave the losses of 20 steps unchanged, on the CPU.

They are equal bit for bit in float32 if the same sums are computed, and in float64 if the order of sums differs.
"""

import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from tests.engine.training import Clips, loader_of, small_cfg, trainer_of
from timesformer.datasets.transforms.spatial import normalize_clips, tensor_normalize
from timesformer.engine.model_wrappers import CompiledForward, checkpoint_activations
from timesformer.errors import UserError
from timesformer.models import build_model

pytestmark = pytest.mark.numerical
STEPS, BATCH = 20, 4
ROUNDING = 1e-6  # relative: losses are computed in float32 and averaged over the batches of a step


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    cfg = small_cfg(tmp_path)
    cfg.TIMESFORMER.DEPTH, cfg.TIMESFORMER.DROP_PATH_RATE = 3, 0.1
    cfg.TRAIN.BATCH_SIZE = cfg.GLOBAL_BATCH_SIZE = BATCH
    cfg.SOLVER.BASE_LR, cfg.SOLVER.CLIP_GRAD_L2NORM, cfg.LOG_PERIOD = 0.05, 1.0, 1
    return cfg


def new_model(cfg: CfgNode) -> nn.Module:
    torch.manual_seed(0)
    return build_model(cfg)


def losses_of(
    cfg: CfgNode, model: nn.Module | None = None, clips: Clips | None = None, workers: int = 0
) -> list[float]:
    """The mean loss of each step."""
    loader = loader_of(clips or Clips(STEPS * BATCH), cfg.TRAIN.BATCH_SIZE, shuffle=True, workers=workers)
    trainer = trainer_of(cfg, model or new_model(cfg), loader)
    trainer.train_epoch()
    losses = [metrics["loss"] for metrics in trainer.writer.written["train_step"]]
    return torch.tensor(losses, dtype=torch.float64).view(STEPS, -1).mean(dim=1).tolist()


@pytest.fixture
def losses_in_float64(monkeypatch: pytest.MonkeyPatch) -> Callable[[CfgNode], list[float]]:
    """`losses_of` with a model that computes in float64."""
    monkeypatch.setattr("timesformer.engine.trainer.normalize_clips", lambda *clip: normalize_clips(*clip).double())
    return lambda cfg: losses_of(cfg, new_model(cfg).double())


@pytest.fixture
def plain(cfg: CfgNode) -> list[float]:
    losses = losses_of(cfg)
    assert max(losses) - min(losses) > 0.1
    return losses


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.skipif(
    not (any(map(shutil.which, ("g++", "clang++"))) and Path(sysconfig.get_path("include"), "Python.h").exists()),
    reason="there is no C++ compiler, or Python's headers are missing",
)
def test_compilation(cfg: CfgNode, losses_in_float64: Callable[[CfgNode], list[float]]) -> None:
    cfg.TIMESFORMER.DEPTH = 1  # compiling is slow
    plain = losses_in_float64(cfg)
    cfg.TRAIN.COMPILE = True
    torch.compiler.reset()
    assert losses_in_float64(cfg) == pytest.approx(plain, rel=ROUNDING)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize(("mode", "recomputed"), [("blocks", [0, 1, 2]), ("every_2", [0, 2])])
def test_activation_checkpointing(cfg: CfgNode, plain: list[float], mode: str, recomputed: list[int]) -> None:
    cfg.TIMESFORMER.DROP_RATE = 0.1  # recomputed with the same random numbers
    with_dropout = losses_of(cfg)
    assert with_dropout != plain
    model, passes = new_model(cfg), []
    for number, block in enumerate(model.model.blocks):
        block.temporal_fc.register_forward_hook(lambda *_, number=number: passes.append(number))
    checkpoint_activations(model, mode)
    assert losses_of(cfg, model) == with_dropout
    assert sorted(passes) == sorted(STEPS * [0, 1, 2, *recomputed])


def test_activation_checkpointing_needs_transformer_blocks() -> None:
    with pytest.raises(UserError, match=r"MODEL\.ACT_CHECKPOINT"):
        checkpoint_activations(nn.Linear(2, 2), "blocks")


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_missing_compiler_is_a_user_error() -> None:
    torch.compiler.reset()
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}),
        pytest.raises(UserError, match=r"TRAIN\.COMPILE"),
    ):
        CompiledForward(nn.GELU(), 3)(torch.ones(3, 2))


def test_smaller_batches_are_not_compiled() -> None:
    model = nn.Linear(2, 2)
    torch._dynamo.utils.counters.clear()
    assert torch.equal(CompiledForward(model, 3)(torch.ones(1, 2)), model(torch.ones(1, 2)))
    assert not torch._dynamo.utils.counters


def test_gradient_accumulation(cfg: CfgNode, losses_in_float64: Callable[[CfgNode], list[float]]) -> None:
    # Random numbers depend on the batch size, and so does a learning rate that changes within an epoch.
    cfg.TIMESFORMER.DROP_PATH_RATE = 0.0
    cfg.SOLVER.LR_POLICY, cfg.SOLVER.STEPS, cfg.SOLVER.LRS = "steps_with_relative_lrs", [0], [1]
    at_once = losses_in_float64(cfg)
    cfg.TRAIN.BATCH_SIZE = 1
    assert losses_in_float64(cfg) == pytest.approx(at_once, rel=ROUNDING)


def test_clips_as_bytes(cfg: CfgNode, plain: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    clips = Clips(STEPS * BATCH)
    clips.clips = tensor_normalize(clips.clips, cfg.DATA.MEAN, cfg.DATA.STD)
    monkeypatch.setattr("timesformer.engine.trainer.normalize_clips", lambda clip, cfg, device: clip)
    assert losses_of(cfg, clips=clips) == plain


def test_number_of_workers(cfg: CfgNode, plain: list[float]) -> None:
    assert losses_of(cfg, workers=2) == plain
