"""Something-Something V2 from its official files, with lists of frames and with videos."""

import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.datasets.sources.common import assert_fails, clips_of, make_cfg, names_of, touch, write
from timesformer.datasets.catalog import load_split
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.records import VideoRecord
from timesformer.datasets.sources import ssv2

CLASSES = ("Closing something", "Holding something next to something", "Pushing something from left to right")
TEMPLATES = ("Closing [something]", "Holding [something] next to [something]", "Pushing [something] from left to right")
OFFICIAL = "something-something-v2-{}.json"
VIDEO_FOLDER = "20bn-something-something-v2"
HEADER = "original_vido_id video_id frame_id path labels"


def entries(*clips: tuple[str, int]) -> list[dict]:
    return [
        {"id": video, "label": "closing a book", "template": TEMPLATES[label], "placeholders": ["a book"]}
        for video, label in clips
    ]


def write_lists(root: Path, naming: str = OFFICIAL) -> None:
    numbers = {name: str(number) for number, name in reversed(list(enumerate(CLASSES)))}
    (root / naming.format("labels")).write_text(json.dumps(numbers))
    (root / naming.format("train")).write_text(json.dumps(entries(("78687", 1), ("42326", 2), ("100904", 0))))
    (root / naming.format("validation")).write_text(json.dumps(entries(("74225", 2), ("9", 0))))
    (root / naming.format("test")).write_text(json.dumps([{"id": "1420"}]))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """The official lists next to the official folder of videos."""
    write_lists(tmp_path)
    return touch(tmp_path, *(f"{VIDEO_FOLDER}/{video}.webm" for video in (78687, 42326, 100904, 74225, 9)))


def frame_list(*clips: tuple[str, int]) -> str:
    lines = [HEADER]
    for index, (video, frames) in enumerate(clips):
        lines += [f'{video} {index} {n} {video}/{video}_{n + 1:06d}.jpg ""' for n in range(frames)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """The official lists with lists of frames."""
    write_lists(tmp_path)
    (tmp_path / "train.csv").write_text(frame_list(("78687", 117), ("42326", 9), ("100904", 33)))
    (tmp_path / "val.csv").write_text(frame_list(("9", 12), ("74225", 13)))
    for video in ("78687", "74225"):
        (tmp_path / "frames" / video).mkdir(parents=True)
    return tmp_path


make = partial(make_cfg, "ssv2", num_classes=3, RANDOM_FLIP=False)


def test_videos_with_official_labels(videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    found = load_split(make(videos), "train")
    folder = videos / VIDEO_FOLDER
    assert found.class_names == CLASSES
    assert tuple(found.records) == (
        VideoRecord(str(folder / "78687.webm"), 1, "78687"),
        VideoRecord(str(folder / "42326.webm"), 2, "42326"),
        VideoRecord(str(folder / "100904.webm"), 0, "100904"),
    )
    (folder / "9.webm").rename(folder / "9.mp4")
    (folder / "74225.webm").unlink()
    (folder / "74225").mkdir()
    val, test = (load_split(make(videos), split).records for split in ("val", "test"))
    assert [record.path for record in val] == [f"{folder}/74225", f"{folder}/9.mp4"]
    assert list(val) == list(test)
    assert "validation list" in caplog.text


def test_lists_may_have_newer_names_and_another_folder(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    lists = tmp_path_factory.mktemp("annotations")
    write_lists(lists, "{}.json")
    folder = videos / VIDEO_FOLDER
    for cfg in (make(lists, PATH_PREFIX=str(folder)), make(folder, SPLITS_DIR=str(lists))):
        paths = [record.path for record in load_split(cfg, "val").records]
        assert paths == [f"{folder}/74225.webm", f"{folder}/9.webm"]


def test_frame_lists(frames: Path) -> None:
    cfg = make(frames, PATH_PREFIX=str(frames / "frames"))
    expected = (
        VideoRecord(f"{frames}/frames/78687/78687_%06d.jpg#1-117", 1, "78687"),
        VideoRecord(f"{frames}/frames/42326/42326_%06d.jpg#1-9", 2, "42326"),
        VideoRecord(f"{frames}/frames/100904/100904_%06d.jpg#1-33", 0, "100904"),
    )
    assert tuple(load_split(cfg, "train").records) == expected
    paths = [record.path for record in load_split(cfg, "test").records]
    assert paths == [f"{frames}/frames/74225/74225_%06d.jpg#1-13", f"{frames}/frames/9/9_%06d.jpg#1-12"]
    assert_fails(make(frames), "DATA.PATH_PREFIX", "78687/78687_%06d.jpg#1-117")
    write(frames / "train.csv", f"\ufeff{HEADER}\r", *[f'78687 0 {n} my/78687_{n}.png "3,5"\r' for n in range(12)])
    (frames / "my").mkdir()
    (frames / OFFICIAL.format("train")).write_text(json.dumps(entries(("78687", 0))))
    (frames / OFFICIAL.format("labels")).write_text(json.dumps({CLASSES[0]: "0"}))
    (frames / OFFICIAL.format("validation")).unlink()
    (record,) = load_split(make(frames, num_classes=1, PATH_PREFIX=str(frames)), "train").records
    assert record.path == f"{frames}/my/78687_%01d.png#0-11"


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (HEADER, "path label", "path label"),
        ("78687_000003", "78687_000004", "line 4"),
        ("78687/78687_000009", "78688/78687_000009", "line 10"),
        ("_000001.jpg", "", "line 2"),
        ("42326 1 8", "78687 1 8", "line 127"),
    ],
)
def test_bad_frame_lists_are_errors(frames: Path, old: str, new: str, line: str) -> None:
    text = (frames / "train.csv").read_text()
    (frames / "train.csv").write_text(text.replace(old, new, 1))
    assert_fails(make(frames, PATH_PREFIX=str(frames / "frames")), "train.csv", line)


def test_missing_clips_are_errors_or_left_out(videos: Path, caplog: pytest.LogCaptureFixture) -> None:
    (videos / VIDEO_FOLDER / "9.webm").unlink()
    assert_fails(make(videos), "9", "DATA.MAX_MISSING_FRACTION 0.5", split="val")
    assert names_of(make(videos, MAX_MISSING_FRACTION=0.5), "val") == ["74225"]
    assert "1 of 2" in caplog.text
    (videos / "train.csv").write_text(frame_list(("78687", 3), ("100904", 3)))
    assert_fails(make(touch(videos, "78687/x"), PATH_PREFIX=str(videos)), "42326", "train.csv")


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("labels", None, []),
        ("labels", '{"a": "0",', []),
        ("labels", '{"a": "1"}', []),
        ("train", "{}", []),
        ("train", '[{"id": "7"}, "x"]', ["entry 1", "entry 2"]),
        ("train", '[{"id": "7", "template": "Eating"}]', ["entry 1", "Eating"]),
        ("train", json.dumps(entries(("7", 0), ("7", 1))), ["entry 2", "7"]),
        ("train", json.dumps(entries(("9", 0))), ["validation.json", "9"]),
        ("train", json.dumps(entries(("42326", 2))), ["Closing something"]),
    ],
)
def test_bad_json_files_are_errors(videos: Path, name: str, text: str | None, named: list[str]) -> None:
    path = videos / OFFICIAL.format(name)
    path.write_text(text) if text is not None else path.unlink()
    assert_fails(make(videos), path.name, *named)


