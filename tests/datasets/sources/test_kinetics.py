"""Kinetics: lists of paths and labels, and the official annotation files."""

from pathlib import Path
from typing import Any

import pytest
from fvcore.common.config import CfgNode

from tests.datasets.sources.common import assert_fails, clips_of, make_cfg, touch, write
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import SPLITS, VideoRecord


def make(root: Path, num_classes: int = 2, **data: Any) -> CfgNode:
    return make_cfg("kinetics", root, num_classes, **{"PATH_PREFIX": str(root)} | data)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six clips w0 to w5, and a training list of w0 and w1."""
    for number in range(6):
        (tmp_path / f"w{number}").mkdir()
    write(tmp_path / "train.csv", "w0 0", "w1 1")
    return tmp_path


def test_paths_may_have_blanks_and_get_the_prefix(root: Path) -> None:
    write(root / "train.csv", "\ufeffmy clips/a b.mp4 1  \r", "\r", "w0 0\r")
    found = load_split(make(root), "train")
    assert tuple(found.records) == (
        VideoRecord(str(root / "my clips/a b.mp4"), 1, "my clips/a b.mp4"),
        VideoRecord(str(root / "w0"), 0, "w0"),
    )
    assert found.class_names == ("0", "1")


@pytest.mark.parametrize(
    ("lines", "separator", "expected"),
    [
        (["path,label", '"w0, ""cut""",1', '"w1","0"'], ",", [('w0, "cut"', 1), ("w1", 0)]),
        (["Filename,Label", "w0,1"], ",", [("w0", 1)]),
        (["clip 1", "w0 0"], " ", [("clip", 1), ("w0", 0)]),  # a clip named like a header
    ],
)
def test_headers_are_skipped_and_quotes_removed(
    root: Path, lines: list[str], separator: str, expected: list[tuple[str, int]]
) -> None:
    write(root / "train.csv", *lines)
    assert clips_of(make(root, PATH_LABEL_SEPARATOR=separator)) == expected


def test_labels_are_numbers_or_names_of_classes_txt(root: Path) -> None:
    write(root / "classes.txt", "yawn", "wink")
    write(root / "train.csv", "path label", "video wink", "w0 wink", "w1 yawn", "w2 01")
    assert clips_of(make(root)) == [("video", 1), ("w0", 1), ("w1", 0), ("w2", 1)]
    assert load_split(make(root), "train").class_names == ("yawn", "wink")
    assert_fails(make(root, 3), "MODEL.NUM_CLASSES")
    write(root / "train.csv", "w0 wink", "w1 sleep")
    assert_fails(make(root), "line 2", "sleep")
    for names in (["yawn", "", "yawn", "wink"], ["1", "0"]):
        write(root / "classes.txt", *names)
        assert_fails(make(root), "classes.txt", "line")


def test_names_without_classes_txt_are_sorted_over_all_lists(root: Path) -> None:
    write(root / "train.csv", "w0,zap it", "w1,blow")
    write(root / "val.csv", "w2,zap it", "w3,blow")
    write(root / "test.csv", "w4,moan", "w5,blow")
    cfg = make(root, 3, PATH_LABEL_SEPARATOR=",")
    labels = [[label for _, label in clips_of(cfg, split)] for split in SPLITS]
    assert labels == [[2, 0], [2, 0], [1, 0]]
    assert load_split(cfg, "train").class_names == ("blow", "moan", "zap it")


@pytest.mark.parametrize("line", ["w2", "w2 one", "w2 -1", "w2 2", "w0/../w0 1"])
def test_bad_and_repeated_lines_are_all_reported(root: Path, line: str) -> None:
    write(root / "train.csv", "w0 1", "", "w1 00", line, "w3 0", "w4", "w5 1")
    assert_fails(make(root), root / "train.csv", "line 4", "line 6")


