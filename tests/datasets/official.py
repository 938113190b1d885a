"""What the tests of the datasets with official splits ask of a dataset: a configuration, its clips, its errors."""

from pathlib import Path
from typing import NamedTuple

import pytest
from fvcore.common.config import CfgNode

from timesformer.config import get_cfg
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import DataError


class OfficialDataset(NamedTuple):
    """A dataset by its name, and how many classes the test's small one has."""

    dataset: str
    num_classes: int

    def config(self, root: Path, split: int = 1, classes: int = 0, **data: str | float) -> CfgNode:
        cfg = get_cfg()
        cfg.TRAIN.DATASET = cfg.TEST.DATASET = self.dataset
        cfg.DATA.PATH_TO_DATA_DIR = str(root)
        cfg.DATA.SPLIT = split
        cfg.DATA.update(data)
        cfg.MODEL.NUM_CLASSES = classes or self.num_classes
        return cfg

    def names(self, root: Path, part: str, **options) -> list[str]:
        return [record.name for record in load_split(self.config(root, **options), part).records]

    def fails(self, root: Path, message: str, part: str = "train", **options) -> str:
        with pytest.raises(DataError, match=message) as caught:
            load_split(self.config(root, **options), part)
        return str(caught.value)
