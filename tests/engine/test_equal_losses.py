"""What makes training faster or smaller leaves it as it is: the losses of 20 steps are equal, on the CPU.

Bit for bit in float32 where the same sums are computed, and in float64 where their order differs: each step multiplies
what the last ones rounded, so that after 20 of them float32 losses of other sums have only 4 digits in common.
"""

import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.utils.data import DataLoader, Dataset

from timesformer.config import get_cfg
from timesformer.datasets.loader import EpochBatchSampler, collate
from timesformer.datasets.records import Records
from timesformer.datasets.transforms.spatial import normalize_clips, tensor_normalize
from timesformer.engine.compiled import Compiled
from timesformer.engine.recompute import recompute_blocks
from timesformer.engine.trainer import Run, train_epoch
from timesformer.engine.unreadable import UnreadableClips
from timesformer.engine.update import Update
from timesformer.errors import UserError
from timesformer.models import build_model

pytestmark = pytest.mark.numerical
STEPS, BATCH = 20, 4
ROUNDED = 1e-6  # relative: losses themselves are computed in float32, and averaged over the batches of a step


class Clips(Dataset[dict[str, Any]]):
    """Random clips of 3 classes; uint8, or float32 and normalised already."""

    split, class_names, num_views = "train", ("a", "b", "c"), 1

    def __init__(self, cfg: CfgNode, normalised: bool = False) -> None:
        number, generator = STEPS * BATCH, torch.Generator().manual_seed(0)
        self.clips = torch.randint(0, 256, (number, 3, 2, 16, 16), dtype=torch.uint8, generator=generator)
        if normalised:
            self.clips = tensor_normalize(self.clips, cfg.DATA.MEAN, cfg.DATA.STD)
        self.records = Records((f"clip{n}" for n in range(number)), (n % 3 for n in range(number)))

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        index = key[1]
        item = {"clip": self.clips[index], "label": int(self.records.labels[index]), "video": index, "view": 0}
        return item | {"readable": True, "errors": {}}


class Losses(list[float]):
    """The loss of each step."""

    def write(self, kind: str, epoch: float, figures: dict[str, float]) -> None:
        if kind == "train_step":
            self.append(figures["loss"])


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.NUM_GPUS, cfg.LOG_PERIOD = str(tmp_path), 0, 1
    cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.NUM_FRAMES, cfg.MODEL.NUM_CLASSES = 16, 2, 3
    cfg.TIMESFORMER.update(CfgNode({"EMBED_DIM": 16, "DEPTH": 3, "NUM_HEADS": 2, "PATCH_SIZE": 8, "INIT": "scratch"}))
    cfg.TRAIN.BATCH_SIZE = cfg.GLOBAL_BATCH_SIZE = BATCH
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_EPOCH, cfg.SOLVER.CLIP_GRAD_L2NORM = 0.05, 1, 1.0
    return cfg


def new_model(cfg: CfgNode) -> nn.Module:
    """The same model each time."""
    torch.manual_seed(0)
    return build_model(cfg)


def losses_of(
    cfg: CfgNode, model: nn.Module | None = None, clips: Clips | None = None, workers: int = 0
) -> list[float]:
    """The mean loss of each of the 20 steps."""
    model, clips, losses = model or new_model(cfg), clips or Clips(cfg), Losses()
    sampler = EpochBatchSampler(STEPS * BATCH, cfg.TRAIN.BATCH_SIZE, 0, shuffle=True)
    loader = DataLoader(clips, batch_sampler=sampler, collate_fn=collate, num_workers=workers)
    train_epoch(Run(cfg, model, Update(cfg, model), loader, losses, UnreadableClips(cfg, "train", clips.records)))
    return torch.tensor(losses, dtype=torch.float64).view(STEPS, -1).mean(dim=1).tolist()


@pytest.fixture
def losses_in_float64(monkeypatch: pytest.MonkeyPatch) -> Callable[[CfgNode], list[float]]:
    """`losses_of`, where the model computes in float64."""
    monkeypatch.setattr("timesformer.engine.trainer.normalize_clips", lambda *clip: normalize_clips(*clip).double())
    return lambda cfg: losses_of(cfg, new_model(cfg).double())


