"""Lists in the encodings and with the line ends that other programs write, through every kind of dataset."""

import codecs
from collections.abc import Callable
from pathlib import Path

import pytest

from timesformer.config import get_cfg
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import DataError
from timesformer.datasets.sources.lists import encoding_of, read_lines

TEXT = "class,video_name\n\n wave,café 1.mp4 \nplay 日本,a.mp4\n"
LINES = [(1, "class,video_name"), (3, "wave,café 1.mp4"), (4, "play 日本,a.mp4")]
ENCODINGS = {
    "utf-8": TEXT.encode(),
    "utf-8-sig": TEXT.encode("utf-8-sig"),
    "utf-16 little": codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"),
    "utf-16 big": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "utf-32 little": codecs.BOM_UTF32_LE + TEXT.encode("utf-32-le"),
    "utf-32 big": codecs.BOM_UTF32_BE + TEXT.encode("utf-32-be"),
}


@pytest.mark.parametrize("content", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_tells_the_encoding_and_lines_end_as_anywhere(tmp_path: Path, content: bytes, ends: str):
    path = tmp_path / "list.csv"
    path.write_bytes(content)
    path.write_bytes(path.read_text(encoding := encoding_of(path)).replace("\n", ends).encode(encoding))
    assert read_lines(path) == LINES


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (TEXT.encode("utf-16-le"), "UTF-16"),
        (TEXT.encode("utf-16-be"), "UTF-16"),
        (TEXT.replace("日本", "").encode("cp1252"), "line 3: not UTF-8"),
        (codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le")[:-1], "not UTF-16"),
    ],
)
def test_another_encoding_is_an_error_that_names_it_and_what_to_save_as(tmp_path: Path, content: bytes, named: str):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError, match=f"list.csv.*{named}.*save it as UTF-8"):
        read_lines(tmp_path / "list.csv")


LISTS = {
    "folder": {"train.csv": "class,video_name\nwave,café.avi\n"},
    "hmdb_simp": {"train.csv": "class,video_name\nwave,café.avi\n"},
    "kinetics": {"train.csv": "wave/café.avi wave\n", "classes.txt": "wave\n"},
    "muwiges": {"clips.csv": "path,label,subject,scene\nwave/café.avi,wave,1,home\n", "classes.txt": "wave\n"},
    "hmdb51": {"wave_test_split1.txt": "café.avi 1\nb.avi 1\nc.avi 2\n"},
    "ucf101": {
        "classInd.txt": "1 wave\n",
        "trainlist01.txt": "wave/café.avi 1\nwave/b.avi 1\n",
        "testlist01.txt": "wave/c.avi\n",
    },
}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("dataset", LISTS)
def test_every_dataset_reads_them(tmp_path: Path, dataset: str, encoding: str):
    (tmp_path / "wave").mkdir()
    for name in ("café", "b", "c"):
        (tmp_path / f"wave/{name}.avi").touch()
    for name, text in LISTS[dataset].items():
        (tmp_path / name).write_bytes(text.replace("\n", "\r\n").encode(encoding))
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = dataset
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(tmp_path), 1
    cfg.DATA.PATH_PREFIX = str(tmp_path) if dataset == "kinetics" else ""
    splits = ("train", "val") if dataset in ("hmdb51", "ucf101") else ("train",)
    found = {record.path for split in splits for record in load_split(cfg, split).records}
    assert f"{tmp_path}/wave/café.avi" in found


def test_a_class_list_must_have_its_header(tmp_path: Path, listed: Callable[..., str]):
    for header in ("class,video", "class;video_name", "Class,Video_Name", '"class","clip"'):
        message = listed("folder", f"{header}\nwave,a.mp4\n")
        assert "train.csv, line 1" in message
        assert "class,video_name" in message
        assert "PATH_LABEL_SEPARATOR" not in message


def test_other_columns_of_a_class_list_are_passed_over(tmp_path: Path, listed: Callable[..., str]):
    assert listed("folder", "class,subject,video_name\nwave,anna,a.mp4\n") == ""


def test_the_remedy_for_listed_clips_that_are_missing_is_that_of_the_dataset(
    tmp_path: Path, listed: Callable[..., str]
):
    text = "class,video_name\nwave,a.mp4\nwave,gone.mp4\n"
    assert "prepare.py" not in (message := listed("folder", text))
    assert "DATA.SPLIT_RULE random" in message
    lists = tmp_path / "my lists"
    lists.mkdir()
    (lists / "train.csv").write_text(text)
    message = listed("hmdb_simp", text, SPLITS_DIR=str(lists))
    assert f"datasets/hmdb_simp/prepare.py {tmp_path} --output '{lists}' --force" in message


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., str]:
    """listed(dataset, text): the error of a folder wave/a.mp4 with this train.csv; empty if there is none."""

    def load(dataset: str, text: str, **data: str) -> str:
        (tmp_path / "wave").mkdir(exist_ok=True)
        (tmp_path / "wave/a.mp4").touch()
        (tmp_path / "train.csv").write_text(text)
        cfg = get_cfg()
        cfg.TRAIN.DATASET = cfg.TEST.DATASET = dataset
        cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(tmp_path), 1
        cfg.DATA.update(data)
        try:
            load_split(cfg, "train")
        except DataError as error:
            return str(error)
        return ""

    return load
