"""The training forward pass, and with it the backward pass, compiled by torch.compile."""

import torch
from torch import Tensor, nn

from timesformer.errors import UserError


class Compiled:
    """A model's forward pass, compiled for batches of the one size that nearly all of an epoch have.

    The smaller last batch of an epoch goes through the model as it is, and so does the padding clip of a process that
    has no clip of it: compiling takes minutes, and would be done again for each size and mode. The model itself is left
    alone: its state dict and other callers are not affected.

    Args:
        model: as it is on its device.
        batch_size: clips of a batch to compile for.
    """

    def __init__(self, model: nn.Module, batch_size: int) -> None:
        self.model, self.batch_size = model, batch_size
        self._compiled = torch.compile(model, dynamic=False)

    def __call__(self, clip: Tensor) -> Tensor:
        """Clips [batch, 3, frames, height, width] (float, normalised) to logits [batch, classes].

        Raises:
            UserError: if the model cannot be compiled, because there is no compiler on this machine, for instance.
        """
        if len(clip) != self.batch_size or not self.model.training:
            return self.model(clip)
        try:
            return self._compiled(clip)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise UserError(
                f"TRAIN.COMPILE is True, but the model cannot be compiled here: {_cause(error)}\nInstall a C++ "
                "compiler, g++ or the one that the variable CXX names, and for a GPU Triton; or set TRAIN.COMPILE False"
            ) from error


def _cause(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
