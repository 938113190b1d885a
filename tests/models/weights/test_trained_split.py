"""A warning where weights were trained on clips that are now for validation or test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fvcore.common.config import CfgNode

from tests.conftest import Outcome
from timesformer.config import get_cfg
from timesformer.models.weights.trained_split import split_changes

FOLDS = {"SPLIT_RULE": "folds", "FOLD": 1}
WARNING = "with another split"


def make_cfg(root: Path, dataset: str = "folder", **data: object) -> CfgNode:
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = dataset
    cfg.DATA.PATH_TO_DATA_DIR = str(root)
    cfg.DATA.update(data)
    return cfg


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (FOLDS, {**FOLDS, "FOLD": 2}, ["DATA.FOLD was 1, is 2"]),
        (FOLDS, {**FOLDS, "NUM_FOLDS": 10}, ["DATA.NUM_FOLDS was 5, is 10"]),
        (FOLDS, {**FOLDS, "SPLIT_GROUPS": r"p\d"}, [r"DATA.SPLIT_GROUPS was '', is p\d"]),
        ({}, FOLDS, ["DATA.SPLIT_RULE was auto, is folds"]),
        ({}, {"SPLIT_SEED": 7}, ["DATA.SPLIT_SEED was 42, is 7"]),
        ({}, {"SPLITS_DIR": "lists"}, ["DATA.SPLITS_DIR was '', is lists"]),
        ({"dataset": "hmdb51"}, {"dataset": "hmdb51", "SPLIT": 3}, ["DATA.SPLIT was 1, is 3"]),
        (FOLDS, FOLDS, []),
        ({}, {"FOLD": 2, "SPLIT": 3}, []),  # options that the split does not read
        ({"dataset": "hmdb51"}, {"dataset": "ucf101", "SPLIT": 3}, []),
        ({}, {"RANDOM_FLIP": False, "NUM_FRAMES": 4}, []),
    ],
)
def test_changed_options_of_the_split(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], expected: list[str]
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    content = {"cfg": make_cfg(tmp_path, **before).dump()}
    assert [str(change) for change in split_changes(make_cfg(tmp_path / "link", **after), content)] == expected
    assert split_changes(make_cfg(tmp_path / "other", **after), content) == []
    assert split_changes(make_cfg(tmp_path, **after), {"cfg": "no: configuration"}) == []


@pytest.mark.slow
def test_training_from_another_fold_warns(
    run_net: Callable[..., Outcome], tiny_command: list[str], tmp_path: Path
) -> None:
    options = ["DATA.SPLIT_RULE", "folds", "DATA.NUM_FOLDS", "3", "SOLVER.MAX_EPOCH", "1", "TEST.ENABLE", "False"]
    command = [*tiny_command, *options, "OUTPUT_DIR"]
    assert run_net(*command, str(tmp_path / "first")).code == 0
    trained = str(tmp_path / "first" / "checkpoints" / "checkpoint_epoch_00001.pyth")
    weights = ["TRAIN.CHECKPOINT_FILE_PATH", trained, "TRAIN.FINETUNE", "True"]
    ways = {
        "finetuned": weights,
        "head": [*weights, "MODEL.FREEZE", "backbone", "FEATURES.ENABLED", "True", "SOLVER.OPTIMIZING_METHOD", "adamw"],
        "continued": ["TRAIN.CHECKPOINT_FILE_PATH", trained, "TRAIN.CHECKPOINT_EPOCH_RESET", "True"],
        "pretrained": ["TIMESFORMER.PRETRAINED_MODEL", trained],
        "taught": ["DISTILL.TEACHER", trained],
    }
    for name, more in ways.items():
        for fold in ("1", "2") if name == "finetuned" else ("2",):
            output = tmp_path / f"{name}_{fold}"
            ended = run_net(*command, str(output), "DATA.FOLD", fold, *more)
            assert ended.code == 0, ended.err
            lines = [line for line in (output / "run.log").read_text().splitlines() if WARNING in line]
            assert len(lines) == (fold == "2"), (name, fold)
            assert all(trained in line and "(DATA.FOLD was 1, is 2)" in line for line in lines)
