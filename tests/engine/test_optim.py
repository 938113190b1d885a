"""Optimizers, learning rates (compared with the original's), and the moving average of the weights."""

import json
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from transformers import get_linear_schedule_with_warmup

from timesformer.config import get_cfg
from timesformer.engine.optim import (
    ModelEma,
    batches_per_step,
    clips_per_step,
    construct_optimizer,
    learning_rate,
    learning_rate_of_batch,
    set_learning_rate,
)
from timesformer.errors import UserError
from timesformer.models.vit import VisionTransformer
from timesformer.models.wrappers import checkpoint_activations


@pytest.fixture
def cfg() -> CfgNode:
    return get_cfg()


def test_learning_rates_match_the_original(golden_dir: Path, cfg: CfgNode) -> None:
    for case in json.loads((golden_dir / "lr_policy.json").read_text()):
        cfg.SOLVER.update(case["SOLVER"])
        for epoch, expected in case["points"]:
            assert learning_rate(cfg, epoch) == pytest.approx(expected, rel=1e-9, abs=1e-12), (case["SOLVER"], epoch)


SCHEDULES = {
    "linear": lambda o, steps: get_linear_schedule_with_warmup(o, 0, steps),
    "linear, warmup": lambda o, steps: get_linear_schedule_with_warmup(o, steps // 4, steps),
    "onecycle": lambda o, steps: OneCycleLR(o, 0.25, total_steps=steps),
    "onecycle, warmup": lambda o, steps: OneCycleLR(o, 0.25, total_steps=steps, pct_start=0.25, div_factor=1000),
}


@pytest.mark.numerical
@pytest.mark.parametrize("policy", SCHEDULES)
@pytest.mark.parametrize("accumulate", [1, 4])
def test_schedules_match_transformers_and_torch_at_every_step(cfg: CfgNode, policy: str, accumulate: int) -> None:
    """113 batches per epoch: with accumulation, the last step of an epoch is one batch."""
    cfg.SOLVER.update({"BASE_LR": 0.25, "LR_POLICY": policy.split(",")[0], "MAX_EPOCH": 8})
    cfg.SOLVER.WARMUP_START_LR = 0.25 / 1000 if policy.startswith("onecycle") else 0.0
    cfg.SOLVER.WARMUP_EPOCHS = 2.0 if "warmup" in policy else 0.0
    cfg.TRAIN.BATCH_SIZE, cfg.GLOBAL_BATCH_SIZE = 8, 8 * accumulate
    last = [*range(accumulate - 1, 112, accumulate), 112]
    found = [learning_rate_of_batch(cfg, epoch, batch, 113) for epoch in range(8) for batch in last]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.25)
    schedule, expected = SCHEDULES[policy](optimizer, len(found)), []
    for _ in found:
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert found == pytest.approx(expected, rel=1e-9, abs=0.25 * 1e-12)


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


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_optimizer_takes_its_options(cfg: CfgNode, name: str) -> None:
    options = {"WEIGHT_DECAY": 0.25, "MOMENTUM": 0.5, "DAMPENING": 0.25, "NESTEROV": False}
    cfg.SOLVER.update({"OPTIMIZING_METHOD": name.lower(), **options})
    optimizer = construct_optimizer(nn.Linear(2, 2), cfg)
    assert type(optimizer).__name__ == name
    assert all(optimizer.defaults.get(key.lower(), value) == value for key, value in options.items())


@pytest.mark.parametrize(("decay", "zero_1d"), [(0.5, True), (0.5, False), (1.0, True)])
def test_layer_decay_and_weight_decay(cfg: CfgNode, decay: float, zero_1d: bool) -> None:
    cfg.SOLVER.LAYER_DECAY, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.ZERO_WD_1D_PARAM = decay, 0.25, zero_1d
    network = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=3)
    network.blocks[1].mlp.requires_grad_(False)
    model, undecayed = nn.ModuleDict({"model": network}), 0.0 if zero_1d else 0.25
    optimizer = construct_optimizer(model, cfg)
    set_learning_rate(optimizer, 0.5)
    found = rates_of(model, optimizer)
    assert set(found) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found["model.head.weight"] == (1.0, 0.25)
    assert found["model.norm.weight"] == (decay, undecayed)
    assert found["model.blocks.1.temporal_attn.qkv.weight"] == found["model.blocks.1.attn.qkv.weight"] == (decay, 0.25)
    assert found["model.blocks.0.temporal_fc.bias"] == (decay**2, undecayed)
    assert found["model.patch_embed.proj.weight"] == (decay**3, 0.25)
    assert {found[f"model.{name}"] for name in ("cls_token", "pos_embed", "time_embed")} == {(decay**3, undecayed)}


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_learning_rate_factors_of_head_and_temporal_layers(cfg: CfgNode, decay: float) -> None:
    cfg.SOLVER.LAYER_DECAY, cfg.SOLVER.ZERO_WD_1D_PARAM = decay, True
    network = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=1, num_heads=2, num_classes=3)
    model = nn.ModuleDict({"model": network})
    plain = rates_of(model, construct_optimizer(model, cfg))
    cfg.SOLVER.HEAD_LR_SCALE, cfg.SOLVER.TEMPORAL_LR_SCALE = 10.0, 4.0
    scaled = rates_of(model, construct_optimizer(model, cfg))
    assert set(scaled) == set(plain)
    for name, (rate, weight_decay) in scaled.items():
        is_temporal = any(part in name for part in ("temporal_attn", "temporal_norm1", "temporal_fc", "time_embed"))
        factor = 10.0 if ".head." in name else 4.0 if is_temporal else 1.0
        assert (rate, weight_decay) == (factor * plain[name][0], plain[name][1])
    network.requires_grad_(False).head.requires_grad_(True)
    with pytest.raises(UserError, match=r"SOLVER\.TEMPORAL_LR_SCALE"):
        construct_optimizer(model, cfg)


def rates_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each parameter, for a learning rate of 1."""
    set_learning_rate(optimizer, 1.0)
    name_of, found = {id(parameter): name for name, parameter in model.named_parameters()}, {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert name_of[id(parameter)] not in found
            found[name_of[id(parameter)]] = (group["lr"], group["weight_decay"])
    return found


def test_ema_matches_a_loop_by_hand() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    ema, expected = ModelEma(model, decay=0.3), {}
    assert ema.eval_model() is model
    for update in range(8):
        model(torch.randn(8, 3, dtype=torch.float64))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ema.update()
        decay = min(0.3, update / (update + 9))  # 0, 0.1, 0.18, 0.25, 0.3, 0.3, ...
        for name, value in model.state_dict().items():
            before = expected.get(name, torch.zeros_like(value))
            expected[name] = decay * before + (1 - decay) * value if value.is_floating_point() else value.clone()
    torch.testing.assert_close(dict(ema.eval_model().state_dict()), expected, rtol=1e-12, atol=1e-12)


def test_ema_computes_with_its_own_weights() -> None:
    model = VisionTransformer(16, 8, 3, 3, embed_dim=16, depth=2, num_heads=2, num_frames=2, init="scratch").eval()
    checkpoint_activations(model, "blocks")
    clip, ema = torch.randn(2, 3, 2, 16, 16), ModelEma(model, decay=0.9)
    ema.update()
    with torch.no_grad():
        before = model(clip)
        for parameter in model.blocks.parameters():
            parameter.zero_()
        torch.testing.assert_close(ema.eval_model()(clip), before)
