"""The datasets by name, and how a configuration is turned into the records of a split."""

import importlib
from dataclasses import replace
from pathlib import Path

from fvcore.common.config import CfgNode

from timesformer.datasets.manifest import open_manifest
from timesformer.datasets.records import DataError, DatasetSplit, join_problems
from timesformer.errors import shorten
from timesformer.preparation.download import download_if_asked

# Modules that find the records of TRAIN.DATASET / TEST.DATASET, by name; each has find_records(cfg, split).
FINDERS = {
    "kinetics": "timesformer.datasets.sources.kinetics",
    "ssv2": "timesformer.datasets.sources.ssv2",
    "hmdb_simp": "timesformer.datasets.sources.hmdb_simp",
    "hmdb51": "timesformer.datasets.sources.hmdb51",
    "ucf101": "timesformer.datasets.sources.ucf101",
    "muwiges": "timesformer.datasets.sources.muwiges",
    "folder": "timesformer.datasets.sources.folder",
}


def load_split(cfg: CfgNode, split: str) -> DatasetSplit:
    """Find the videos of `split` ("train", "val" or "test") of TRAIN.DATASET (train, val) or TEST.DATASET (test).

    With DATA.DOWNLOAD, it is fetched first where it is missing. What a manifest in DATA.PATH_TO_DATA_DIR, else in
    DATA.PATH_PREFIX, knows of the videos is in their records.

    Raises DataError when the dataset is not there, is malformed, or does not have MODEL.NUM_CLASSES classes, and
    DownloadError when it cannot be fetched.
    """
    key = "TEST.DATASET" if split == "test" else "TRAIN.DATASET"
    name = cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET
    if name not in FINDERS:
        raise DataError(f"{key} is {name!r}, which is no known dataset: expected one of {', '.join(sorted(FINDERS))}")
    download_if_asked(cfg, name)
    try:
        found: DatasetSplit = importlib.import_module(FINDERS[name]).find_records(cfg, split)
    except DataError as error:
        if cfg.TRAIN.DATASET == cfg.TEST.DATASET:
            raise
        # Whoever set one of the two and forgot the other would be sent looking in the wrong place.
        message = f"{error}\n(TRAIN.DATASET is {cfg.TRAIN.DATASET}, but TEST.DATASET {cfg.TEST.DATASET})"
        raise DataError(message) from error
    classes = len(found.class_names)
    if classes != cfg.MODEL.NUM_CLASSES:
        raise DataError(
            f"{cfg.DATA.SPLITS_DIR or cfg.DATA.PATH_TO_DATA_DIR} has {classes} classes ({shorten(found.class_names)}), "
            f"but MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}: set MODEL.NUM_CLASSES {classes}, "
            "or point DATA.PATH_TO_DATA_DIR to the dataset meant"
        )
    manifests = (open_manifest(Path(folder)) for folder in (cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.PATH_PREFIX) if folder)
    if manifest := next(filter(None, manifests), None):
        found = replace(found, records=manifest.describe_all(found.records))
    if cfg.DATA.ON_UNREADABLE == "error" and (problems := found.records.problems):
        raise join_problems(
            f"{len(problems)} of {len(found.records)} clips of the {split} split cannot be read",
            [f"{found.records[number].path}: {problem}" for number, problem in problems.items()],
            "mend them or take them out of the split, or set DATA.ON_UNREADABLE continue",
        )
    return found
