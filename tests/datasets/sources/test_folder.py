"""Folders of classes, split by files, by folders, and at random: the datasets folder and hmdb_simp."""

import os
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.sources.common import assert_fails, make_cfg, names_of, touch, write
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import SPLITS, VideoRecord

make = partial(make_cfg, "folder")


def splits(root: Path, **data: Any) -> dict[str, set[str]]:
    """Names of the clips of each split, without extension."""
    return {split: {name.split(".")[0] for name in names_of(make(root, **data), split)} for split in SPLITS}


class TestFiles:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """Frame folders in `wave`, video files in `catch`, and split files."""
        for number in range(6):
            (tmp_path / "wave" / f"w{number}").mkdir(parents=True)
            touch(tmp_path, f"catch/c{number}.mp4")
        write(tmp_path / "train.csv", "class,video_name", "wave,w0", "wave,w1", "catch,c0.mp4", "catch,c1")
        write(tmp_path / "val.csv", "class,video_name", "wave,w2", "catch,c2")
        write(tmp_path / "test.csv", "class,video_name", "wave,w4", "catch,c4")
        return tmp_path

    @pytest.mark.parametrize("dataset", ["folder", "hmdb_simp"])
    def test_clips_are_found_with_or_without_extension(self, root: Path, dataset: str) -> None:
        found = load_split(make_cfg(dataset, root), "train")
        assert found.class_names == ("catch", "wave")
        assert tuple(found.records) == (
            VideoRecord(str(root / "wave/w0"), 1, "wave/w0"),
            VideoRecord(str(root / "wave/w1"), 1, "wave/w1"),
            VideoRecord(str(root / "catch/c0.mp4"), 0, "catch/c0.mp4"),
            VideoRecord(str(root / "catch/c1.mp4"), 0, "catch/c1"),
        )
        (root / "wave/anna/w9").mkdir(parents=True)
        write(root / "test.csv", "class,video_name", "wave,w4.avi", "catch,c4.AVI", "wave,anna/w9")
        paths = [record.path for record in load_split(make_cfg(dataset, root), "test").records]
        assert paths == [f"{root}/wave/w4", f"{root}/catch/c4.mp4", f"{root}/wave/anna/w9"]

    @pytest.mark.parametrize("dataset", ["folder", "hmdb_simp"])
    def test_lists_of_paths(self, root: Path, dataset: str) -> None:
        write(root / "train.csv", "wave/w0,1", "catch/c 0.mp4,0")
        cfg = make_cfg(dataset, root, PATH_PREFIX=str(root), PATH_LABEL_SEPARATOR=",")
        for split in ("val", "test"):
            (root / f"{split}.csv").unlink()
        assert [(r.path, r.label) for r in load_split(cfg, "train").records] == [
            (f"{root}/wave/w0", 1),
            (f"{root}/catch/c 0.mp4", 0),
        ]

    def test_split_files_of_the_study(self, shared: Path, tmp_path: Path) -> None:
        for split in SPLITS:
            for line in (shared / f"hmdb_simp_splits/{split}.csv").read_text().split()[1:]:
                (tmp_path / line.replace(",", "/")).mkdir(parents=True)
        cfg = make_cfg("hmdb_simp", tmp_path, 25, SPLITS_DIR=str(shared / "hmdb_simp_splits"))
        found = {split: load_split(cfg, split) for split in SPLITS}
        assert [len(found[split].records) for split in SPLITS] == [900, 225, 125]
        (class_names,) = {split.class_names for split in found.values()}
        assert (class_names[0], class_names[-1]) == ("brush_hair", "wave")
        assert found["train"].records[0].path == f"{tmp_path}/smoke/92D80861"

    def test_classes_are_those_of_all_splits(self, root: Path) -> None:
        (root / "aim/a0").mkdir(parents=True)
        write(root / "train.csv", *(root / "train.csv").read_text().split(), "aim,a0")
        assert {load_split(make(root, 3), split).class_names for split in SPLITS} == {("aim", "catch", "wave")}
        assert_fails(make(root, 400), "MODEL.NUM_CLASSES 3")
        write(root / "train.csv", "class,video_name", "wave,w0", "aim,a0")
        assert_fails(make(root, 3), "train.csv", "catch")

    @pytest.mark.parametrize("line", ["wave", ",w0", "wave,gone", "catch,c0.mp4", "wave,w2"])
    def test_bad_lines_and_missing_and_repeated_clips_are_errors(self, root: Path, line: str) -> None:
        write(root / "train.csv", "class,video_name", "wave,w0", "", line, "catch,c0")
        assert_fails(make(root), "train.csv", "line 4")

    @pytest.mark.parametrize("dataset", ["folder", "hmdb_simp"])
    def test_missing_clips_name_the_way_to_split_again(self, root: Path, dataset: str) -> None:
        write(root / "my lists/train.csv", "class,video_name", "wave,w0", "catch,gone.mp4")
        command = f"timesformer prepare hmdb_simp {root} --output '{root}/my lists' --force"
        remedy = command if dataset == "hmdb_simp" else "DATA.SPLIT_RULE random"
        assert_fails(make_cfg(dataset, root, SPLITS_DIR=f"{root}/my lists"), "line 3", remedy)

    def test_wrong_headers_and_missing_lists_are_errors(self, root: Path) -> None:
        for lines in (["class;video_name", "wave;w0"], ["class,video", "wave,w0"], ["class,video_name"]):
            write(root / "train.csv", *lines)
            assert_fails(make(root), "train.csv")
        (root / "val.csv").unlink()
        assert_fails(make(root), "val.csv", split="val")
        assert_fails(make_cfg("hmdb_simp", root / "wave"), f"timesformer prepare hmdb_simp {root}/wave")