def test_video_may_be_in_val_and_test_but_not_in_train(root: Path) -> None:
    for split in ("val", "test"):
        write(root / f"{split}.csv", "w2 0", "w3 1")
    assert [clips_of(make(root), split) for split in ("val", "test")] == [[("w2", 0), ("w3", 1)]] * 2
    write(root / "test.csv", "w2 0", "./w1 1")
    for split in ("train", "test"):
        assert_fails(make(root), "w1: ", "train.csv line 2", "test.csv line 2", split=split)


def test_missing_videos_and_lists_name_the_key(root: Path) -> None:
    assert_fails(make(root, PATH_PREFIX="/nowhere"), "DATA.PATH_PREFIX", "/nowhere/w0")
    write(root / "train.csv", *[f"my clips/w{number},0" for number in range(5)])  # cut at the blank
    assert_fails(make(root), "DATA.PATH_LABEL_SEPARATOR")
    assert_fails(make(root), "val.csv", split="val")


class TestAnnotations:
    HEADER = "label,youtube_id,time_start,time_end,split,is_cc"

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """Two classes: clips in folders of their class, without folders, and as frames."""
        write(tmp_path / "train.csv", self.HEADER, '"zap, it",-_aaaaaaaa0,1,11,train,0', "air drumming,b,10,20,train,0")
        write(tmp_path / "validate.csv", self.HEADER, "air drumming,c,0,10,validate,0")
        write(tmp_path / "test.csv", self.HEADER, '"zap, it",d,0.0,10.0,test,1')
        touch(tmp_path, "train/zap_it/-_aaaaaaaa0_000001_000011.mp4", "b_000010_000020.mkv", "d_000000_000010.mp4")
        return touch(tmp_path, "val/air drumming/c_000000_000010/000001.jpg")

    def test_clips_are_found_in_any_folder(self, root: Path) -> None:
        touch(root, "__MACOSX/b_000010_000020.avi", "lost+found/b_000010_000020.avi")
        assert load_split(make(root), "train").class_names == ("air drumming", "zap, it")
        assert clips_of(make(root)) == [("train/zap_it/-_aaaaaaaa0_000001_000011.mp4", 1), ("b_000010_000020.mkv", 0)]
        assert clips_of(make(root), "val") == [("val/air drumming/c_000000_000010", 0)]
        assert clips_of(make(root), "test") == [("d_000000_000010.mp4", 1)]
        write(root / "classes.txt", "zap, it", "air drumming")
        assert clips_of(make(root), "test") == [("d_000000_000010.mp4", 0)]

    def test_missing_clips_are_errors_or_left_out(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        write(root / "train.csv", *(root / "train.csv").read_text().split("\n")[:3], "air drumming,gone,1,11,train,0")
        assert_fails(make(root), "line 4: gone_000001_000011", "DATA.MAX_MISSING_FRACTION 0.34")
        assert len(clips_of(make(root, MAX_MISSING_FRACTION=0.34))) == 2
        assert "gone_000001_000011" in caplog.text
        (root / "d_000000_000010.mp4").unlink()
        assert_fails(make(root, MAX_MISSING_FRACTION=1.0), "DATA.PATH_PREFIX", split="test")
        (root / "b_000010_000020.mkv").unlink()
        assert_fails(make(root, MAX_MISSING_FRACTION=0.7), "air drumming")

    @pytest.mark.parametrize(
        ("line", "named"),
        [
            ("a,b,1", ["line 2"]),
            ("a,b,one,11,test,0", ["line 2", "time_start"]),
            ("a,d,0,10,test,0", ["line 3", "d_000000_000010", "line 2"]),
            ("a,b,10,20,test,0", ["b_000010_000020", "test.csv line 2", "train.csv line 3"]),
        ],
    )
    def test_bad_lines_are_reported(self, root: Path, line: str, named: list[str]) -> None:
        write(root / "test.csv", self.HEADER, line, "air drumming,d,0,10,test,0")
        assert_fails(make(root), "test.csv", *named, split="test")

    def test_test_list_without_labels_is_an_error(self, root: Path) -> None:
        write(root / "test.csv", "youtube_id,time_start,time_end,split", "d,0,10,test")
        assert_fails(make(root), "test.csv", split="test")
        assert len(clips_of(make(root))) == 2
