"""Whether a dataset's own lists and the clips on disk belong together, as training with its defaults will see it."""

from pathlib import Path

from timesformer.config import get_cfg
from timesformer.datasets.catalog import DATASET_REGISTRY
from timesformer.datasets.records import SPLITS
from timesformer.errors import UserError

LISTED = ("hmdb51", "ucf101", "muwiges")
"""Datasets, by their names in TRAIN.DATASET, whose lists always lie with the clips."""


def find_problems(dataset: str, root: Path) -> list[str]:
    """Why training would refuse the lists of a dataset of LISTED in `root`, each reason once; none if all is well.

    Lists are missing or damaged, or name clips that are not there.
    """
    cfg = get_cfg()
    cfg.DATA.PATH_TO_DATA_DIR = str(root)
    find, problems = DATASET_REGISTRY.get(dataset), []
    for split in SPLITS:
        try:
            find(cfg, split)
        except UserError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))