class TestFolders:
    def test_clips_and_classes(self, hmdb_root: Path) -> None:
        found = load_split(make_cfg("hmdb_simp", hmdb_root), "val")
        assert found.class_names == ("catch", "wave")
        names = ["catch/clip10", "catch/clip11", "wave/clip8", "wave/clip9"]
        assert [record.path for record in found.records] == [f"{hmdb_root}/val/{name}" for name in names]
        assert found.records.labels.tolist() == [0, 0, 1, 1]

    def test_missing_and_empty_folders_are_errors(self, hmdb_root: Path) -> None:
        (hmdb_root / "train/yawn").mkdir()
        assert_fails(make(hmdb_root, 3), hmdb_root / "train/yawn")
        shutil.rmtree(hmdb_root / "test")
        assert_fails(make(hmdb_root, 3), hmdb_root / "test", split="test")

    def test_same_clip_in_two_splits_is_an_error(self, hmdb_root: Path) -> None:
        shutil.copytree(hmdb_root / "train/wave/clip1", hmdb_root / "test/wave/clip0")
        assert len(names_of(make(hmdb_root))) == 8  # the same name is not enough
        shutil.rmtree(hmdb_root / "test/wave/clip0")
        shutil.copytree(hmdb_root / "train/wave/clip0", hmdb_root / "test/wave/clip0")
        assert_fails(make(hmdb_root), f"{hmdb_root}/train/wave/clip0", f"{hmdb_root}/test/wave/clip0")


