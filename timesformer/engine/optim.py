"""The optimizer, its learning rate schedule, and the moving average of the weights."""

import bisect
import math
from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from timesformer.errors import UserError
from timesformer.models.lora import merged_copy
from timesformer.models.parts import head_parameters, layer_numbers, temporal_parameters
from timesformer.torchvision_import import import_package


def construct_optimizer(
    model: nn.Module, cfg: CfgNode, frozen_for_now: Sequence[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZING_METHOD over the trainable parameters and those `frozen_for_now`, with PyTorch's fused kernels.

    Groups have no weight decay (SOLVER.ZERO_WD_1D_PARAM) or a factor `lr_scale` on the rate (SOLVER.LAYER_DECAY,
    HEAD_LR_SCALE, TEMPORAL_LR_SCALE). Raises UserError if no parameter has one of these two factors.
    """
    for parameter in frozen_for_now:
        parameter.requires_grad_(True)
    solver, embeddings = cfg.SOLVER, set()
    for prefix, module in model.named_modules():
        if hasattr(module, "no_weight_decay"):
            embeddings |= {f"{prefix}.{name}".removeprefix(".") for name in module.no_weight_decay()}
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if solver.LAYER_DECAY < 1:
        timm, numbers = import_package("timm.optim", f"SOLVER.LAYER_DECAY {solver.LAYER_DECAY}"), layer_numbers(model)
        groups = timm.param_groups_layer_decay(  # uses only this of a timm model
            SimpleNamespace(named_parameters=model.named_parameters, group_matcher=lambda coarse: numbers.__getitem__),
            weight_decay=solver.WEIGHT_DECAY,
            no_weight_decay_list=embeddings if solver.ZERO_WD_1D_PARAM else (),
            weight_decay_exclude_1d=solver.ZERO_WD_1D_PARAM,
            layer_decay=solver.LAYER_DECAY,
        )
    elif solver.ZERO_WD_1D_PARAM:  # not timm's: the order of the groups is that of the checkpoints
        groups = [{"params": []}, {"params": [], "weight_decay": 0.0}]
        for name, parameter in parameters:
            groups[parameter.ndim <= 1 or name in embeddings]["params"].append(parameter)
    else:
        groups = [{"params": [p for _, p in parameters]}]
    for key, scale, names_of in (
        ("SOLVER.HEAD_LR_SCALE", solver.HEAD_LR_SCALE, head_parameters),
        ("SOLVER.TEMPORAL_LR_SCALE", solver.TEMPORAL_LR_SCALE, temporal_parameters),
    ):
        if scale != 1:
            names = names_of(model)
            chosen = {id(parameter) for name, parameter in parameters if name in names}
            if not chosen:
                raise UserError(f"{key} is {scale}, expected 1: no such parameters are trained")
            groups = [part for group in groups for part in _split(group, chosen, scale)]
    if later := {id(parameter.requires_grad_(False)) for parameter in frozen_for_now}:
        # Fused SGD needs momentum for all parameters of a group or for none.
        groups = [part for group in groups for part in _split(group, later)]
    # Fused SGD corrupts its momentum in the steps that loss scaling skips.
    fused = (solver.OPTIMIZING_METHOD, cfg.TRAIN.MIXED_PRECISION) != ("sgd", "fp16")
    options = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY, "fused": fused}
    if solver.OPTIMIZING_METHOD == "sgd":
        options |= {"momentum": solver.MOMENTUM, "dampening": solver.DAMPENING, "nesterov": solver.NESTEROV}
    optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return optimizers[solver.OPTIMIZING_METHOD](groups, **options)


def _split(group: dict[str, Any], chosen: Collection[int], scale: float = 1.0) -> list[dict[str, Any]]:
    """A parameter group without the `chosen` parameters (by `id`), and one with them and the rate times `scale`."""
    parts = [{**group, "params": [p for p in group["params"] if (id(p) in chosen) == is_in]} for is_in in (False, True)]
    if scale != 1:
        parts[1]["lr_scale"] = group.get("lr_scale", 1.0) * scale
    return [part for part in parts if part["params"]]


class ModelEma:
    """Exponential moving average of weights and buffers, by timm; the decay after n updates is at most n / (n + 9)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        timm = import_package("timm.utils.model_ema", "EMA.ENABLED True")
        # Of a model with low-rank updates, the average is that of the merged weights.
        self._ema = timm.ModelEmaV3(merged_copy(model), decay, use_warmup=True, warmup_gamma=9.0, warmup_power=1.0)
        self._ema.requires_grad_(False)
        self._model, self.updates = model, 0

    def update(self) -> None:
        """Adds the current weights to the average; the first update copies them."""
        self.updates += 1
        self._ema.update(self._model, self.updates)

    def eval_model(self) -> nn.Module:
        """The averaged model; the model itself before the first update."""
        return self._ema.module if self.updates else self._model

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "weights": self._ema.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._ema.module.load_state_dict(state["weights"])
        self.updates = state["updates"]


def batches_per_step(cfg: CfgNode) -> int:
    """Batches of TRAIN.BATCH_SIZE clips, on each of the NUM_SHARDS nodes, per optimizer step."""
    return max(1, cfg.GLOBAL_BATCH_SIZE // (cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS))


def clips_per_step(cfg: CfgNode) -> int:
    """Clips on all nodes per optimizer step."""
    return batches_per_step(cfg) * cfg.TRAIN.BATCH_SIZE * cfg.NUM_SHARDS


def learning_rate_scale(cfg: CfgNode) -> float:
    """The factor on all learning rates: the number of nodes, or the linear scaling rule (arXiv:1706.02677)."""
    if cfg.SOLVER.BASE_LR_SCALE_NUM_SHARDS:
        return float(cfg.NUM_SHARDS)
    reference = cfg.SOLVER.LR_SCALE_BATCH_SIZE
    return clips_per_step(cfg) / reference if reference else 1.0


def learning_rate_of_batch(cfg: CfgNode, epoch: int, batch: int, batches: int) -> float:
    """The learning rate of the optimizer step whose last batch is `batch` of the `batches` of an epoch, from 0.

    linear and onecycle count optimizer steps, as PyTorch's schedulers do; a batch of cached features is one. The
    original's policies depend on the number of the batch: accumulation of gradients delays them by less than a step.
    """
    if cfg.SOLVER.LR_POLICY in ("linear", "onecycle"):
        accumulate = 1 if cfg.FEATURES.ENABLED else batches_per_step(cfg)
        steps = math.ceil(batches / accumulate)
        return learning_rate(cfg, epoch + batch // accumulate / steps, 1 / steps)
    return learning_rate(cfg, epoch + batch / batches)


def learning_rate(cfg: CfgNode, epoch: float, step: float = 0.0) -> float:
    """The learning rate at a fractional epoch, 0 to SOLVER.MAX_EPOCH, times `learning_rate_scale`.

    Over the first WARMUP_EPOCHS it rises linearly from WARMUP_START_LR to the value of LR_POLICY at their end; onecycle
    has its own rise. `step` is the length of an optimizer step in epochs, with which the last step of onecycle has its
    lowest rate.
    """
    solver, warmup = cfg.SOLVER, cfg.SOLVER.WARMUP_EPOCHS
    if solver.LR_POLICY == "onecycle":
        return _onecycle(cfg, epoch, step) * learning_rate_scale(cfg)
    after_warmup = max(epoch, warmup)
    if solver.LR_POLICY == "steps_with_relative_lrs":
        lr = solver.LRS[bisect.bisect_right(solver.STEPS, after_warmup) - 1] * solver.BASE_LR
    elif solver.LR_POLICY == "linear":
        left = (solver.MAX_EPOCH - after_warmup) / (solver.MAX_EPOCH - warmup)
        lr = solver.COSINE_END_LR + (solver.BASE_LR - solver.COSINE_END_LR) * left
    else:
        lr = _cosine(solver.BASE_LR, solver.COSINE_END_LR, after_warmup / solver.MAX_EPOCH)
    if epoch < warmup:
        lr = solver.WARMUP_START_LR + (lr - solver.WARMUP_START_LR) * epoch / warmup
    return lr * learning_rate_scale(cfg)


def _onecycle(cfg: CfgNode, epoch: float, step: float) -> float:
    """PyTorch's OneCycleLR with its default factors: half a cosine up to BASE_LR, and half a cosine down.

    The rise takes WARMUP_EPOCHS from WARMUP_START_LR, or without them 30 % of training from BASE_LR / 25.
    """
    solver, warmup = cfg.SOLVER, cfg.SOLVER.WARMUP_EPOCHS
    start = solver.WARMUP_START_LR if warmup else solver.BASE_LR / 25
    top, end = (warmup or 0.3 * solver.MAX_EPOCH) - step, solver.MAX_EPOCH - step  # of the first step at each rate
    if epoch < top:
        return _cosine(start, solver.BASE_LR, epoch / top)
    return _cosine(solver.BASE_LR, start / 1e4, min(1.0, (epoch - top) / (end - top)))


def _cosine(start: float, end: float, fraction: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * (math.cos(math.pi * fraction) + 1.0) * 0.5


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of each parameter group to `lr`, times its `lr_scale` if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
