"""A loss or weights that are not finite: found without waiting for the device at each step, told with their clips."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from timesformer.errors import UserError, shorten

_LISTED = 16
_ADVICE = (
    "the checkpoints before are as they were. Lower SOLVER.BASE_LR, add SOLVER.WARMUP_EPOCHS, set "
    "SOLVER.CLIP_GRADIENT, or mend clips that are broken"
)


class LossWatch:
    """Keeps the losses of the last steps where they were computed, to look at them when it is time to wait for them.

    Args:
        names: of the videos, by number.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._losses: list[Tensor] = []
        self._batches: list[tuple[int, int, Tensor]] = []

    def add(self, epoch: int, iteration: int, losses: Tensor, videos: Tensor) -> None:
        """Takes in a batch.

        Args:
            epoch: from 0.
            iteration: of the epoch, from 0.
            losses: of its clips [batch], on the device; where a clip counts.
            videos: their numbers [batch], on the CPU; -1 stands for none.
        """
        self._losses.append(losses.detach())
        self._batches.append((epoch, iteration, videos))

    def check(self) -> None:
        """Looks at what was taken in since the last time; reads from the device.

        Raises:
            UserError: if a loss is NaN or infinite, with the videos of the first batch that has one.
        """
        losses, batches = self._losses, self._batches
        self._losses, self._batches = [], []
        if not losses or torch.cat(losses).isfinite().all():
            return
        for values, (epoch, iteration, videos) in zip(losses, batches, strict=True):
            if not values.isfinite().all():
                names = shorten((self._names[video] for video in videos.tolist() if video >= 0), limit=_LISTED)
                raise UserError(
                    f"the training loss became {values.sum().item()} in epoch {epoch + 1}, iteration {iteration + 1}, "
                    f"over the clips {names}; {_ADVICE}"
                )


def refuse_broken_weights(model: nn.Module, when: str) -> None:
    """Raises a UserError if weights are not finite, as after a gradient that was not; reads from the device."""
    broken = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"weights became NaN or infinite by {when}: {shorten(broken)}; {_ADVICE}")