class TestRandom:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """50 clips of `wave` and 20 of `catch`."""
        return touch(tmp_path, *[f"wave/w{n}.mp4" for n in range(50)], *[f"catch/c{n}.avi" for n in range(20)])

    def test_auto_takes_the_first_rule_on_disk(self, root: Path) -> None:
        assert sum(map(len, splits(root).values())) == 70
        assert_fails(make(root, SPLIT_RULE="files"), root / "train.csv", "DATA.SPLIT_RULE")
        for split in SPLITS:
            write(root / f"{split}/wave/clip_{split}.mp4", split)
            write(root / f"{split}/catch/clip_{split}.mp4", split)
        assert splits(root)["val"] == {"wave/clip_val", "catch/clip_val"}
        for n, split in enumerate(SPLITS):
            write(root / f"{split}.csv", "class,video_name", f"wave,w{n}", f"catch,c{n}")
        assert splits(root)["val"] == {"wave/w1", "catch/c1"}
        assert_fails(make(root, SPLIT_GROUPS="w"), "DATA.SPLIT_GROUPS", "DATA.SPLIT_RULE")
        assert splits(root, SPLIT_RULE="folders")["val"] == {"wave/clip_val", "catch/clip_val"}

    def test_each_class_is_split_by_the_fractions(self, root: Path) -> None:
        found = splits(root, TEST_FRACTION=0.1, VAL_FRACTION=0.2)
        counts = {
            split: [sum(name.startswith(label) for name in names) for label in ("wave", "catch")]
            for split, names in found.items()
        }
        assert counts == {"train": [36, 14], "val": [9, 4], "test": [5, 2]}
        assert len(set().union(*found.values())) == 70

    def test_split_depends_on_names_and_seed_only(self, root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        found = splits(root)
        # Recorded, so that later versions test on the same clips.
        assert sorted(found["test"]) == [
            *("catch/c12", "catch/c17", "wave/w10", "wave/w21", "wave/w32", "wave/w49", "wave/w5")
        ]
        assert splits(root, SPLIT_SEED=43) != found
        other = touch(tmp_path_factory.mktemp("other"), *[f"catch/c{n}.mp4" for n in range(20)])  # re-encoded
        touch(other, *[f"wave/w{n}/0001.jpg" for n in reversed(range(50))])
        assert splits(other) == found

    def test_added_clip_moves_at_most_two_others(self, root: Path) -> None:
        before = splits(root)
        for number in range(20):
            (root / "wave" / os.fsdecode(b"caf\xe9%d.mp4" % number)).touch()  # not UTF-8
            after = splits(root)
            moved = [name for split in SPLITS for name in before[split] - after[split]]
            assert len(moved) <= 2
            assert all(name.startswith("wave") for name in moved)
            before = after

    @pytest.mark.parametrize("pattern", [r"\w+_g\d+", r"_(g\d+)"])
    def test_groups_stay_together(self, tmp_path: Path, pattern: str) -> None:
        touch(tmp_path, *[f"{label}/v_{label}_g{g:02}_c{c}.avi" for label in "ab" for g in range(10) for c in range(4)])
        found = splits(tmp_path, SPLIT_GROUPS=pattern, TEST_FRACTION=0.2, VAL_FRACTION=0.25)
        assert [len(found[split]) for split in SPLITS] == [48, 16, 16]
        groups = [{re.search(pattern, name).groups() or name[:-3] for name in found[split]} for split in SPLITS]
        assert len(set.union(*groups)) == sum(map(len, groups))

    def test_groups_of_a_file_stay_together(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        root = touch(tmp_path / "clips", *[f"{label}/{n}.mp4" for label in ("catch", "wave") for n in range(12)])
        videos = {"catch/0": "a", "catch/1.mp4": "a", "wave/0.avi": "a", str(root / "wave/1.mp4"): "a", "wave/2": "b"}
        lines = [f"{video},{group}" for video, group in {**videos, "wave/3": "b", "wave/gone.mp4": "b"}.items()]
        file = write(tmp_path / "groups.csv", "video,group", *lines)
        together = [{"catch/0", "catch/1", "wave/0", "wave/1"}, {"wave/2", "wave/3"}]
        for options in ({}, *({"SPLIT_RULE": "folds", "NUM_FOLDS": 3, "FOLD": fold} for fold in (1, 2, 3))):
            found = splits(root, SPLIT_GROUPS=str(file), **options)
            assert all(any(group <= names for names in found.values()) for group in together)
            assert sum(map(len, found.values())) == 24  # clips without a line, too
        assert "wave/gone" in caplog.text
        for bad in ("waves/0.mp4,a", "wave/0,a\nwave/0.mp4,b"):
            write(file, "video,group", bad)
            assert_fails(make(root, SPLIT_GROUPS=str(file)), file)
        assert_fails(make(root, SPLIT_GROUPS="no.csv"), "DATA.SPLIT_GROUPS", "no.csv")

    @pytest.mark.parametrize(
        ("names", "named", "options"),
        [
            ([], "<class>", {}),
            (["wave/a.mp4", "wave/b.mp4"], "wave (2)", {}),
            (["wave/notes.txt"], "wave", {}),
            (["wave/a.mp4", "wave/b.mp4", "wave/c.mp4"], "DATA.SPLIT_GROUPS", {"SPLIT_GROUPS": "ve/b"}),
        ],
    )
    def test_folders_that_cannot_be_split_are_errors(
        self, tmp_path: Path, names: list[str], named: str, options: dict[str, str]
    ) -> None:
        assert_fails(make(touch(tmp_path, *names), **options), tmp_path, named)

    def test_class_without_clips_in_a_split_is_logged_or_refused(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        touch(tmp_path, *[f"wave/s{s}.mp4" for s in range(10)], "catch/s0_9.mp4")
        split_of_catch = set()
        for seed in range(20):  # subject 0, who alone has clips of `catch`, is in any of the splits
            cfg = make(tmp_path, SPLIT_GROUPS=r"s\d+", SPLIT_SEED=seed)
            caplog.clear()
            is_tested = "catch/s0_9.mp4" in names_of(cfg, "test")
            assert is_tested == ("catch" not in caplog.text)
            if is_tested:
                assert_fails(cfg, "catch")
            split_of_catch.add(is_tested)
        assert split_of_catch == {True, False}
