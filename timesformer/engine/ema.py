"""The exponential moving average of a model's weights, which often generalises better than the last of them."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights:
    """A copy of a model whose weights follow the model's: average = d * average + (1 - d) * weights, after every step.

    After n earlier updates, d is the smaller of `decay` and n / (n + 9): the first update takes the weights as they
    are, and a short run does not end with an average of where it began. Statistics of batch norms are averaged alike.

    Args:
        model: on the device of the run.
        decay: from 0, the weights themselves, to below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._average = deepcopy(model).requires_grad_(False)
        self._model = model

    def update(self) -> None:
        """Takes in the model's present weights; nothing is read from the device."""
        decay = min(self.decay, self.updates / (self.updates + 9))
        self.updates += 1
        averages, weights = self._average.state_dict(), self._model.state_dict()
        fractions = [name for name, value in weights.items() if value.is_floating_point()]
        # PyTorch's own class reads its counter from the device in every step.
        get_ema_multi_avg_fn(decay)([averages[name] for name in fractions], [weights[name] for name in fractions], None)
        with torch.no_grad():
            for name in weights.keys() - set(fractions):
                averages[name].copy_(weights[name])

    def model(self) -> nn.Module:
        """The averaged model; the model itself before the first update."""
        return self._average if self.updates else self._model

    def state_dict(self) -> dict[str, Any]:
        """The number of updates and the averaged weights, under the model's names."""
        return {"updates": self.updates, "weights": self._average.state_dict()}

    def load_state_dict(self, state: dict[str, int | dict[str, Tensor]]) -> None:
        """Goes on from there."""
        self._average.load_state_dict(state["weights"])
        self.updates = state["updates"]
