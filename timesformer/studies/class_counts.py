"""The classes that the processes of a data-parallel run see."""

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.datasets.catalog import load_split
from timesformer.datasets.loader import EpochBatchSampler


def count_classes(cfg: CfgNode, processes: int) -> np.ndarray:
    """Clips of each class that each process sees in the first epoch of training, int [processes, classes]."""
    split = load_split(cfg, "train")
    labels = split.records.labels
    balanced = labels if cfg.DATA.BALANCE == "oversample" else None
    counts = []
    for rank in range(processes):
        batches = (cfg.TRAIN.BATCH_SIZE, cfg.RNG_SEED, True, rank, processes)
        sampler = EpochBatchSampler(len(labels), *batches, labels=balanced)
        counts.append(np.bincount(labels[sampler.indices()], minlength=len(split.class_names)))
    return np.stack(counts)
