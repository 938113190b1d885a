"""The registry of datasets, and `load_split`, which finds the clips of a split as the configuration says."""

from collections import Counter

import numpy as np
from fvcore.common.config import CfgNode
from fvcore.common.registry import Registry

from timesformer.datasets.folds import draw_folds
from timesformer.datasets.manifest import find_manifest
from timesformer.datasets.records import DataError, DatasetSplit, join_problems
from timesformer.datasets.sources.folder import folder, hmdb_simp
from timesformer.datasets.sources.kinetics import kinetics
from timesformer.datasets.sources.lists import has_repeats
from timesformer.datasets.sources.muwiges import muwiges
from timesformer.datasets.sources.official_splits import hmdb51, ucf101
from timesformer.datasets.sources.shards import note_problems
from timesformer.datasets.sources.ssv2 import ssv2
from timesformer.errors import counted, shorten

DATASET_REGISTRY = Registry("DATASET")
"""Functions `name(cfg, split) -> DatasetSplit`, by the name that TRAIN.DATASET and TEST.DATASET select."""

for _dataset in (folder, hmdb51, hmdb_simp, kinetics, muwiges, ssv2, ucf101):
    DATASET_REGISTRY.register(_dataset)


def find_clips(cfg: CfgNode, split: str, folds: dict[str, DatasetSplit] | None = None) -> DatasetSplit:
    """Find the clips as `load_split`, for any number of classes, without manifest and checks."""
    find = DATASET_REGISTRY.get(cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET)
    if cfg.DATA.SPLIT_RULE != "folds":
        return find(cfg, split)
    folds = {} if folds is None else folds
    if not folds:
        folds |= draw_folds(cfg, find)
    return folds[split]


def load_split(cfg: CfgNode, split: str, folds: dict[str, DatasetSplit] | None = None) -> DatasetSplit:
    """Find the clips of `split` ("train", "val" or "test") of TRAIN.DATASET (train, val) or TEST.DATASET (test).

    With DATA.SPLIT_RULE folds, the splits are those of a fold (`draw_folds`); `folds` keeps them for the next call. A
    manifest in DATA.PATH_TO_DATA_DIR, else in DATA.PATH_PREFIX, adds frame counts and known problems to the records.
    Raises DataError if the dataset is unknown, missing, malformed, or does not have MODEL.NUM_CLASSES classes.
    """
    key = "TEST.DATASET" if split == "test" else "TRAIN.DATASET"
    name = cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET
    if name not in DATASET_REGISTRY:
        names = ", ".join(sorted(name for name, _ in DATASET_REGISTRY))
        raise DataError(f"{key} is {name!r}, expected one of {names}, or one that --import or IMPORTS registers")
    try:
        found = find_clips(cfg, split, folds)
    except DataError as error:
        if cfg.TRAIN.DATASET == cfg.TEST.DATASET:
            raise
        names = f"(TRAIN.DATASET is {cfg.TRAIN.DATASET}, but TEST.DATASET {cfg.TEST.DATASET})"
        raise DataError(f"{error}\n{names}") from error
    _check_split(found, f"{key} {name}, split {split}")
    if (classes := len(found.class_names)) != cfg.MODEL.NUM_CLASSES:
        raise DataError(
            f"{cfg.DATA.SPLITS_DIR or cfg.DATA.PATH_TO_DATA_DIR} has {counted(classes, 'class')} "
            f"({shorten(found.class_names)}), "
            f"but MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}: set MODEL.NUM_CLASSES {classes}, "
            "or point DATA.PATH_TO_DATA_DIR to another dataset"
        )
    if manifest := find_manifest(cfg):
        manifest.apply_to(found.records)
    note_problems(found.records)
    if cfg.DATA.ON_UNREADABLE == "error" and (problems := found.records.problems):
        raise join_problems(
            f"{len(problems)} of {len(found.records)} clips of the {split} split cannot be read",
            [f"{found.records[number].path}: {problem}" for number, problem in problems.items()],
            "fix them or remove them from the split, or set DATA.ON_UNREADABLE continue",
        )
    return found


def _check_split(found: DatasetSplit, source: str) -> None:
    """Raise DataError for a split without clips, with a label that has no class, or with a name that repeats."""
    records, classes = found.records, len(found.class_names)
    if not len(records):
        raise DataError(f"{source}: no clips")
    if records.labels.min() < 0 or records.labels.max() >= classes:
        number = int(np.flatnonzero((records.labels < 0) | (records.labels >= classes))[0])
        raise DataError(
            f"{source}: label {records.labels[number]} of {records.names[number]}, expected 0 to {classes - 1}"
        )
    if has_repeats(records.names):
        repeated = [name for name, count in Counter(records.names).items() if count > 1]
        if repeated:
            raise DataError(f"{source}: {repeated[0]} is the name of several clips; names must be unique")


class Splits:
    """The splits of a run by name, each found on disk once, when it is first needed."""

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg
        self._found: dict[str, DatasetSplit] = {}
        self._folds: dict[str, DatasetSplit] = {}

    def __getitem__(self, split: str) -> DatasetSplit:
        """The clips of "train", "val" or "test"; raises as `load_split`."""
        if split not in self._found:
            self._found[split] = load_split(self._cfg, split, self._folds)
        return self._found[split]