@pytest.mark.parametrize("split", ["val", "test"])
def test_frames_are_those_of_the_original(
    golden_dir: Path, tmp_path: Path, make_frames: Callable[..., Path], split: str
) -> None:
    golden = json.loads((golden_dir / "sampling.json").read_text())["ssv2_seq"]
    cases = [case for case in golden if case["mode"] == split and case["video_length"] <= 60]
    lengths = sorted({case["video_length"] for case in cases})
    (tmp_path / "labels.json").write_text(json.dumps({CLASSES[0]: "0"}))
    (tmp_path / "validation.json").write_text(json.dumps(entries(*[(str(length), 0) for length in lengths])))
    for length in lengths:
        make_frames(tmp_path / str(length), length, 16, 16)
    compared = set()
    for num_frames in {case["num_frames"] for case in cases}:
        cfg = make(tmp_path, NUM_FRAMES=num_frames, TRAIN_CROP_SIZE=16, TEST_CROP_SIZE=16)
        cfg.DATA.TRAIN_JITTER_SCALES = [16, 16]
        cfg.MODEL.NUM_CLASSES = cfg.TEST.NUM_ENSEMBLE_VIEWS = cfg.TEST.NUM_SPATIAL_CROPS = 1
        dataset = ClipDataset(cfg, split)
        for case in cases:
            if case["num_frames"] == num_frames:
                clip = dataset[lengths.index(case["video_length"])]["clip"]
                assert (clip[0, :, 0, 0] // 4).tolist() == case["seq"], case
                compared.add((num_frames, case["video_length"]))
    assert len(compared) == 45


def test_json_is_read_in_blocks(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        entry | {"label": "a }, b", "more": [{"x": 1}, {"y": 2}]} for entry in entries(("42326", 2), ("78687", 1))
    ]
    for indent, size in itertools.product((None, 1), range(1, 200, 7)):
        monkeypatch.setattr(ssv2, "_BLOCK", size)
        (videos / OFFICIAL.format("train")).write_text(json.dumps([*listed, *entries(("100904", 0))], indent=indent))
        assert clips_of(make_cfg("ssv2", videos, 3)) == [("42326", 2), ("78687", 1), ("100904", 0)]


@pytest.mark.parametrize("end", [",]", ", ]", ",", "", "] ]", ",,{}]"])
def test_json_that_is_cut_or_has_extra_commas_is_an_error(videos: Path, end: str) -> None:
    text = json.dumps(entries(("78687", 1), ("42326", 2)))
    path = videos / OFFICIAL.format("train")
    path.write_text(text[:-1] + end)
    with pytest.raises(json.JSONDecodeError) as error:
        json.loads(path.read_text())
    assert_fails(make_cfg("ssv2", videos, 3), path, error.value)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_regular_lists_of_frames_are_read_like_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newline: str
) -> None:
    rows = [
        f'{video} {number} {frame} folder é/{video}/x_{frame + first:0{width}d}.jpg ""'
        for number, (video, first, width) in enumerate([(7, 1, 6), (77, 0, 1), (777, 95, 2), (5, 3, 3)])
        for frame in range(12)
    ]
    path = tmp_path / "train.csv"
    text = newline.join(["original_vido_id video_id frame_id path labels", *rows, ""])
    path.write_bytes(text.encode())
    expected = ssv2._read_any_frame_list(path, "/data")
    assert len(expected) == 4
    for size in range(20, 2000, 97):
        monkeypatch.setattr(ssv2, "_BLOCK", size)
        assert ssv2._read_regular_frame_list(path, "/data") == expected
    for broken in (text.replace("x_000004", "x_000005"), f'{text}7 0 0 a_1.jpg ""\n', text.replace(" 0 3 ", " 0 x ")):
        path.write_bytes(broken.encode())
        assert ssv2._read_regular_frame_list(path, "/data") is None
