"""What a dataset is made of: one record per video, and how a configuration is turned into the records of a split."""

import importlib
from dataclasses import dataclass

from fvcore.common.config import CfgNode

from timesformer.errors import UserError, shorten

SPLITS = ("train", "val", "test")

# Modules that find the records of TRAIN.DATASET / TEST.DATASET, by name; each has find_records(cfg, split).
# They are imported when asked for, because they themselves need the classes below.
FINDERS = {
    "kinetics": "timesformer.datasets.kinetics",
    "hmdb_simp": "timesformer.datasets.hmdb_simp",
}


class DataError(UserError):
    """A dataset on disk that is missing, incomplete or contradicts itself or the configuration."""


@dataclass(frozen=True)
class VideoRecord:
    """One labelled video: `path` is a video file or a folder of frames, `name` a stable id unique in the split."""

    path: str
    label: int
    name: str


@dataclass(frozen=True)
class DatasetSplit:
    """The videos of one split; a record's `label` is an index into `class_names`, which is the same for all splits."""

    records: tuple[VideoRecord, ...]
    class_names: tuple[str, ...]


def load_split(cfg: CfgNode, split: str) -> DatasetSplit:
    """Find the videos of `split` ("train", "val" or "test") of TRAIN.DATASET (train, val) or TEST.DATASET (test).

    Raises DataError when the dataset is not there, is malformed, or does not have MODEL.NUM_CLASSES classes.
    """
    key = "TEST.DATASET" if split == "test" else "TRAIN.DATASET"
    name = cfg.TEST.DATASET if split == "test" else cfg.TRAIN.DATASET
    if name not in FINDERS:
        raise DataError(f"{key} is {name!r}, which is no known dataset: expected one of {', '.join(sorted(FINDERS))}")
    found: DatasetSplit = importlib.import_module(FINDERS[name]).find_records(cfg, split)
    classes = len(found.class_names)
    if classes != cfg.MODEL.NUM_CLASSES:
        raise DataError(
            f"{cfg.DATA.SPLITS_DIR or cfg.DATA.PATH_TO_DATA_DIR} has {classes} classes ({shorten(found.class_names)}), "
            f"but MODEL.NUM_CLASSES is {cfg.MODEL.NUM_CLASSES}: set MODEL.NUM_CLASSES {classes}, "
            "or point DATA.PATH_TO_DATA_DIR to the dataset meant"
        )
    return found


def join_problems(what: str, problems: list[str], remedy: str) -> DataError:
    """Make one error out of several `problems` of the same kind, showing the first few."""
    return DataError("\n".join([f"{what}:", "  " + shorten(problems, "\n  "), remedy]))
