"""Folds over the clips of all splits of a dataset, compared with those of scikit-learn."""

import re
from collections import Counter
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode
from sklearn.model_selection import StratifiedGroupKFold

from tests.datasets.sources.common import assert_fails, make_cfg, touch, write
from timesformer.config.check import check
from timesformer.datasets.catalog import Splits, load_split
from timesformer.datasets.records import SPLITS

GROUPS = r"r\d+"


def options(folds: int, **more: object) -> dict[str, object]:
    return {"SPLIT_RULE": "folds", "NUM_FOLDS": folds, "VAL_FRACTION": 0.25, **more}


def paths_of(cfg: CfgNode) -> dict[str, set[str]]:
    """Paths of the clips of each split."""
    splits = Splits(cfg)
    return {split: {record.path for record in splits[split].records} for split in SPLITS}


def group(path: str) -> str:
    return re.search(GROUPS, Path(path).name)[0]


@pytest.fixture
def names() -> list[str]:
    """12 recordings r0 to r11, each with 2 to 5 clips of `wave` or `catch`."""
    return [f"{('wave', 'catch')[r % 2 if r < 8 else n % 2]}/r{r}_{n}.mp4" for r in range(12) for n in range(2 + r % 4)]


@pytest.fixture(params=["folder", "folder with lists", "hmdb_simp", "kinetics", "kinetics without test"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path, names: list[str]) -> CfgNode:
    """The recordings in the form of a dataset, most of them with a split that the folds ignore."""
    kind, split_of = request.param, [SPLITS[number % 3 if number > 5 else 0] for number in range(len(names))]
    if kind == "kinetics without test":
        split_of = ["val" if split == "test" else split for split in split_of]
    for split in set(split_of):
        mine = [name for name, own in zip(names, split_of, strict=True) if own == split]
        touch(tmp_path / split if kind == "hmdb_simp" else tmp_path, *mine)
        if kind == "folder with lists":
            write(tmp_path / f"{split}.csv", "class,video_name", *[name.replace("/", ",") for name in mine])
        if kind.startswith("kinetics"):
            write(tmp_path / f"{split}.csv", *[f"{name} {int(name.startswith('wave'))}" for name in mine])
    more = {"PATH_PREFIX": str(tmp_path)} if kind.startswith("kinetics") else {}
    return make_cfg(kind.split()[0], tmp_path, **options(4, SPLIT_GROUPS=GROUPS, **more))


def test_each_clip_is_tested_once_with_its_group_in_scikit_learns_folds(dataset: CfgNode, names: list[str]) -> None:
    folds = []
    for dataset.DATA.FOLD in (1, 2, 3, 4):
        assert not [problem for problem in check(dataset, gpus=False) if problem.key.startswith("DATA.S")]
        folds.append(paths_of(dataset))
    paths = sorted(set().union(*folds[0].values()), key=lambda path: path.split("/")[-2:])
    assert [path.split("/")[-2:] for path in paths] == [name.split("/") for name in sorted(names)]
    labels, groups = [path.split("/")[-2] for path in paths], [group(path) for path in paths]
    groups = [[*dict.fromkeys(groups)].index(one) for one in groups]  # numbered as they appear
    expected = StratifiedGroupKFold(4, shuffle=True, random_state=42).split(paths, labels, groups)
    assert [found["test"] for found in folds] == [{paths[i] for i in test} for _, test in expected]
    for found in folds:
        assert sorted(path for of_split in found.values() for path in of_split) == sorted(paths)
        train, val, test = ({group(path) for path in found[split]} for split in SPLITS)
        assert not train & val | train & test | val & test
    validated = Counter(path for found in folds for path in found["val"])
    assert max(validated.values()) <= 2  # not the same clips in each fold


def test_clips_of_one_name_in_two_splits_are_different_clips(tmp_path: Path) -> None:
    root, names = tmp_path, [f"{split}/{label}/{n}.mp4" for split in SPLITS for label in "ab" for n in range(3)]
    for name in (*names, "train/a/own.mp4"):
        write(root / name, name)
    cfg = make_cfg("hmdb_simp", root, **options(3))
    folds = [{split: load_split(cfg, split) for split in SPLITS} for cfg.DATA.FOLD in (1, 2, 3)]
    tested = [record for found in folds for record in found["test"].records]
    assert len({record.path for record in tested}) == len(tested) == 19
    assert all(record.path == f"{root}/{record.name}" for record in tested if record.name != "a/own.mp4")
    assert "a/own.mp4" in {record.name for record in tested}


def test_clips_listed_for_validation_and_test_count_once(tmp_path: Path) -> None:
    touch(tmp_path, *[f"{n}.mp4" for n in range(16)])
    rows = [f"{n}.mp4 {n % 2}" for n in range(16)]
    for split, of_split in {"train": rows[:10], "val": rows[10:], "test": rows[12:]}.items():
        write(tmp_path / f"{split}.csv", *of_split)
    found = paths_of(make_cfg("kinetics", tmp_path, PATH_PREFIX=str(tmp_path), **options(4)))
    assert sorted(len(paths) for paths in found.values()) == [3, 4, 9]


@pytest.mark.parametrize("dataset", ["folder", "hmdb_simp"])
def test_validation_clips_of_one_class_are_reported_with_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dataset: str
) -> None:
    """Each recording has clips of one class; with a small fraction, one recording is for validation."""
    clips = [f"{('down', 'up')[number % 2]}/r{number}_{clip}.mp4" for number in range(12) for clip in range(3)]
    touch(tmp_path / "train" if dataset == "hmdb_simp" else tmp_path, *clips)
    expected = {0.01: {"DATA.VAL_FRACTION", "DATA.SPLIT_SEED"}, 0.3: set()}
    for fraction, keys in expected.items():
        caplog.clear()
        cfg = make_cfg(dataset, tmp_path, **options(3, SPLIT_GROUPS=GROUPS) | {"VAL_FRACTION": fraction})
        labels = load_split(cfg, "val").records.labels
        assert len(set(labels.tolist())) == (1 if keys else 2)
        assert set(re.findall(r"DATA\.\w+", caplog.text)) == keys


def test_too_few_clips_or_invalid_options_are_errors(tmp_path: Path, names: list[str]) -> None:
    root = touch(tmp_path, *names)
    assert_fails(make_cfg("folder", root, **options(12, SPLIT_GROUPS=GROUPS)), root, "DATA.NUM_FOLDS")
    assert_fails(make_cfg("folder", root, **options(25)), "wave", "DATA.NUM_FOLDS")
    wrong = make_cfg("folder", root, **options(5, FOLD=6))
    wrong.TEST.DATASET = "kinetics"
    assert {"DATA.FOLD", "DATA.SPLIT_RULE"} <= {problem.key for problem in check(wrong)}
    wrong = make_cfg("hmdb_simp", root, SPLIT_RULE="random")
    assert "DATA.SPLIT_RULE" in {problem.key for problem in check(wrong)}
