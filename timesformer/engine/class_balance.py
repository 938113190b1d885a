"""Classes of unequal size: what their clips weigh in the training loss, and what a process sees of them."""

import logging

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.utils.data import DataLoader

logger = logging.getLogger(__name__)


def class_weights(cfg: CfgNode, labels: np.ndarray) -> Tensor:
    """What a clip of each class weighs in the training loss.

    With DATA.BALANCE class_weights that is inversely proportional to the number of clips of the class, and on average 1
    over all clips; otherwise 1.

    Args:
        cfg: the configuration.
        labels: of the training clips, int (clips,).

    Returns:
        [classes], float; 0 for a class without clips if they are weighted.
    """
    if cfg.DATA.BALANCE != "class_weights":
        return torch.ones(cfg.MODEL.NUM_CLASSES)
    counts = torch.from_numpy(np.bincount(labels, minlength=cfg.MODEL.NUM_CLASSES))
    return torch.where(counts > 0, len(labels) / ((counts > 0).sum() * counts), 0.0)


def clip_weights(target: Tensor, weights: Tensor) -> Tensor:
    """What each clip of a batch weighs, [batch]: its class's weight, or for a mixture of classes the mean of theirs.

    Args:
        target: labels [batch], int64, or shares of the classes [batch, classes], float, that sum to 1.
        weights: of the classes, [classes].
    """
    return weights[target] if target.ndim == 1 else target @ weights


def log_classes(cfg: CfgNode, loader: DataLoader) -> None:
    """Logs how many clips of each class this process sees in the epoch that its loader of "train" is set to."""
    sampler, dataset = loader.batch_sampler, loader.dataset
    names, seen = dataset.class_names, dataset.records.labels[sampler.indices()]
    counts = np.bincount(seen, minlength=len(names))
    smallest, largest = int(counts.argmin()), int(counts.argmax())
    spread = f"{counts[0]} of each class"
    if counts[smallest] < counts[largest]:
        spread = f"from {counts[smallest]} ({names[smallest]}) to {counts[largest]} ({names[largest]}) of a class"
    process = f"process {sampler.rank} of {sampler.world_size}"
    logger.info("%s sees %d clips in an epoch, %s (DATA.BALANCE %s)", process, len(seen), spread, cfg.DATA.BALANCE)
    weights = class_weights(cfg, dataset.records.labels).tolist()
    weigh = cfg.DATA.BALANCE == "class_weights"
    table = [
        f"{name} {count}" + (f" (weight {weight:.3f})" if weigh else "")
        for name, count, weight in zip(names, counts, weights, strict=True)
    ]
    logger.debug("%s, clips by class: %s", process, ", ".join(table))
