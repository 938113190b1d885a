"""The training loss: Mixup and CutMix, class weights, and the detection of NaN and Inf."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import DataLoader

from timesformer.datasets.transforms.augmentation import seeded_globals
from timesformer.errors import UserError, shorten
from timesformer.runtime.distributed import all_gather_objects
from timesformer.torchvision_import import import_package

logger = logging.getLogger(__name__)

LOSSES = {"cross_entropy": F.cross_entropy}
"""Loss functions by MODEL.LOSS_FUNC, called with (logits, target, reduction, label_smoothing)."""

_ADVICE = "earlier checkpoints are intact. Lower SOLVER.BASE_LR, set SOLVER.CLIP_GRAD_L2NORM, or fix broken clips"


class ClassificationLoss:
    """MODEL.LOSS_FUNC of each clip, with SOLVER.LABEL_SMOOTHING and the class weights of DATA.BALANCE.

    `labels` are those of the training clips, int (clips,); `device` is that of logits and targets.
    """

    def __init__(self, cfg: CfgNode, labels: np.ndarray, device: torch.device) -> None:
        self._function = LOSSES[cfg.MODEL.LOSS_FUNC]
        self._smoothing = 0.0 if cfg.MIXUP.ENABLED else cfg.SOLVER.LABEL_SMOOTHING  # Mixup smooths the labels itself
        self._weights = class_weights(cfg, labels).to(device)

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Losses [batch], float32, of logits [batch, classes] and labels [batch] or probabilities [batch, classes]."""
        if logits.shape != (expected := (len(target), len(self._weights))):
            raise UserError(f"the model returned logits {[*logits.shape]}, expected {[*expected]} (MODEL.NUM_CLASSES)")
        losses = self._function(logits.float(), target, reduction="none", label_smoothing=self._smoothing)
        return losses * (self._weights[target] if target.ndim == 1 else target @ self._weights)


def class_weights(cfg: CfgNode, labels: np.ndarray) -> Tensor:
    """Weights of the classes in the training loss, [classes], float: 1, unless DATA.BALANCE is class_weights.

    They are then inversely proportional to the number of clips of the class, with mean 1 over all clips.
    """
    if cfg.DATA.BALANCE != "class_weights":
        return torch.ones(cfg.MODEL.NUM_CLASSES)
    counts = torch.from_numpy(np.bincount(labels, minlength=cfg.MODEL.NUM_CLASSES))
    return torch.where(counts > 0, len(labels) / ((counts > 0).sum() * counts), 0.0)


def log_class_counts(cfg: CfgNode, loader: DataLoader) -> None:
    """Logs the clips of each class that this process gets in the epoch of its training loader."""
    sampler, names = loader.batch_sampler, loader.dataset.class_names
    counts = np.bincount(loader.dataset.records.labels[sampler.indices()], minlength=len(names))
    least, most = counts.argmin(), counts.argmax()
    by_class = f"{counts[least]} ({names[least]}) to {counts[most]} ({names[most]})"
    if counts[least] == counts[most]:
        by_class = str(counts[least])
    logger.info(
        f"process {sampler.rank} of {sampler.world_size}: {counts.sum()} clips per epoch, {by_class} per class "
        f"(DATA.BALANCE {cfg.DATA.BALANCE})"
    )


class ClipMixup:
    """Mixup (https://arxiv.org/abs/1710.09412) and CutMix (https://arxiv.org/abs/1905.04899) of clips, by timm.

    The rectangle of CutMix is the same in all frames. SOLVER.LABEL_SMOOTHING goes into the mixed labels. Random numbers
    depend on (RNG_SEED, epoch, iteration) only.
    """

    def __init__(self, cfg: CfgNode) -> None:
        options = cfg.MIXUP
        self._seed = cfg.RNG_SEED
        self._mixup = import_package("timm.data.mixup", "MIXUP.ENABLED True").Mixup(
            mixup_alpha=options.ALPHA,
            cutmix_alpha=options.CUTMIX_ALPHA,
            cutmix_minmax=options.CUTMIX_MINMAX or None,
            prob=options.PROB,
            switch_prob=options.SWITCH_PROB,
            mode=options.MODE,
            label_smoothing=cfg.SOLVER.LABEL_SMOOTHING,
            num_classes=cfg.MODEL.NUM_CLASSES,
        )

    def __call__(self, clip: Tensor, label: Tensor, epoch: int, iteration: int) -> tuple[Tensor, Tensor]:
        """Mixes clips [batch, 3, frames, height, width], float, maybe in place, and their labels [batch], int64.

        Returns the clips, and the labels as probabilities [batch, classes], float32.
        """
        number, channels_and_frames = len(label), clip.shape[1:3]
        images = clip.flatten(1, 2)  # timm cuts rectangles out of the last two of four dimensions
        if number % 2:  # timm mixes even batches only
            images, label = torch.cat((images, images[-1:])), torch.cat((label, label[-1:]))
        with seeded_globals(self._seed, epoch, iteration):
            images, target = self._mixup(images, label)
        return images[:number].unflatten(1, channels_and_frames), target[:number]


class FiniteCheck:
    """Detects NaN and Inf without per-step syncs with the device, and reports the clips by name."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._model, self._names = model, names
        self._losses: list[Tensor] = []
        self._batches: list[tuple[int, int, Tensor]] = []

    def add(self, epoch: int, iteration: int, losses: Tensor, videos: Tensor) -> None:
        """Stores the losses [batch] of a batch, and its record numbers [batch] (-1 for padding clips) on the CPU."""
        self._losses.append(losses.detach())
        self._batches.append((epoch, iteration, videos))

    def check_losses(self) -> None:
        """Checks the losses added since the last call; syncs with the device. All processes must call it together.

        The UserError names the clips of the first broken batch of all processes, as it breaks the weights of all.
        """
        if broken := [found for found in all_gather_objects(self._first_broken()) if found]:
            epoch, iteration, loss, names = min(broken, key=lambda found: found[:2])
            raise UserError(
                f"the training loss became {loss} in epoch {epoch + 1}, iteration {iteration + 1}, over the clips "
                f"{names}; {_ADVICE}"
            )

    def _first_broken(self) -> tuple[int, int, float, str] | None:
        losses, batches = self._losses, self._batches
        self._losses, self._batches = [], []
        if losses and not torch.cat(losses).isfinite().all():
            for values, (epoch, iteration, videos) in zip(losses, batches, strict=True):
                if not values.isfinite().all():
                    names = (self._names[video] for video in videos.tolist() if video >= 0)
                    return epoch, iteration, values.sum().item(), shorten(names, limit=16)
        return None

    def check_weights(self, when: str) -> None:
        """Raises a UserError if weights or buffers are NaN or Inf; syncs with the device."""
        broken = [name for name, value in self._model.state_dict().items() if not value.isfinite().all()]
        if broken:
            raise UserError(f"weights became NaN or infinite by {when}: {shorten(broken)}; {_ADVICE}")
