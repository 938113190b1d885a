"""Training clips of unequal classes, made by leaving clips out; and what the processes of a run see of the classes."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fvcore.common.config import CfgNode

from timesformer.atomic import write_text_atomically
from timesformer.datasets.catalog import load_split
from timesformer.datasets.loader import EpochBatchSampler
from timesformer.datasets.records import SPLITS, DatasetSplit


def lists_folder(output: Path, data: Path, rarest: float) -> Path:
    """Where the lists lie by which the rarest class of `data` keeps that share of its training clips."""
    return output.resolve() / "lists" / f"{data.name}_rarest_{rarest:g}"


def write_lists(cfg: CfgNode, rarest: float) -> None:
    """Writes train.csv, val.csv, test.csv and classes.txt of DATA.PATH_TO_DATA_DIR into the DATA.SPLITS_DIR of `cfg`.

    Class c of C, in label order, keeps its first round(n * rarest ** (c / (C - 1))) training clips, one at least: the
    "long tail" of Cui et al. 2019 (https://arxiv.org/abs/1901.05555). Validation and test are whole.

    Raises DataError if the dataset cannot be found.
    """
    folder, whole = Path(cfg.DATA.SPLITS_DIR), cfg.clone()
    whole.DATA.SPLITS_DIR = ""
    splits = {name: load_split(whole, name) for name in SPLITS}
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        chosen = _first_of_classes(split, rarest if name == "train" else 1.0)
        rows = [(Path(record.path).resolve(), record.label) for record in map(split.records.__getitem__, chosen)]
        lines = [f"{path}{cfg.DATA.PATH_LABEL_SEPARATOR}{label}\n" for path, label in rows]
        write_text_atomically(folder / f"{name}.csv", "".join(lines))
    write_text_atomically(folder / "classes.txt", "".join(f"{name}\n" for name in splits["train"].class_names))


def _first_of_classes(split: DatasetSplit, rarest: float) -> list[int]:
    labels, last = split.records.labels, max(1, len(split.class_names) - 1)
    chosen = []
    for label in range(len(split.class_names)):
        members = np.flatnonzero(labels == label)
        kept = max(1, round(len(members) * rarest ** (label / last))) if len(members) else 0
        chosen += members[:kept].tolist()
    return sorted(chosen)


class Seen(NamedTuple):
    """What the processes of a run see of the classes in the first epoch.

    Attributes:
        processes: how many there are.
        clips: of each process, smallest and largest number.
        counts: clips of each class that each process sees, int (processes, classes).
        furthest: largest difference, over processes and classes, between a class's share of a process's clips and its
            share of the clips of all, in percent of the clips.
        absent: most classes that a process sees no clip of.
    """

    processes: int
    clips: tuple[int, int]
    counts: np.ndarray
    furthest: float
    absent: int


def classes_seen(cfg: CfgNode, processes: int) -> tuple[tuple[str, ...], Seen]:
    """Names of the classes, and what so many processes see of them with this configuration.

    The batches are those of training: TRAIN.BATCH_SIZE clips, divided among the processes.

    Raises DataError if the dataset cannot be found.
    """
    split = load_split(cfg, "train")
    labels = split.records.labels
    counts = np.stack(
        [np.bincount(labels[own], minlength=len(split.class_names)) for own in _own(cfg, labels, processes)]
    )
    sizes = counts.sum(axis=1)
    shares, share_of_all = counts / np.maximum(1, sizes)[:, None], counts.sum(axis=0) / counts.sum()
    return split.class_names, Seen(
        processes=processes,
        clips=(int(sizes.min()), int(sizes.max())),
        counts=counts,
        furthest=float(100 * np.abs(shares - share_of_all).max()),
        absent=int((counts == 0).sum(axis=1).max()),
    )


def _own(cfg: CfgNode, labels: np.ndarray, processes: int) -> Iterator[np.ndarray]:
    balanced = labels if cfg.DATA.BALANCE == "oversample" else None
    for rank in range(processes):
        sampler = EpochBatchSampler(
            len(labels),
            cfg.TRAIN.BATCH_SIZE,
            cfg.RNG_SEED,
            shuffle=True,
            rank=rank,
            world_size=processes,
            labels=balanced,
        )
        yield sampler.indices()
