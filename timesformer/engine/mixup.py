"""Mixup and CutMix: the clips of a training batch are mixed in pairs, and their labels with them."""

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from timesformer.datasets.transforms.augmentation import seeded_globals
from timesformer.torchvision_import import import_package


class ClipMixup:
    """What MIXUP says, by timm (mixup: Zhang et al. 2017, https://arxiv.org/abs/1710.09412; CutMix: Yun et al. 2019,
    https://arxiv.org/abs/1905.04899).

    The first clip is mixed with the last, the second with the last but one, and so on; where their number is odd, as
    if the last were there twice. The rectangle of CutMix is the same in all frames. SOLVER.LABEL_SMOOTHING goes into
    the mixed labels. What is drawn depends on (RNG_SEED, epoch, iteration) alone.

    Raises:
        UserError: if timm cannot be imported.
    """

    def __init__(self, cfg: CfgNode) -> None:
        options = cfg.MIXUP
        timm = import_package("timm.data.mixup", "MIXUP.ENABLED True")
        self._seed = cfg.RNG_SEED
        self._mixup = timm.Mixup(
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
        """Mixes a batch.

        Args:
            clip: [batch, 3, frames, height, width], float; may be overwritten.
            label: [batch], int64.
            epoch: from 0.
            iteration: of the epoch, from 0.

        Returns:
            The clips, and their labels as probabilities [batch, classes], float32.
        """
        number, channels_and_frames = len(label), clip.shape[1:3]
        pictures = clip.flatten(1, 2)  # timm cuts rectangles out of the last two of four dimensions
        if number % 2:  # timm mixes even batches only
            pictures, label = torch.cat((pictures, pictures[-1:])), torch.cat((label, label[-1:]))
        with seeded_globals(self._seed, epoch, iteration):
            pictures, target = self._mixup(pictures, label)
        return pictures[:number].unflatten(1, channels_and_frames), target[:number]


def heaviest_labels(label: Tensor) -> Tensor:
    """Labels [batch], int64: those given, or of probabilities [batch, classes] the class with most."""
    return label.argmax(dim=1) if label.ndim == 2 else label
