"""Finding the clips of a dataset of class folders, in every layout, and what is said when it is not as it should be."""

import re
import shutil
from pathlib import Path

import pytest

from timesformer.config import get_cfg
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import SPLITS, DataError, VideoRecord


def config(root: Path, num_classes: int = 2, dataset: str = "hmdb_simp", **data: str):
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = dataset
    cfg.DATA.PATH_TO_DATA_DIR = str(root)
    cfg.MODEL.NUM_CLASSES = num_classes
    cfg.DATA.update(data)
    return cfg


def names(root: Path, split: str, **options) -> list[str]:
    return [record.name for record in load_split(config(root, **options), split).records]


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Layouts (a) and (c) at once: frame folders in `wave`, video files in `catch`."""
    for number in range(6):
        (tmp_path / "wave" / f"w{number}").mkdir(parents=True)
        (tmp_path / "catch").mkdir(exist_ok=True)
        (tmp_path / "catch" / f"c{number}.mp4").touch()
    write(tmp_path / "train.csv", "class,video_name\nwave,w0\nwave,w1\ncatch,c0.mp4\ncatch,c1\n")
    write(tmp_path / "val.csv", "class,video_name\nwave,w2\ncatch,c2\n")
    write(tmp_path / "test.csv", "class,video_name\nwave,w4\ncatch,c4\n")
    return tmp_path


@pytest.fixture
def unlisted(listed: Path) -> Path:
    """The same clips without split files."""
    for split in SPLITS:
        (listed / f"{split}.csv").unlink()
    return listed


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def fails(root: Path, message: str, split: str = "train", **options) -> str:
    with pytest.raises(DataError, match=message) as caught:
        load_split(config(root, **options), split)
    return str(caught.value)


def test_the_studys_own_split_files_give_900_225_125_clips_of_25_sorted_classes(shared, tmp_path):
    splits = shared / "hmdb_simp_splits"
    for split in SPLITS:
        for line in (splits / f"{split}.csv").read_text().split()[1:]:
            (tmp_path / line.replace(",", "/")).mkdir(parents=True)
    found = {s: load_split(config(tmp_path, 25, SPLITS_DIR=str(splits)), s) for s in SPLITS}
    assert [len(found[split].records) for split in SPLITS] == [900, 225, 125]
    assert len({split.class_names for split in found.values()}) == 1
    classes = found["train"].class_names
    assert len(classes) == 25
    assert list(classes) == sorted(classes)
    assert (classes[0], classes[-1]) == ("brush_hair", "wave")
    first = found["train"].records[0]
    assert first == VideoRecord(str(tmp_path / "smoke/92D80861"), classes.index("smoke"), "smoke/92D80861")


def test_frame_folders_and_video_files_are_found_with_or_without_extension(listed):
    found = load_split(config(listed), "train")
    assert found.class_names == ("catch", "wave")
    assert found.records == (
        VideoRecord(str(listed / "wave/w0"), 1, "wave/w0"),
        VideoRecord(str(listed / "wave/w1"), 1, "wave/w1"),
        VideoRecord(str(listed / "catch/c0.mp4"), 0, "catch/c0.mp4"),
        VideoRecord(str(listed / "catch/c1.mp4"), 0, "catch/c1"),
    )
    assert names(listed, "test") == ["wave/w4", "catch/c4"]


def test_frames_taken_from_listed_video_files_are_found_under_the_files_names(listed):
    write(listed / "test.csv", "class,video_name\nwave,w4.avi\nwave,w5.v2\ncatch,c4.AVI\n")
    (listed / "wave" / "w5.v2").mkdir()
    paths = [Path(record.path).name for record in load_split(config(listed), "test").records]
    assert paths == ["w4", "w5.v2", "c4.mp4"]
    write(listed / "test.csv", "class,video_name\nwave,w4.jpg\ncatch,c4.mp4\n")
    assert "wave/w4.jpg" in fails(listed, "1 of 2 listed clips are not on disk", "test")


def test_split_folders_are_read_without_lists(hmdb_root):
    found = load_split(config(hmdb_root), "val")
    assert found.class_names == ("catch", "wave")
    assert [(record.label, record.name) for record in found.records] == [
        (0, "catch/clip10"),
        (0, "catch/clip11"),
        (1, "wave/clip8"),
        (1, "wave/clip9"),
    ]
    assert found.records[0].path == str(hmdb_root / "val/catch/clip10")


def test_lists_of_paths_and_labels_are_recognised(unlisted):
    write(unlisted / "train.csv", f"{unlisted}/wave/w0 1\n{unlisted}/catch/c0.mp4 0\n")
    found = load_split(config(unlisted), "train")
    assert [(record.label, Path(record.path).name) for record in found.records] == [(1, "w0"), (0, "c0.mp4")]


def test_lists_may_carry_a_byte_order_mark_carriage_returns_and_blanks(listed):
    write(listed / "train.csv", "\ufeffclass,video_name\r\n\r\n wave , w0 \r\n\r\ncatch,c0  \r\n\r\n")
    assert names(listed, "train") == ["wave/w0", "catch/c0"]


def test_a_class_that_only_one_split_has_keeps_the_labels_of_all_splits_equal(listed):
    (listed / "aim" / "a0").mkdir(parents=True)
    with open(listed / "train.csv", "a") as file:
        file.write("aim,a0\n")
    found = [load_split(config(listed, 3), split) for split in SPLITS]
    assert all(split.class_names == ("aim", "catch", "wave") for split in found)
    assert {record.label for record in found[2].records} == {1, 2}


def test_no_split_on_disk_names_the_command_that_makes_one(unlisted):
    fails(unlisted, re.escape(f"python datasets/hmdb_simp/prepare.py {unlisted}"))


def test_one_missing_split_is_an_error_that_names_it(listed, hmdb_root):
    (listed / "val.csv").unlink()
    fails(listed, "val.csv not found, though train.csv and test.csv", split="val")
    shutil.rmtree(hmdb_root / "test")
    fails(hmdb_root, "test not found, though train and val", split="test")


@pytest.mark.parametrize("dataset", ["hmdb_simp", "kinetics"])
def test_a_missing_data_folder_is_an_error_that_names_the_key(tmp_path, dataset):
    fails(tmp_path / "nowhere", "DATA.PATH_TO_DATA_DIR is .*nowhere, which is not a folder", dataset=dataset)
    cfg = config(tmp_path, dataset=dataset)
    cfg.DATA.PATH_TO_DATA_DIR = ""
    with pytest.raises(DataError, match=r"DATA\.PATH_TO_DATA_DIR is empty"):
        load_split(cfg, "train")
    fails(tmp_path, "DATA.SPLITS_DIR is .*gone", SPLITS_DIR=str(tmp_path / "gone"), dataset=dataset)


def test_an_unknown_dataset_is_an_error_that_lists_the_known(tmp_path):
    fails(tmp_path, "TRAIN.DATASET is 'hmdb'.*hmdb_simp, kinetics", dataset="hmdb")


@pytest.mark.parametrize("line", ["wave", "wave,", ",w0", "wave,w0,1"])
def test_a_bad_line_is_an_error_with_file_and_line_number(listed, line):
    write(listed / "train.csv", f"class,video_name\nwave,w0\n\n{line}\ncatch,c0\n")
    assert str(listed / "train.csv") in fails(listed, f"line 4: found '{line}', expected 'class,video_name'")


def test_a_file_that_is_not_text_is_an_error_with_its_line_number(listed):
    (listed / "train.csv").write_bytes(b"class,video_name\nwave,w\xff0\n")
    fails(listed, "train.csv, line 2: not UTF-8")


def test_an_empty_list_is_an_error(listed):
    write(listed / "train.csv", "\n\n")
    fails(listed, "train.csv is empty")
    write(listed / "train.csv", "class,video_name\n")
    fails(listed, "train.csv has a header but no clips")


def test_clips_that_are_not_on_disk_are_an_error_with_their_lines(listed):
    (listed / "wave/w1").rmdir()
    fails(listed, f"(?s)1 of 4 listed clips are not on disk.*train.csv line 3: {listed}/wave/w1")
    assert names(listed, "test") == ["wave/w4", "catch/c4"]  # another split can be used


def test_an_empty_class_is_an_error_that_names_its_folder(hmdb_root):
    (hmdb_root / "train/yawn").mkdir()
    fails(hmdb_root, f"(?s)classes without clips.*{hmdb_root}/train/yawn", num_classes=3)
    (hmdb_root / "train/yawn").rmdir()
    shutil.copytree(hmdb_root / "val/wave", hmdb_root / "val/yawn")
    fails(hmdb_root, f"(?s)classes without clips.*{hmdb_root}/train/yawn", num_classes=3)


def test_a_class_without_training_clips_is_an_error(listed):
    write(listed / "train.csv", "class,video_name\nwave,w0\n")
    fails(listed, "(?s)classes without training clips.*catch")


def test_a_clip_listed_twice_is_an_error_that_names_both_places(listed):
    write(listed / "val.csv", "class,video_name\nwave,w2\ncatch,c0\n")
    fails(listed, "catch/c0: train.csv line 4 and val.csv line 3")
    write(listed / "val.csv", "class,video_name\nwave,w2\nwave,w2\n")
    fails(listed, "wave/w2: val.csv line 2 and val.csv line 3")


def test_the_same_clip_in_two_split_folders_is_an_error_that_names_both(hmdb_root, make_frames):
    make_frames(hmdb_root / "test/wave/clip0", 33)  # the same name alone does not matter
    assert len(names(hmdb_root, "train")) == 8
    shutil.rmtree(hmdb_root / "test/wave/clip0")
    shutil.copytree(hmdb_root / "train/wave/clip0", hmdb_root / "test/wave/clip0")
    fails(hmdb_root, f"{hmdb_root}/train/wave/clip0 and {hmdb_root}/test/wave/clip0")


def test_num_classes_that_contradicts_the_data_is_an_error_that_gives_the_right_number(listed):
    fails(listed, "has 2 classes .catch, wave.*NUM_CLASSES is 400: set MODEL.NUM_CLASSES 2", num_classes=400)
