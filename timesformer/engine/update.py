"""From a loss to new weights: gradients, their scale and norm, the optimizer's step, and the average of the weights."""

from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from timesformer.engine.ema import AveragedWeights
from timesformer.engine.optim import construct_optimizer, set_learning_rate
from timesformer.runtime.device import choose_device


class Update:
    """Changes a model's weights as SOLVER, EMA and TRAIN.MIXED_PRECISION say; nothing here waits for the device.

    Args:
        cfg: the configuration.
        model: on the device of the run; what is frozen of it is so already.

    Attributes:
        parts: what a checkpoint must hold to go on: "optimizer"; "scaler" for fp16; "ema" for EMA.ENABLED.
    """

    def __init__(self, cfg: CfgNode, model: nn.Module) -> None:
        self._model, self._largest_norm = model, cfg.SOLVER.CLIP_GRAD_L2NORM
        self.optimizer = construct_optimizer(model, cfg)
        # In fp16 small gradients would be 0, so the loss is scaled up; steps whose gradients overflow are left out.
        fp16 = cfg.TRAIN.MIXED_PRECISION == "fp16"
        self._scaler = torch.amp.GradScaler(choose_device(cfg).type, enabled=fp16)
        self._average = AveragedWeights(model, cfg.EMA.DECAY) if cfg.EMA.ENABLED else None
        parts = {"optimizer": self.optimizer, "scaler": self._scaler if fp16 else None, "ema": self._average}
        self.parts: dict[str, Any] = {name: part for name, part in parts.items() if part is not None}

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a loss to those that are there."""
        self._scaler.scale(loss).backward()

    def step(self, rate: float) -> None:
        """Changes the weights by the gradients, at this learning rate, and clears them."""
        set_learning_rate(self.optimizer, rate)
        if self._largest_norm > 0:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._model.parameters(), self._largest_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad()
        if self._average:
            self._average.update()

    def outcome(self) -> nn.Module:
        """The model that is validated and kept as the best: the averaged one if there is one."""
        return self._average.model() if self._average else self._model
