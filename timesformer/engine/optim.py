"""The optimizer and its learning rate over the epochs."""

import bisect
import math
from collections.abc import Callable

import torch
from fvcore.common.config import CfgNode
from torch import nn

from timesformer.errors import UserError
from timesformer.models.parts import layer_numbers
from timesformer.torchvision_import import import_package


def construct_optimizer(model: nn.Module, cfg: CfgNode) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZING_METHOD over the trainable parameters, fused: one kernel instead of one for each operation.

    With SOLVER.ZERO_WD_1D_PARAM, biases, norms and embeddings have a group of their own without weight decay. With
    SOLVER.LAYER_DECAY below 1, each layer has groups of its own, with a factor `lr_scale` on the learning rate.
    """
    solver = cfg.SOLVER
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    embeddings = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if hasattr(module, "no_weight_decay")
        for name in module.no_weight_decay()
    }
    if solver.LAYER_DECAY < 1:
        timm = import_package("timm.optim", f"SOLVER.LAYER_DECAY {solver.LAYER_DECAY}")
        groups = timm.param_groups_layer_decay(
            _Layered(model),
            weight_decay=solver.WEIGHT_DECAY,
            no_weight_decay_list=embeddings if solver.ZERO_WD_1D_PARAM else (),
            weight_decay_exclude_1d=solver.ZERO_WD_1D_PARAM,
            layer_decay=solver.LAYER_DECAY,
        )
    elif solver.ZERO_WD_1D_PARAM:
        free = [p for name, p in parameters if p.ndim <= 1 or name in embeddings]
        decayed = [p for name, p in parameters if p.ndim > 1 and name not in embeddings]
        groups = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
    else:
        groups = [{"params": [p for _, p in parameters]}]
    if solver.OPTIMIZING_METHOD == "sgd":
        return torch.optim.SGD(
            groups,
            lr=solver.BASE_LR,
            momentum=solver.MOMENTUM,
            weight_decay=solver.WEIGHT_DECAY,
            dampening=solver.DAMPENING,
            nesterov=solver.NESTEROV,
            fused=True,
        )
    optimizer_class = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[solver.OPTIMIZING_METHOD]
    return optimizer_class(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, fused=True)


class _Layered:
    """What timm asks of a model to sort its parameters by layer."""

    def __init__(self, model: nn.Module) -> None:
        self.named_parameters = model.named_parameters
        self.numbers = layer_numbers(model)

    def group_matcher(self, coarse: bool) -> Callable[[str], int]:
        return self.numbers.__getitem__


def batches_per_step(cfg: CfgNode) -> int:
    """How many batches of TRAIN.BATCH_SIZE clips on each of the NUM_SHARDS machines are a step of the optimizer."""
    return max(1, cfg.GLOBAL_BATCH_SIZE // (cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS))


def clips_per_step(cfg: CfgNode) -> int:
    """How many clips, on all machines together, are a step of the optimizer."""
    return batches_per_step(cfg) * cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS


def learning_rate_scale(cfg: CfgNode) -> float:
    """What all learning rates are multiplied by.

    It is the number of machines with SOLVER.BASE_LR_SCALE_NUM_SHARDS; with SOLVER.LR_SCALE_BATCH_SIZE, how many times
    as many clips a step has (Goyal et al. 2017, https://arxiv.org/abs/1706.02677).
    """
    if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS:
        return float(cfg.NUM_SHARDS)
    reference = cfg.SOLVER.LR_SCALE_BATCH_SIZE
    return clips_per_step(cfg) / reference if reference else 1.0


def learning_rate(cfg: CfgNode, epoch: float) -> float:
    """The learning rate at a fractional epoch, 0 to SOLVER.MAX_EPOCH, times `learning_rate_scale`.

    "cosine" falls from BASE_LR to COSINE_END_LR along half a cosine; "steps_with_relative_lrs" is BASE_LR times the
    entry of LRS whose STEPS has been reached. Over the first WARMUP_EPOCHS it rises linearly from WARMUP_START_LR to
    the value the policy has at their end.

    Raises:
        UserError: if SOLVER.LR_POLICY is unknown.
    """
    warmup, scale = cfg.SOLVER.WARMUP_EPOCHS, learning_rate_scale(cfg)
    if epoch < warmup:
        start, end = cfg.SOLVER.WARMUP_START_LR, _policy(cfg, warmup)
        return scale * (start + (end - start) * epoch / warmup)
    return scale * _policy(cfg, epoch)


def _policy(cfg: CfgNode, epoch: float) -> float:
    solver = cfg.SOLVER
    if solver.LR_POLICY == "cosine":
        fall = solver.BASE_LR - solver.COSINE_END_LR
        return solver.COSINE_END_LR + fall * (math.cos(math.pi * epoch / solver.MAX_EPOCH) + 1.0) * 0.5
    if solver.LR_POLICY == "steps_with_relative_lrs":
        return solver.LRS[bisect.bisect_right(solver.STEPS, epoch) - 1] * solver.BASE_LR
    raise UserError(f"SOLVER.LR_POLICY is {solver.LR_POLICY!r}; it must be cosine or steps_with_relative_lrs")


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every parameter group the learning rate `rate`, times its `lr_scale` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)
