"""What a test notes of the data that it was made with."""

import shutil
from pathlib import Path

import torch

from timesformer.config import load_config
from timesformer.datasets.catalog import Splits
from timesformer.engine.results import Evaluation, class_counts


def test_a_split_that_is_not_at_hand_has_no_counts(tiny_command: list[str], tiny_data: Path, tmp_path: Path) -> None:
    data = shutil.copytree(tiny_data, tmp_path / "data", ignore=shutil.ignore_patterns("val"))
    cfg = load_config(tiny_command[1], ["DATA.PATH_TO_DATA_DIR", str(data)])
    labels = torch.tensor([0, 0, 2])
    evaluation = Evaluation(["a", "b", "c"], labels, torch.zeros(3, 3), torch.zeros(3, 3), {"a": "torn"}, 0.0, 1, 1.0)
    assert class_counts(Splits(cfg), evaluation) == {"train": [4, 4, 4], "val": None, "test": [2, 0, 1]}
