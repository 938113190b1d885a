"""Activation checkpointing and torch.compile, applied to a model from outside."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from timesformer.errors import UserError
from timesformer.models.blocks import Block

_BLOCK_METHODS = ("forward", "forward_divided", "forward_factorised")


def checkpoint_activations(model: nn.Module, mode: str) -> None:
    """Makes transformer blocks recompute their activations in the backward pass (https://arxiv.org/abs/1604.06174).

    Results and gradients are unchanged, with dropout too. `mode` is MODEL.ACT_CHECKPOINT: "none", "blocks" (all) or
    "every_N" (every N-th block, from the first). Raises UserError for a model without `Block`s.
    """
    if mode == "none":
        return
    period = 1 if mode == "blocks" else int(mode.removeprefix("every_"))
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if not blocks:
        raise UserError(f"MODEL.ACT_CHECKPOINT is {mode}, expected none: this model has no blocks of this project")
    for block in blocks[::period]:
        for name in _BLOCK_METHODS:  # a partial, unlike a closure, is copied with its block
            setattr(block, name, partial(checkpoint, getattr(block, name), use_reentrant=False))


class CompiledForward:
    """A model's training forward pass, compiled for batches of `batch_size` clips.

    Smaller batches and evaluation mode run uncompiled, as compiling for another shape or mode takes minutes.
    """

    def __init__(self, model: nn.Module, batch_size: int) -> None:
        self.model, self.batch_size = model, batch_size
        self._compiled = torch.compile(model, dynamic=False)

    def __call__(self, clip: Tensor) -> Tensor:
        """Logits [batch, classes] of clips [batch, 3, frames, height, width] (float, normalized)."""
        if len(clip) != self.batch_size or not self.model.training:
            return self.model(clip)
        try:
            return self._compiled(clip)
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = next(filter(str.strip, str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"TRAIN.COMPILE is True, but the model cannot be compiled: {cause}\nInstall a C++ compiler (g++, or "
                "set CXX) and, for a GPU, Triton; or set TRAIN.COMPILE False"
            ) from error
