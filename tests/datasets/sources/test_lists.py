"""Split files in the encodings and with the line ends of other programs, in every dataset."""

from pathlib import Path

import pytest

from tests.datasets.sources.common import assert_fails, make_cfg, touch
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import DataError
from timesformer.datasets.sources.lists import iterate_lines

TEXT = "class,video_name\n\n wave,café 1.mp4 \nplay 日本,a.mp4\n"
LINES = [(1, "class,video_name"), (3, "wave,café 1.mp4"), (4, "play 日本,a.mp4")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_marks_and_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    mark = "" if encoding.startswith("utf-8") else "\ufeff"
    (tmp_path / "list.csv").write_bytes((mark + TEXT.replace("\n", end)).encode(encoding))
    assert list(iterate_lines(tmp_path / "list.csv")) == LINES


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "cp1252", ""])
def test_other_encodings_and_empty_files_are_errors(tmp_path: Path, encoding: str) -> None:
    text = TEXT.replace("日本", "") if encoding else "\n \n"
    (tmp_path / "list.csv").write_bytes(text.encode(encoding or "utf-8"))
    with pytest.raises(DataError, match=r"list\.csv"):
        list(iterate_lines(tmp_path / "list.csv"))


LISTS = {
    "folder": {"train.csv": "class,video_name\nwave,café.avi\n"},
    "hmdb_simp": {"train.csv": "class,subject,video_name\nwave,anna,café.avi\n"},
    "kinetics": {"train.csv": "wave/café.avi wave\n", "classes.txt": "wave\n"},
    "muwiges": {"clips.csv": "path,label,subject,scene\nwave/café.avi,wave,1,home\n", "classes.txt": "wave\n"},
    "hmdb51": {"wave_test_split1.txt": "café.avi 1\nb.avi 1\nc.avi 2\n"},
    "ucf101": {
        "classInd.txt": "1 wave\n",
        "trainlist01.txt": "wave/café.avi 1\nwave/b.avi 1\n",
        "testlist01.txt": "wave/c.avi\n",
    },
}


@pytest.mark.parametrize("dataset", LISTS)
def test_every_dataset_reads_utf_16(tmp_path: Path, dataset: str) -> None:
    touch(tmp_path, "wave/café.avi", "wave/b.avi", "wave/c.avi")
    for name, text in LISTS[dataset].items():
        (tmp_path / name).write_bytes(text.replace("\n", "\r\n").encode("utf-16"))
    cfg = make_cfg(dataset, tmp_path, 1, PATH_PREFIX=str(tmp_path) if dataset == "kinetics" else "")
    splits = ("train", "val") if dataset in ("hmdb51", "ucf101") else ("train",)
    found = {record.path for split in splits for record in load_split(cfg, split).records}
    assert f"{tmp_path}/wave/café.avi" in found


ONLY_TEST = {  # without the lists of training where they are apart, and without training clips
    "folder": {"test.csv": "class,video_name\nwave,c.avi\n"},
    "hmdb_simp": {"train.csv": "class,video_name\nwave,gone\n", "test.csv": "class,video_name\nwave,c\n"},
    "kinetics": {"test.csv": "wave/c.avi 0\n"},
    "muwiges": {"clips.csv": "path,label,subject,scene\nwave/gone.avi,wave,2,home\nwave/c.avi,wave,1,home\n"},
    "hmdb51": {"wave_test_split1.txt": "gone.avi 1\nc.avi 2\n"},
    "ucf101": {"classInd.txt": "1 wave\n", "testlist01.txt": "wave/c.avi\n"},
    "ssv2": {
        "labels.json": '{"wave": "0"}',
        "validation.json": '[{"id": "c", "label": "wave", "template": "wave", "placeholders": []}]',
    },
}


@pytest.mark.parametrize("dataset", ONLY_TEST)
def test_testing_needs_only_the_test_clips(tmp_path: Path, dataset: str) -> None:
    touch(tmp_path, "wave/c.avi" if dataset != "ssv2" else "c.avi")
    for name, text in ONLY_TEST[dataset].items():
        (tmp_path / name).write_text(text)
    options = {"muwiges": {"TEST_SUBJECTS": [1]}, "kinetics": {"PATH_PREFIX": str(tmp_path)}}.get(dataset, {})
    (record,) = load_split(make_cfg(dataset, tmp_path, 1, **options), "test").records
    assert record.path.endswith("c.avi")
    assert_fails(make_cfg(dataset, tmp_path, 1, **options), tmp_path)


@pytest.mark.parametrize("dataset", LISTS)
def test_missing_folders_name_the_key(tmp_path: Path, dataset: str) -> None:
    assert_fails(make_cfg(dataset, tmp_path / "nowhere"), "DATA.PATH_TO_DATA_DIR")
    assert_fails(make_cfg(dataset, tmp_path, SPLITS_DIR=str(tmp_path / "gone")), "DATA.SPLITS_DIR")


def test_unknown_dataset_names_the_key(tmp_path: Path) -> None:
    assert_fails(make_cfg("hmdb", tmp_path), "TRAIN.DATASET", "hmdb_simp")
