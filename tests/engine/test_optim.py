"""Optimizers and learning rates, against the original's values where it has the rule."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from fvcore.common.config import CfgNode

from timesformer.config import get_cfg
from timesformer.engine.optim import (
    batches_per_step,
    clips_per_step,
    construct_optimizer,
    learning_rate,
    set_learning_rate,
)
from timesformer.models.parts import freeze
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


def test_learning_rates_are_scaled_by_machines_or_by_clips_of_a_step(cfg: CfgNode) -> None:
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WARMUP_EPOCHS, cfg.SOLVER.WARMUP_START_LR = 0.5, 1.0, 0.25
    cfg.TRAIN.BATCH_SIZE, cfg.GLOBAL_BATCH_SIZE, cfg.NUM_SHARDS = 8, 64, 4
    assert [learning_rate(cfg, 0), batches_per_step(cfg), clips_per_step(cfg)] == [0.25, 2, 64]
    cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS = True
    assert learning_rate(cfg, 0) == 1.0
    cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS, cfg.SOLVER.LR_SCALE_BATCH_SIZE = False, 32
    assert learning_rate(cfg, 0) == 0.5
    cfg.GLOBAL_BATCH_SIZE = 8  # fewer than the machines' batches, which are the step then
    assert [batches_per_step(cfg), clips_per_step(cfg), learning_rate(cfg, 0)] == [1, 32, 0.25]


def test_steps_change_at_the_epoch_they_name(cfg: CfgNode) -> None:
    cfg.SOLVER.LR_POLICY, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_EPOCH = "steps_with_relative_lrs", 2.0, 15
    cfg.SOLVER.STEPS, cfg.SOLVER.LRS = [0, 11, 14], [1, 0.1, 0.01]
    rates = [learning_rate(cfg, epoch) for epoch in (0, 10.99, 11, 13.99, 14, 15)]
    assert rates == pytest.approx([2, 2, 0.2, 0.2, 0.02, 0.02])


@pytest.mark.parametrize(
    ("name", "expected"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_optimizer_has_the_configured_kind_and_decay(cfg: CfgNode, name: str, expected: type) -> None:
    cfg.SOLVER.OPTIMIZING_METHOD, cfg.SOLVER.WEIGHT_DECAY = name, 0.25
    optimizer = construct_optimizer(small_model(), cfg)
    assert type(optimizer) is expected
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25]


def test_sgd_takes_momentum_dampening_and_nesterov(cfg: CfgNode) -> None:
    cfg.SOLVER.MOMENTUM, cfg.SOLVER.DAMPENING, cfg.SOLVER.NESTEROV = 0.5, 0.25, False
    group = construct_optimizer(small_model(), cfg).param_groups[0]
    assert (group["momentum"], group["dampening"], group["nesterov"]) == (0.5, 0.25, False)


def test_biases_norms_and_embeddings_can_go_without_decay(cfg: CfgNode) -> None:
    cfg.SOLVER.ZERO_WD_1D_PARAM = True
    model = torch.nn.Sequential(small_model())  # names behind a prefix are found too
    decayed, free = construct_optimizer(model, cfg).param_groups
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    free_names = {name_of[id(parameter)] for parameter in free["params"]}
    assert free["weight_decay"] == 0.0
    assert {"0.pos_embed", "0.time_embed", "0.cls_token", "0.norm.weight", "0.head.bias"} <= free_names
    assert {name_of[id(parameter)].rsplit(".", 1)[1] for parameter in decayed["params"]} == {"weight"}
    assert len(decayed["params"]) + len(free["params"]) == len(name_of)


def test_frozen_parameters_are_left_out(cfg: CfgNode) -> None:
    model = small_model()
    model.patch_embed.requires_grad_(False)
    taken = {id(parameter) for group in construct_optimizer(model, cfg).param_groups for parameter in group["params"]}
    assert not taken & {id(parameter) for parameter in model.patch_embed.parameters()}


class Named(torch.nn.Module):
    """A network under `model.`, as registered models hold it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = VisionTransformer(img_size=16, patch_size=8, embed_dim=8, depth=2, num_heads=2, num_classes=3)


def rates_and_decays(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay by the parameter's name; each in one group only."""
    found = {}
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert name_of[id(parameter)] not in found
            found[name_of[id(parameter)]] = (group["lr"], group["weight_decay"])
    return found


@needs_timm
@pytest.mark.parametrize("zero_1d", [True, False])
def test_learning_rates_decay_from_the_head_to_the_embeddings(cfg: CfgNode, zero_1d: bool) -> None:
    cfg.SOLVER.LAYER_DECAY, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.ZERO_WD_1D_PARAM = 0.5, 0.25, zero_1d
    model = Named()
    optimizer = construct_optimizer(model, cfg)
    for rate in (0.5, 1.0):
        set_learning_rate(optimizer, rate)
    found = rates_and_decays(model, optimizer)
    undecayed = 0.0 if zero_1d else 0.25
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert found["model.head.weight"] == (1.0, 0.25)
    assert found["model.norm.weight"] == (0.5, undecayed)
    assert found["model.blocks.1.temporal_attn.qkv.weight"] == found["model.blocks.1.attn.qkv.weight"] == (0.5, 0.25)
    assert found["model.blocks.0.temporal_fc.bias"] == (0.25, undecayed)
    assert found["model.patch_embed.proj.weight"] == (0.125, 0.25)
    for name in ("cls_token", "pos_embed", "time_embed"):
        assert found[f"model.{name}"] == (0.125, undecayed)


@needs_timm
def test_frozen_layers_are_left_out_of_the_decaying_groups(cfg: CfgNode) -> None:
    cfg.SOLVER.LAYER_DECAY = 0.5
    model = Named()
    freeze(model, "all_but_last_1")
    optimizer = construct_optimizer(model, cfg)
    set_learning_rate(optimizer, 1.0)
    found = rates_and_decays(model, optimizer)
    assert set(found) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {rate for rate, _ in found.values()} == {1.0, 0.5}


def test_set_learning_rate_reaches_every_group(cfg: CfgNode) -> None:
    cfg.SOLVER.ZERO_WD_1D_PARAM = True
    optimizer = construct_optimizer(small_model(), cfg)
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]