@pytest.fixture
def plain(cfg: CfgNode) -> list[float]:
    losses = losses_of(cfg)
    assert len(losses) == STEPS
    assert max(losses) - min(losses) > 0.1
    return losses


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.skipif(
    not (any(map(shutil.which, ("g++", "clang++"))) and Path(sysconfig.get_path("include"), "Python.h").exists()),
    reason="there is no C++ compiler, or Python's headers are missing",
)
def test_compiling_leaves_the_losses_as_they_are(
    cfg: CfgNode, losses_in_float64: Callable[[CfgNode], list[float]]
) -> None:
    cfg.TIMESFORMER.DEPTH = 1  # compiling takes its time
    plain = losses_in_float64(cfg)
    cfg.TRAIN.COMPILE = True
    torch.compiler.reset()
    assert losses_in_float64(cfg) == pytest.approx(plain, rel=ROUNDED)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize(("which", "recomputed"), [("blocks", [0, 1, 2]), ("every_2", [0, 2])])
def test_recomputing_activations_leaves_the_losses_as_they_are(
    cfg: CfgNode, plain: list[float], which: str, recomputed: list[int]
) -> None:
    cfg.TIMESFORMER.DROP_RATE = 0.1  # what is drawn at random is drawn again alike
    dropped = losses_of(cfg)
    assert dropped != plain
    model, passes = new_model(cfg), []
    for number, block in enumerate(model.model.blocks):
        block.temporal_fc.register_forward_hook(lambda *_, number=number: passes.append(number))
    recompute_blocks(model, which)
    assert losses_of(cfg, model) == dropped
    assert sorted(passes) == sorted(STEPS * [0, 1, 2, *recomputed])


def test_a_model_without_transformer_blocks_cannot_recompute_them() -> None:
    with pytest.raises(UserError, match=r"MODEL\.ACT_CHECKPOINT is blocks, expected none"):
        recompute_blocks(nn.Linear(2, 2), "blocks")


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_without_a_compiler_the_error_says_what_to_install() -> None:
    torch.compiler.reset()
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}),
        pytest.raises(UserError, match=r"TRAIN.COMPILE is True.*no-such-compiler.*\n.*or set TRAIN.COMPILE False"),
    ):
        Compiled(nn.GELU(), 3)(torch.ones(3, 2))


def test_batches_of_another_size_are_not_compiled() -> None:
    model = nn.Linear(2, 2)
    torch._dynamo.utils.counters.clear()
    assert torch.equal(Compiled(model, 3)(torch.ones(1, 2)), model(torch.ones(1, 2)))
    assert not torch._dynamo.utils.counters


def test_accumulating_gradients_leaves_the_losses_as_they_are(
    cfg: CfgNode, losses_in_float64: Callable[[CfgNode], list[float]]
) -> None:
    # Random numbers depend on the size of the batch, and so does a learning rate that changes within an epoch.
    cfg.TIMESFORMER.DROP_PATH_RATE = 0.0
    cfg.SOLVER.LR_POLICY, cfg.SOLVER.STEPS, cfg.SOLVER.LRS = "steps_with_relative_lrs", [0], [1]
    whole = losses_in_float64(cfg)
    assert max(whole) - min(whole) > 0.1
    cfg.TRAIN.BATCH_SIZE = 1
    assert losses_in_float64(cfg) == pytest.approx(whole, rel=ROUNDED)


def test_clips_as_bytes_give_the_losses_of_clips_normalised_before(
    cfg: CfgNode, plain: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timesformer.engine.trainer.normalize_clips", lambda clip, cfg, device: clip)
    assert losses_of(cfg, clips=Clips(cfg, normalised=True)) == plain


def test_the_number_of_loading_processes_leaves_the_losses_as_they_are(cfg: CfgNode, plain: list[float]) -> None:
    assert losses_of(cfg, workers=2) == plain
