"""Activation checkpointing: blocks keep their inputs alone, and compute the rest again for the backward pass.

(Chen et al. 2016, https://arxiv.org/abs/1604.06174.) It is put on a model from outside; models do not know of it.
"""

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from timesformer.errors import UserError
from timesformer.models.blocks import Block

_WAYS = ("forward", "forward_divided", "forward_factorised")


def recompute_blocks(model: nn.Module, which: str) -> None:
    """Makes a model's transformer blocks compute their activations again in the backward pass.

    Results and gradients stay as they are, with dropout too, whose random numbers are drawn again alike.

    Args:
        model: with blocks of type `Block`.
        which: MODEL.ACT_CHECKPOINT: "none", "blocks" (all) or "every_N" (one of N blocks, from the first).

    Raises:
        UserError: if the model has no such blocks.
    """
    if which == "none":
        return
    period = 1 if which == "blocks" else int(which.removeprefix("every_"))
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    if not blocks:
        raise UserError(
            f"MODEL.ACT_CHECKPOINT is {which}, expected none: the model of MODEL.MODEL_NAME is not made of this "
            "project's transformer blocks"
        )
    for block in blocks[::period]:
        for name in _WAYS:  # a partial, unlike a closure, is copied with the block that it belongs to
            setattr(block, name, partial(checkpoint, getattr(block, name), use_reentrant=False))
