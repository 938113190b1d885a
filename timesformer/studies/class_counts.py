"""Imbalanced training sets, and the classes that the processes of a data-parallel run see."""

from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.atomic import write_text_atomically
from timesformer.datasets.catalog import load_split
from timesformer.datasets.loader import EpochBatchSampler
from timesformer.datasets.records import SPLITS, DatasetSplit


def write_lists(cfg: CfgNode, rarest: float) -> None:
    """Writes train.csv, val.csv, test.csv and classes.txt of the dataset into DATA.SPLITS_DIR.

    Class c of C, in label order, keeps its first round(n * rarest ** (c / (C - 1))) training clips, at least one: the
    "long tail" of Cui et al. 2019 (https://arxiv.org/abs/1901.05555). Validation and test are complete.
    """
    folder, complete = Path(cfg.DATA.SPLITS_DIR), cfg.clone()
    complete.DATA.SPLITS_DIR = ""
    splits = {name: load_split(complete, name) for name in SPLITS}
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        chosen = _long_tail(split, rarest if name == "train" else 1.0)
        rows = [(Path(record.path).resolve(), record.label) for record in map(split.records.__getitem__, chosen)]
        lines = [f"{path}{cfg.DATA.PATH_LABEL_SEPARATOR}{label}\n" for path, label in rows]
        write_text_atomically(folder / f"{name}.csv", "".join(lines))
    write_text_atomically(folder / "classes.txt", "".join(f"{name}\n" for name in splits["train"].class_names))


def _long_tail(split: DatasetSplit, rarest: float) -> list[int]:
    """Indices of the records that are kept."""
    last, chosen = max(1, len(split.class_names) - 1), []
    for label in range(len(split.class_names)):
        members = np.flatnonzero(split.records.labels == label)
        kept = max(1, round(len(members) * rarest ** (label / last)))
        chosen += members[:kept].tolist()
    return sorted(chosen)


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
