"""Classes of unequal size, and what processes see of them."""

from pathlib import Path

import numpy as np
import pytest
from fvcore.common.config import CfgNode

from timesformer.config import load_config
from timesformer.datasets.catalog import load_split
from timesformer.studies.unequal import classes_seen, write_lists


@pytest.fixture
def cfg(tiny_data: Path, tmp_path: Path) -> CfgNode:
    """Of three classes with 4 training, 2 validation and 2 test clips each."""
    options = ["TRAIN.DATASET", "hmdb_simp", "TEST.DATASET", "hmdb_simp", "MODEL.NUM_CLASSES", "3"]
    options += ["DATA.PATH_TO_DATA_DIR", str(tiny_data), "DATA.SPLITS_DIR", str(tmp_path / "lists")]
    return load_config(None, [*options, "TRAIN.BATCH_SIZE", "4"], check_values=False)


def test_classes_lose_training_clips_in_equal_ratios_and_no_others(cfg: CfgNode) -> None:
    write_lists(cfg, 0.25)
    counts = {split: np.bincount(load_split(cfg, split).records.labels).tolist() for split in ("train", "val", "test")}
    assert counts == {"train": [4, 2, 1], "val": [2, 2, 2], "test": [2, 2, 2]}
    assert load_split(cfg, "train").class_names == ("catch", "walk", "wave")


def test_processes_share_the_clips_of_an_epoch(cfg: CfgNode) -> None:
    write_lists(cfg, 0.25)
    names, alone = classes_seen(cfg, 1)
    assert names == ("catch", "walk", "wave")
    assert (alone.counts.tolist(), alone.furthest, alone.absent, alone.clips) == ([[4, 2, 1]], 0.0, 0, (7, 7))
    _, four = classes_seen(cfg, 4)
    assert four.counts.sum(axis=0).tolist() == [4, 2, 1]
    assert four.clips == (1, 2)
    assert four.absent == 2  # a process of one clip sees one class
    assert four.furthest > 40
    cfg.DATA.BALANCE = "oversample"
    _, balanced = classes_seen(cfg, 2)
    assert balanced.counts.sum(axis=0).tolist() == [4, 4, 4]
