"""Splits of any folder of classes: by files, by folders, and drawn at random."""

import os
import re
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from timesformer.config import get_cfg
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import SPLITS, DataError
from timesformer.datasets.sources import folder


def config(root: Path, num_classes: int = 2, **data: str | float) -> CfgNode:
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "folder"
    cfg.DATA.PATH_TO_DATA_DIR = str(root)
    cfg.MODEL.NUM_CLASSES = num_classes
    cfg.DATA.update(data)
    return cfg


def splits(root: Path, **options) -> dict[str, set[str]]:
    """Names of the clips of each split, without extension."""
    cfg = config(root, **options)
    return {split: {record.name.split(".")[0] for record in load_split(cfg, split).records} for split in SPLITS}


def fails(root: Path, message: str, split: str = "train", **options) -> None:
    with pytest.raises(DataError, match=message):
        load_split(config(root, **options), split)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """50 clips of `wave` and 20 of `catch`."""
    return touch(tmp_path, *[f"wave/w{n}.mp4" for n in range(50)], *[f"catch/c{n}.avi" for n in range(20)])


def test_a_dataset_set_for_training_alone_is_told(tmp_path):
    cfg = config(tmp_path)
    cfg.TEST.DATASET = "hmdb_simp"
    with pytest.raises(DataError, match=r"\(TRAIN.DATASET is folder, but TEST.DATASET hmdb_simp\)"):
        load_split(cfg, "test")


def test_the_rule_is_the_first_that_is_there(root):
    assert sum(map(len, splits(root).values())) == 70
    touch(root, *[f"{split}/{label}/clip_{split}.mp4" for split in SPLITS for label in ("wave", "catch")])
    (root / "train/wave/clip_train.mp4").write_text("another")
    (root / "val/wave/clip_val.mp4").write_text("a third")
    assert splits(root)["val"] == {"wave/clip_val", "catch/clip_val"}
    for n, split in enumerate(SPLITS):
        (root / f"{split}.csv").write_text(f"class,video_name\nwave,w{n}\ncatch,c{n}\n")
    assert splits(root)["val"] == {"wave/w1", "catch/c1"}
    assert splits(root, SPLIT_RULE="folders")["val"] == {"wave/clip_val", "catch/clip_val"}


def test_what_a_random_split_depends_on_is_an_error_beside_a_split_on_disk(root):
    touch(root, *[f"{split}/{label}/clip_{split}.mp4" for split in SPLITS for label in ("wave", "catch")])
    fails(root, "DATA.SPLIT_SEED is 1, .* split by folders .such as train.: set DATA.SPLIT_RULE random", SPLIT_SEED=1)
    (root / "train.csv").write_text("class,video_name\nwave,w0\n")
    fails(root, r"DATA.SPLIT_GROUPS is 'w', .* split by files .such as train.csv.", SPLIT_GROUPS="w")


def test_the_rule_that_is_asked_for_must_be_there(root):
    fails(root, "no split files found: .*train.csv is not there.*DATA.SPLIT_RULE", SPLIT_RULE="files")
    fails(root, "no split folders found: .*train is not there", SPLIT_RULE="folders")


def test_at_random_every_class_gives_its_share_and_no_clip_is_lost(root):
    found = splits(root, TEST_FRACTION=0.1, VAL_FRACTION=0.2)
    counts = {
        split: [sum(n.startswith(label) for n in names) for label in ("wave", "catch")]
        for split, names in found.items()
    }
    assert counts == {"train": [36, 14], "val": [9, 4], "test": [5, 2]}
    assert len(set().union(*found.values())) == 70


def test_a_random_split_depends_on_the_names_and_its_seed_alone(root, tmp_path_factory):
    found = splits(root)
    assert splits(root, SPLIT_SEED=43) != found
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    touch(elsewhere, *[f"catch/c{n}.mp4" for n in range(20)])  # encoded anew
    for n in reversed(range(50)):
        touch(elsewhere, f"wave/w{n}/0001.jpg")
    assert splits(elsewhere) == found


def test_names_that_are_not_utf8_are_split_like_others(root):
    for number in range(3):
        (root / "wave" / os.fsdecode(b"caf\xe9%d.mp4" % number)).touch()
    assert len(set().union(*splits(root).values())) == 73


