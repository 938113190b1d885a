"""The optimizer and its learning rate over the epochs."""

import bisect
import math

import torch
from fvcore.common.config import CfgNode
from torch import nn

from timesformer.errors import UserError


def construct_optimizer(model: nn.Module, cfg: CfgNode) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZING_METHOD over the trainable parameters.

    With SOLVER.ZERO_WEIGHT_DECAY_1D, biases, norms and embeddings have a group of their own without weight decay.
    """
    solver = cfg.SOLVER
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if solver.ZERO_WEIGHT_DECAY_1D:
        embeddings = {
            f"{prefix}.{name}" if prefix else name
            for prefix, module in model.named_modules()
            if hasattr(module, "no_weight_decay")
            for name in module.no_weight_decay()
        }
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
        )
    optimizer_class = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[solver.OPTIMIZING_METHOD]
    return optimizer_class(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)


def learning_rate(cfg: CfgNode, epoch: float) -> float:
    """The learning rate at a fractional epoch, 0 to SOLVER.MAX_EPOCH.

    "cosine" falls from BASE_LR to COSINE_END_LR along half a cosine; "steps_with_relative_lrs" is BASE_LR times the
    entry of LRS whose STEPS has been reached. Over the first WARMUP_EPOCHS it rises linearly from WARMUP_START_LR to
    the value the policy has at their end.

    Raises:
        UserError: if SOLVER.LR_POLICY is unknown.
    """
    warmup = cfg.SOLVER.WARMUP_EPOCHS
    if epoch < warmup:
        start, end = cfg.SOLVER.WARMUP_START_LR, _policy(cfg, warmup)
        return start + (end - start) * epoch / warmup
    return _policy(cfg, epoch)


def _policy(cfg: CfgNode, epoch: float) -> float:
    solver = cfg.SOLVER
    if solver.LR_POLICY == "cosine":
        fall = solver.BASE_LR - solver.COSINE_END_LR
        return solver.COSINE_END_LR + fall * (math.cos(math.pi * epoch / solver.MAX_EPOCH) + 1.0) * 0.5
    if solver.LR_POLICY == "steps_with_relative_lrs":
        return solver.LRS[bisect.bisect_right(solver.STEPS, epoch) - 1] * solver.BASE_LR
    raise UserError(f"SOLVER.LR_POLICY is {solver.LR_POLICY!r}; it must be cosine or steps_with_relative_lrs")


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every parameter group the learning rate `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate
