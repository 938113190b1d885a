"""Optimizers, learning rates (compared with the original's), and the moving average of the weights."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from timesformer.config import get_cfg
from timesformer.engine.model_wrappers import checkpoint_activations
from timesformer.engine.optim import (
    ModelEma,
    batches_per_step,
    clips_per_step,
    construct_optimizer,
    learning_rate,
    set_learning_rate,
)
from timesformer.models.vit import VisionTransformer

needs_timm = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("timm", "torchvision")),
    reason="timm, or the torchvision that it imports, is not installed",
)


@pytest.fixture
def cfg() -> CfgNode:
    return get_cfg()


def small_model() -> VisionTransformer:
    return VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=3)


def test_learning_rates_match_the_original(golden_dir: Path, cfg: CfgNode) -> None:
    for case in json.loads((golden_dir / "lr_policy.json").read_text()):
        for key, value in case["SOLVER"].items():
            cfg.SOLVER[key] = value
        for epoch, expected in case["points"]:
            assert learning_rate(cfg, epoch) == pytest.approx(expected, rel=1e-9, abs=1e-12), (case["SOLVER"], epoch)


def test_learning_rates_scale_with_nodes_or_clips_per_step(cfg: CfgNode) -> None:
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_EPOCHS, cfg.SOLVER.WARMUP_START_LR = 0.5, 1.0, 0.25
    cfg.TRAIN.BATCH_SIZE, cfg.GLOBAL_BATCH_SIZE, cfg.NUM_SHARDS = 8, 64, 4
    assert [learning_rate(cfg, 0), batches_per_step(cfg), clips_per_step(cfg)] == [0.25, 2, 64]
    cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS = True
    assert learning_rate(cfg, 0) == 1.0
    cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS, cfg.SOLVER.LR_SCALE_BATCH_SIZE = False, 32
    assert learning_rate(cfg, 0) == 0.5
    cfg.GLOBAL_BATCH_SIZE = 8  # smaller than the batches of all nodes, which are then a step
    assert [batches_per_step(cfg), clips_per_step(cfg), learning_rate(cfg, 0)] == [1, 32, 0.25]


@pytest.mark.parametrize(
    ("name", "expected"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_optimizer_takes_its_options(cfg: CfgNode, name: str, expected: type) -> None:
    cfg.SOLVER.OPTIMIZING_METHOD, cfg.SOLVER.WEIGHT_DECAY = name, 0.25
    cfg.SOLVER.MOMENTUM, cfg.SOLVER.DAMPENING, cfg.SOLVER.NESTEROV = 0.5, 0.25, False
    optimizer = construct_optimizer(small_model(), cfg)
    (group,) = optimizer.param_groups
    assert (type(optimizer), group["weight_decay"]) == (expected, 0.25)
    if name == "sgd":
        assert (group["momentum"], group["dampening"], group["nesterov"]) == (0.5, 0.25, False)


def rates_and_decays(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay by parameter name; each parameter is in one group."""
    found = {}
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert name_of[id(parameter)] not in found
            found[name_of[id(parameter)]] = (group["lr"], group["weight_decay"])
    return found


def test_biases_norms_and_embeddings_have_no_weight_decay(cfg: CfgNode) -> None:
    cfg.SOLVER.ZERO_WD_1D_PARAM, cfg.SOLVER.WEIGHT_DECAY = True, 0.25
    model = nn.Sequential(small_model())  # names have a prefix
    model[0].patch_embed.requires_grad_(False)
    optimizer = construct_optimizer(model, cfg)
    set_learning_rate(optimizer, 0.125)
    found = rates_and_decays(model, optimizer)
    assert set(found) == {name for name, p in model.named_parameters() if p.requires_grad}
    undecayed = {name for name, value in found.items() if value == (0.125, 0.0)}
    assert {"0.pos_embed", "0.time_embed", "0.cls_token", "0.norm.weight", "0.head.bias"} <= undecayed
    assert {name.rsplit(".", 1)[1] for name in found if name not in undecayed} == {"weight"}


class Wrapper(nn.Module):
    """A network as `.model`, like registered models."""

    def __init__(self) -> None:
        super().__init__()
        self.model = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=3)


@needs_timm
@pytest.mark.parametrize("zero_1d", [True, False])
def test_layer_decay(cfg: CfgNode, zero_1d: bool) -> None:
    cfg.SOLVER.LAYER_DECAY, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.ZERO_WD_1D_PARAM = 0.5, 0.25, zero_1d
    model, undecayed = Wrapper(), 0.0 if zero_1d else 0.25
    optimizer = construct_optimizer(model, cfg)
    for rate in (0.5, 1.0):
        set_learning_rate(optimizer, rate)
    found = rates_and_decays(model, optimizer)
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert found["model.head.weight"] == (1.0, 0.25)
    assert found["model.norm.weight"] == (0.5, undecayed)
    assert found["model.blocks.1.temporal_attn.qkv.weight"] == found["model.blocks.1.attn.qkv.weight"] == (0.5, 0.25)
    assert found["model.blocks.0.temporal_fc.bias"] == (0.25, undecayed)
    assert found["model.patch_embed.proj.weight"] == (0.125, 0.25)
    assert {found[f"model.{name}"] for name in ("cls_token", "pos_embed", "time_embed")} == {(0.125, undecayed)}


def train_step(model: nn.Module) -> None:
    model.train()
    model(torch.randn(8, 3, dtype=torch.float64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


@needs_timm
@pytest.mark.parametrize("interrupted", [False, True])
def test_ema_matches_a_loop_by_hand(interrupted: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    ema, expected = ModelEma(model, decay=0.3), {}
    assert ema.eval_model() is model
    for update in range(8):
        train_step(model)
        ema.update()
        decay = min(0.3, update / (update + 9))  # 0, 0.1, 0.18, 0.25, 0.3, 0.3, ...
        for name, value in model.state_dict().items():
            before = expected.get(name, torch.zeros_like(value))
            expected[name] = decay * before + (1 - decay) * value if value.is_floating_point() else value.clone()
        if interrupted and update == 3:
            state, ema = ema.state_dict(), ModelEma(model, decay=0.3)
            ema.load_state_dict(state)
    torch.testing.assert_close(dict(ema.eval_model().state_dict()), expected, rtol=1e-12, atol=1e-12)
    assert not any(parameter.requires_grad for parameter in ema.eval_model().parameters())


@needs_timm
@pytest.mark.parametrize("mode", ["none", "blocks"])
def test_ema_computes_with_its_own_weights(mode: str) -> None:
    model = VisionTransformer(16, 8, 3, 3, embed_dim=16, depth=2, num_heads=2, num_frames=2, init="scratch").eval()
    checkpoint_activations(model, mode)
    clip, ema = torch.randn(2, 3, 2, 16, 16), ModelEma(model, decay=0.9)
    ema.update()
    with torch.no_grad():
        before = model(clip)
        for parameter in model.blocks.parameters():
            parameter.zero_()
        torch.testing.assert_close(ema.eval_model()(clip), before)
