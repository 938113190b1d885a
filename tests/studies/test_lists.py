"""Lists of clips that a study makes: imbalanced training sets and other splits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fvcore.common.config import CfgNode
from sklearn.model_selection import train_test_split

from timesformer.config import load_config
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import SPLITS, DataError, DatasetSplit
from timesformer.studies.lists import folder_name, write_lists
from timesformer.studies.study import Row


@pytest.fixture
def write(tiny_data: Path, tmp_path: Path) -> Callable[..., dict[str, DatasetSplit]]:
    """write(**options of a row): the splits of its lists. The dataset has 3 classes of 4, 2 and 2 clips."""

    def made(**options: object) -> dict[str, DatasetSplit]:
        row = Row(name="row", **options)
        folder = tmp_path / folder_name(row)
        settings = ["TRAIN.DATASET", "hmdb_simp", "TEST.DATASET", "hmdb_simp", "MODEL.NUM_CLASSES", "3"]
        settings += ["DATA.PATH_TO_DATA_DIR", str(tiny_data), "DATA.SPLITS_DIR", str(folder)]
        cfg: CfgNode = load_config(None, settings, check_values=False)
        write_lists(cfg, row)
        return {name: load_split(cfg, name) for name in SPLITS}

    return made


def class_counts(splits: dict[str, DatasetSplit]) -> dict[str, list[int]]:
    return {name: np.bincount(split.records.labels, minlength=3).tolist() for name, split in splits.items()}


def test_long_tail_reduces_training_clips_only(write: Callable[..., dict[str, DatasetSplit]]) -> None:
    splits = write(rarest=0.25)
    assert class_counts(splits) == {"train": [4, 2, 1], "val": [2, 2, 2], "test": [2, 2, 2]}
    assert splits["train"].class_names == ("catch", "walk", "wave")


def test_stratified_and_plain_splits_are_those_of_scikit_learn(write: Callable[..., dict[str, DatasetSplit]]) -> None:
    """All 24 clips, split again; a plain split has other numbers of clips per class."""
    split = {"test": 0.25, "val": 0.25, "seed": 3}
    stratified, plain = write(split=split), write(split={**split, "stratified": False})
    assert class_counts(stratified)["test"] == [2, 2, 2]
    clips = sorted((record.path, record.label) for part in stratified.values() for record in part.records)
    assert len(set(clips)) == 24
    expected = sorted(train_test_split(clips, test_size=0.25, random_state=3)[1])
    assert sorted((record.path, record.label) for record in plain["test"].records) == expected
    assert len(plain["val"].records) == 5  # a quarter of 18, rounded up


def test_too_few_clips_are_an_error(write: Callable[..., dict[str, DatasetSplit]]) -> None:
    with pytest.raises(DataError, match="24 clips"):
        write(split={"test": 0.05})
