"""The classes that processes see."""

from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from timesformer.config import load_config
from timesformer.studies.class_counts import count_classes
from timesformer.studies.lists import write_lists
from timesformer.studies.study import Row


@pytest.fixture
def cfg(tiny_data: Path, tmp_path: Path) -> CfgNode:
    """Three classes with 4 training, 2 validation and 2 test clips each, reduced to a long tail."""
    options = ["TRAIN.DATASET", "hmdb_simp", "TEST.DATASET", "hmdb_simp", "MODEL.NUM_CLASSES", "3"]
    options += ["DATA.PATH_TO_DATA_DIR", str(tiny_data), "DATA.SPLITS_DIR", str(tmp_path / "lists")]
    cfg = load_config(None, [*options, "TRAIN.BATCH_SIZE", "4"], check_values=False)
    write_lists(cfg, Row(name="long tail", rarest=0.25))
    return cfg


def test_processes_share_the_clips_of_an_epoch(cfg: CfgNode) -> None:
    assert count_classes(cfg, 1).tolist() == [[4, 2, 1]]
    four = count_classes(cfg, 4)
    assert four.sum(axis=0).tolist() == [4, 2, 1]
    assert sorted(four.sum(axis=1)) == [1, 2, 2, 2]
    cfg.DATA.BALANCE = "oversample"
    assert count_classes(cfg, 2).sum(axis=0).tolist() == [4, 4, 4]
