"""A loss or weights that are not finite: found without waiting for the device at each step, told with their clips."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from timesformer.errors import UserError, shorten
from timesformer.runtime.distributed import all_gather_objects

_LISTED = 16
_ADVICE = (
    "the checkpoints before are as they were. Lower SOLVER.BASE_LR, add SOLVER.WARMUP_EPOCHS, set "
    "SOLVER.CLIP_GRAD_L2NORM, or mend clips that are broken"
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
        """Looks at what was taken in since the last time; reads from the device. All processes must do so at once.

        Raises:
            UserError: if a loss is NaN or infinite, with the videos of the first batch that has one: in a later one it
                may come of the weights that the first has left, in all processes.
        """
        if broken := [found for found in all_gather_objects(self._first_broken()) if found]:
            epoch, iteration, loss, names = min(broken, key=lambda found: found[:2])
            raise UserError(
                f"the training loss became {loss} in epoch {epoch + 1}, iteration {iteration + 1}, over the clips "
                f"{names}; {_ADVICE}"
            )

    def _first_broken(self) -> tuple[int, int, float, str] | None:
        """Epoch, iteration, loss and clips of the first batch whose loss is not finite; forgets all of them."""
        losses, batches = self._losses, self._batches
        self._losses, self._batches = [], []
        if losses and not torch.cat(losses).isfinite().all():
            for values, (epoch, iteration, videos) in zip(losses, batches, strict=True):
                if not values.isfinite().all():
                    names = (self._names[video] for video in videos.tolist() if video >= 0)
                    return epoch, iteration, values.sum().item(), shorten(names, limit=_LISTED)
        return None


def refuse_broken_weights(model: nn.Module, when: str) -> None:
    """Raises a UserError if weights are not finite, as after a gradient that was not; reads from the device."""
    broken = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"weights became NaN or infinite by {when}: {shorten(broken)}; {_ADVICE}")