def test_a_clip_that_is_added_moves_at_most_two_others_of_its_class(root):
    before = splits(root)
    for number in range(20):
        touch(root, f"wave/new{number}.mp4")
        after = splits(root)
        moved = [name for split in SPLITS for name in before[split] - after[split]]
        assert len(moved) <= 2
        assert all(name.startswith("wave") for name in moved)
        before = after


@pytest.mark.parametrize("pattern", [r"\w+_g\d+", r"_(g\d+)"])
def test_clips_of_a_group_stay_together(tmp_path, pattern):
    touch(tmp_path, *[f"{label}/v_{label}_g{g:02d}_c{c}.avi" for label in "ab" for g in range(10) for c in range(4)])
    found = splits(tmp_path, SPLIT_GROUPS=pattern, TEST_FRACTION=0.2, VAL_FRACTION=0.25)
    assert [len(found[split]) for split in SPLITS] == [48, 16, 16]
    groups = [{re.search(pattern, name).groups() or name[:-3] for name in found[split]} for split in SPLITS]
    assert len(set.union(*groups)) == sum(map(len, groups))


def test_a_clip_without_a_group_is_an_error(root):
    fails(root, "(?s)clips that DATA.SPLIT_GROUPS 'w.' finds nothing in:.*catch/c0", SPLIT_GROUPS=r"w.")


def test_large_groups_leave_something_for_every_split(tmp_path):
    touch(tmp_path, *[f"a/g{g}_{c}.avi" for g, size in enumerate((50, 1, 1)) for c in range(size)])
    found = splits(tmp_path, num_classes=1, SPLIT_GROUPS=r"g\d")
    assert all(found.values())


@pytest.mark.parametrize(
    ("names", "message", "options"),
    [
        ([], "holds no class folders: expected .*/<class>/<clip>", {}),
        (["wave/a.mp4", "wave/b.mp4"], r"(?s)classes with fewer than 3 clips:.*wave \(2\)", {}),
        (["wave/notes.txt"], "(?s)classes without clips:.*wave", {}),
        (
            [f"{g}/{g}{n}.mp4" for g in "abc" for n in range(2)],
            "(?s)fewer than 3 groups:.*a .1.",
            {"SPLIT_GROUPS": "a|b|c"},
        ),
    ],
)
def test_folders_that_cannot_be_split_are_errors(tmp_path, names, message, options):
    fails(touch(tmp_path, *names), message, **options)


def test_a_class_that_a_split_of_groups_has_no_clip_of_is_named(tmp_path, caplog):
    refused = ""
    touch(tmp_path, *[f"wave/s{s}_{n}.mp4" for s in range(10) for n in range(2)], "catch/s0_9.mp4", "catch/s0_10.mp4")
    cfg = config(tmp_path, SPLIT_GROUPS=r"s\d+")
    for cfg.DATA.SPLIT_SEED in range(100):  # subject 0, who alone has clips of `catch`, is in any of the splits
        try:
            train = load_split(cfg, "train").records
        except DataError as error:
            refused = str(error)
            continue
        caplog.clear()
        load_split(cfg, "test")
        assert "no clip of catch in the test split" in caplog.text
        assert {record.label for record in train} == {0, 1}
    assert "classes without training clips:\n  catch" in refused


def test_a_random_split_of_many_clips_puts_each_into_one_split(monkeypatch, tmp_path):
    monkeypatch.setattr(folder, "list_classes", lambda root: [root / f"class_{n:03d}" for n in range(400)])
    monkeypatch.setattr(folder, "clip_names", lambda path, skipped: [f"{path.name}_{n:03d}.mp4" for n in range(100)])
    cfg = config(tmp_path, num_classes=400, SPLIT_RULE="random")
    found = {split: [record.name for record in load_split(cfg, split).records] for split in SPLITS}
    # Of each class a tenth to the test, and a tenth of the others to the validation.
    assert {split: len(names) for split, names in found.items()} == {"train": 32_400, "val": 3_600, "test": 4_000}
    assert len(set().union(*found.values())) == 40_000
