"""Configurations, file trees and expected errors for the tests of datasets on disk."""

from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from timesformer.config import get_cfg
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import DataError


def make_cfg(dataset: str, root: Path, num_classes: int = 2, **data: object) -> CfgNode:
    """Configuration of a dataset in `root`, with other options of DATA."""
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = dataset
    cfg.DATA.PATH_TO_DATA_DIR = str(root)
    cfg.DATA.update(data)
    cfg.MODEL.NUM_CLASSES = num_classes
    return cfg


def clips_of(cfg: CfgNode, split: str = "train") -> list[tuple[str, int]]:
    """Names and labels of the clips of a split."""
    return [(record.name, record.label) for record in load_split(cfg, split).records]


def names_of(cfg: CfgNode, split: str = "train") -> list[str]:
    """Names of the clips of a split."""
    return [name for name, _ in clips_of(cfg, split)]


def assert_fails(cfg: CfgNode, *named: object, split: str = "train") -> None:
    """Loading the split raises a DataError that names files, keys or lines."""
    with pytest.raises(DataError) as raised:
        load_split(cfg, split)
    missing = [str(part) for part in named if str(part) not in str(raised.value)]
    assert not missing, str(raised.value)


def touch(root: Path, *names: str) -> Path:
    """Make empty files below `root`."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(path: Path, *lines: str) -> Path:
    """Write lines to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return path
