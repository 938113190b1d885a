"""Warnings at the start of a training that a few clips are about to train many parameters."""

from fvcore.common.config import CfgNode
from torch import nn

from timesformer.models.complexity import count_parameters, count_trained

LARGE_MODEL = 20_000_000  # trained parameters; a ViT-S has 22 million, a ViT-B 86 million
FEW_FOR_SCRATCH = 2000  # training clips
FEW_FOR_FINETUNING = 500  # training clips


def few_clips_advice(cfg: CfgNode, model: nn.Module, clips: int) -> str:
    """What to do instead of training a large model on so few training clips; "" if they are enough.

    The limits are round numbers between the measurements in docs/small_data.md and the sizes of data sets on which such
    models are usually trained.
    """
    trained = count_trained(model)
    weights = cfg.TRAIN.CHECKPOINT_FILE_PATH or cfg.TIMESFORMER.PRETRAINED_MODEL or cfg.MODEL.PRETRAINED
    if trained <= LARGE_MODEL:
        return ""
    if not weights and clips < FEW_FOR_SCRATCH:
        return (
            f"{clips:,} training clips are few to train {trained / 1e6:.0f} M parameters from random weights, expected "
            f"{FEW_FOR_SCRATCH:,} or more: start from pretrained weights, as configs/Folder does (docs/small_data.md)"
        )
    if weights and clips < FEW_FOR_FINETUNING and trained == count_parameters(model):
        return (
            f"{clips:,} training clips are few to fine-tune all {trained / 1e6:.0f} M parameters, expected "
            f"{FEW_FOR_FINETUNING} or more: a head on cached features (MODEL.FREEZE backbone FEATURES.ENABLED True) or "
            "the last blocks alone (MODEL.FREEZE all_but_last_2) are usually more accurate (docs/small_data.md)"
        )
    return ""
