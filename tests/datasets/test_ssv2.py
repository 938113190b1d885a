"""Something-Something V2 from its official files, with lists of frames and with videos."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from timesformer.config import get_cfg, load_config
from timesformer.datasets.catalog import load_split
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.records import SPLITS, DataError, VideoRecord
from timesformer.datasets.transforms.sampling import Sampler

ROOT = Path(__file__).parents[2]

CLASSES = ("Closing something", "Holding something next to something", "Pushing something from left to right")
TEMPLATES = ("Closing [something]", "Holding [something] next to [something]", "Pushing [something] from left to right")
OFFICIAL = "something-something-v2-{}.json"
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
    """The official lists beside the official folder of videos."""
    write_lists(tmp_path)
    folder = tmp_path / "20bn-something-something-v2"
    folder.mkdir()
    for video in ("78687", "42326", "100904", "74225", "9"):
        (folder / f"{video}.webm").touch()
    return tmp_path


def frame_list(*clips: tuple[str, int]) -> str:
    lines = [HEADER]
    for place, (video, frames) in enumerate(clips):
        lines += [f'{video} {place} {n} {video}/{video}_{n + 1:06d}.jpg ""' for n in range(frames)]
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


def config(root: Path, **data: object) -> CfgNode:
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "ssv2"
    cfg.MODEL.NUM_CLASSES = 3
    cfg.DATA.PATH_TO_DATA_DIR = str(root)
    cfg.DATA.RANDOM_FLIP = False
    cfg.DATA.update(data)
    return cfg


def fails(root: Path, message: str, split: str = "train", **options) -> None:
    with pytest.raises(DataError, match=message):
        load_split(config(root, **options), split)


def test_videos_get_their_classes_from_the_templates(videos):
    found = load_split(config(videos), "train")
    folder = videos / "20bn-something-something-v2"
    assert found.class_names == CLASSES
    assert found.records == (
        VideoRecord(str(folder / "78687.webm"), 1, "78687"),
        VideoRecord(str(folder / "42326.webm"), 2, "42326"),
        VideoRecord(str(folder / "100904.webm"), 0, "100904"),
    )


def test_the_test_is_the_validation_list(videos, caplog):
    with caplog.at_level(logging.INFO):
        val, test = (load_split(config(videos), split).records for split in ("val", "test"))
    assert [(record.name, record.label) for record in test] == [("74225", 2), ("9", 0)]
    assert val == test
    assert "the test of Something-Something V2 is its validation list" in caplog.text


def test_lists_may_have_their_newer_names_and_lie_apart_from_the_videos(videos, tmp_path_factory):
    lists = tmp_path_factory.mktemp("annotations")
    write_lists(lists, "{}.json")
    folder = videos / "20bn-something-something-v2"
    for options in ({"PATH_PREFIX": str(folder)}, {"SPLITS_DIR": str(lists), "PATH_TO_DATA_DIR": str(folder)}):
        found = load_split(config(lists, **options), "val")
        assert [record.path for record in found.records] == [f"{folder}/74225.webm", f"{folder}/9.webm"]


def test_a_list_of_frames_may_begin_with_the_mark_of_utf8_and_not_with_another(frames):
    text = (frames / "train.csv").read_text()
    (frames / "train.csv").write_text(text, encoding="utf-8-sig")
    assert len(load_split(config(frames, PATH_PREFIX=str(frames / "frames")), "train").records) == 3
    (frames / "train.csv").write_text(text, encoding="utf-16")
    fails(frames, "train.csv is UTF-16 text, expected UTF-8", PATH_PREFIX=str(frames / "frames"))


def test_videos_may_have_become_others_or_folders_of_frames(videos):
    folder = videos / "20bn-something-something-v2"
    (folder / "9.webm").rename(folder / "9.mp4")
    (folder / "74225.webm").unlink()
    (folder / "74225").mkdir()
    found = load_split(config(videos), "val")
    assert [record.path for record in found.records] == [f"{folder}/74225", f"{folder}/9.mp4"]


def test_frames_in_lists_become_one_numbered_path_for_each_clip(frames):
    cfg = config(frames, PATH_PREFIX=str(frames / "frames"))
    assert load_split(cfg, "train").records == (
        VideoRecord(f"{frames}/frames/78687/78687_%06d.jpg#1-117", 1, "78687"),
        VideoRecord(f"{frames}/frames/42326/42326_%06d.jpg#1-9", 2, "42326"),
        VideoRecord(f"{frames}/frames/100904/100904_%06d.jpg#1-33", 0, "100904"),
    )
    paths = [record.path for record in load_split(cfg, "test").records]
    assert paths == [f"{frames}/frames/74225/74225_%06d.jpg#1-13", f"{frames}/frames/9/9_%06d.jpg#1-12"]


def test_frame_lists_may_have_labels_blanks_in_paths_and_numbers_from_0_without_padding(frames):
    lines = [HEADER, *[f'78687 0 {n} my frames/78687_{n}.png "3,5"' for n in range(12)]]
    (frames / "train.csv").write_text("\r\n".join(lines))
    (frames / "my frames").mkdir()
    cfg = config(frames, PATH_PREFIX=str(frames), MAX_MISSING_FRACTION=1.0)
    cfg.MODEL.NUM_CLASSES = 1
    (frames / OFFICIAL.format("labels")).write_text(json.dumps({CLASSES[1]: "0"}))
    (frames / OFFICIAL.format("train")).write_text(json.dumps(entries(("78687", 1), ("42326", 1))))
    (frames / OFFICIAL.format("validation")).unlink()
    assert [r.path for r in load_split(cfg, "train").records] == [f"{frames}/my frames/78687_%01d.png#0-11"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((HEADER, "path label"), "line 1: expected the header 'original_vido_id video_id frame_id path labels'"),
        (("78687_000003", "78687_000004"), "line 4: found .*expected the next frame, 78687/78687_000003.jpg.*line 5"),
        (("78687/78687_000009", "78688/78687_000009"), "line 10: found .*78687/78687_000009.jpg"),
        (("78687 0 7 ", "78687,0,7,"), "line 9: found .*expected 'original_vido_id .*labels', blank separated"),
        (("_000001.jpg", ""), "line 2: found '78687 0 0 78687/78687 \"\"', expected 'original_vido_id"),
        (("42326 1 8", "78687 1 8"), "line 127: more frames of clip 78687, which has others before"),
    ],
)
def test_a_wrong_list_of_frames_is_an_error_with_its_line(frames, change, message):
    text = (frames / "train.csv").read_text()
    assert change[0] in text
    (frames / "train.csv").write_text(text.replace(*change, 1))
    fails(frames, f"(?s)train.csv.*{message}", PATH_PREFIX=str(frames / "frames"))


def test_frames_that_are_not_there_are_an_error_that_names_the_prefix(frames):
    fails(frames, "none of the first clips' frames is there, e.g. 78687/78687_%06d.jpg#1-117.*DATA.PATH_PREFIX")


def test_clips_that_are_not_there_stop_the_run_or_are_left_out_and_named(videos, frames, caplog):
    (frames / "train.csv").write_text(frame_list(("78687", 3), ("100904", 3)))
    message = "(?s)1 of 3 listed clips are not on disk:.*42326.*add their frames"
    fails(frames, message, PATH_PREFIX=str(frames / "frames"))
    for name in ("train.csv", "val.csv"):
        (frames / name).unlink()
    (videos / "20bn-something-something-v2/9.webm").unlink()
    fails(videos, "(?s)1 of 2 listed clips are not on disk:.*9.*DATA.MAX_MISSING_FRACTION 0.5 ", "val")
    assert [record.name for record in load_split(config(videos, MAX_MISSING_FRACTION=0.5), "val").records] == ["74225"]
    assert "1 of 2 listed clips are not on disk and left out: 9" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels", None, "something-something-v2-labels.json not found, nor labels.json"),
        ("train", None, "something-something-v2-train.json not found, nor train.json"),
        ("labels", '{"a": "0",', "labels.json, line 1: not JSON"),
        ("labels", '{"a": "1"}', "labels.json: expected an object of one class name and its number, from 0"),
        ("labels", "[]", "labels.json: expected an object"),
        ("train", "{}", "train.json: expected a list of clips"),
        ("train", "\udcff", "train.json: not UTF-8"),
        pytest.param("train", "[" * 100_000, "train.json: nested more deeply", id="nested"),
        ("train", '[{"id": "7"}, "x"]', "(?s)train.json:.*entry 1: expected an id and a template.*entry 2: expected"),
        ("train", '[{"id": "7", "template": "Eating"}]', "entry 1: the template 'Eating' of clip 7 is not among the"),
        ("train", json.dumps(entries(("7", 0), ("7", 1))), "entry 2: clip 7 stands there twice"),
        ("train", json.dumps(entries(("9", 0))), "(?s)clips in both .*train.json and .*validation.json:.*9"),
        ("train", json.dumps(entries(("42326", 2))), "(?s)classes without training clips:.*Closing something"),
    ],
)
def test_a_wrong_json_file_is_an_error_that_names_the_entry(videos, name, text, message):
    path = videos / OFFICIAL.format(name)
    path.unlink()
    if text is not None:
        path.write_text(text, errors="surrogateescape")
    fails(videos, message)


@pytest.mark.parametrize("split", ["val", "test"])
def test_frames_are_taken_where_the_original_takes_them(
    golden_dir, tmp_path, make_frames: Callable[..., Path], split: str
):
    golden = json.loads((golden_dir / "sampling.json").read_text())["ssv2_seq"]
    cases = [case for case in golden if case["mode"] == split and case["video_length"] <= 60]
    lengths = sorted({case["video_length"] for case in cases})
    (tmp_path / "labels.json").write_text(json.dumps({CLASSES[0]: "0"}))
    (tmp_path / "validation.json").write_text(json.dumps(entries(*[(str(length), 0) for length in lengths])))
    for length in lengths:
        make_frames(tmp_path / str(length), length, 16, 16)
    compared = set()
    for num_frames in {case["num_frames"] for case in cases}:
        cfg = config(tmp_path, NUM_FRAMES=num_frames, TRAIN_CROP_SIZE=16, TEST_CROP_SIZE=16)
        cfg.DATA.TRAIN_JITTER_SCALES = [16, 16]
        cfg.MODEL.NUM_CLASSES = cfg.TEST.NUM_ENSEMBLE_VIEWS = cfg.TEST.NUM_SPATIAL_CROPS = 1
        dataset = ClipDataset(cfg, split)
        for case in cases:
            if case["num_frames"] == num_frames:
                clip = dataset[lengths.index(case["video_length"])]["clip"]
                assert (clip[0, :, 0, 0] // 4).tolist() == case["seq"], case
                compared.add((num_frames, case["video_length"]))
    assert len(compared) == 45


def test_the_sampler_may_be_another_one(videos):
    assert [Sampler.from_cfg(config(videos), split).name for split in SPLITS] == ["segment"] * 3
    assert Sampler.from_cfg(config(videos, SAMPLER="uniform"), "train").name == "uniform"
    assert Sampler.from_cfg(get_cfg(), "train").name == "dense"


ORIGINAL_FILE = """
TRAIN: {DATASET: ssv2, BATCH_SIZE: 8}
TEST: {DATASET: ssv2, BATCH_SIZE: 8, NUM_ENSEMBLE_VIEWS: 1, NUM_SPATIAL_CROPS: 3}
DATA:
  NUM_FRAMES: 8
  TRAIN_JITTER_SCALES: [256, 320]
  TRAIN_CROP_SIZE: 224
  TEST_CROP_SIZE: 224
  INPUT_CHANNEL_NUM: [3]
  INV_UNIFORM_SAMPLE: True
  RANDOM_FLIP: False
  REVERSE_INPUT_CHANNEL: True
MODEL: {MODEL_NAME: vit_base_patch16_224, NUM_CLASSES: 174, LOSS_FUNC: cross_entropy}
"""


def test_a_file_of_the_original_means_the_clips_of_the_shipped_configuration(frames, tmp_path, caplog):
    (tmp_path / "original.yaml").write_text(ORIGINAL_FILE)
    overrides = ["DATA.PATH_TO_DATA_DIR", str(frames), "DATA.PATH_PREFIX", str(frames / "frames"), "NUM_GPUS", "0"]
    original = load_config(tmp_path / "original.yaml", overrides)
    shipped = load_config(ROOT / "configs/SSv2/TimeSformer_divST_8_224.yaml", overrides)
    assert not caplog.messages
    assert Sampler.from_cfg(original, "train").name == Sampler.from_cfg(shipped, "train").name == "segment"
    differing = {key for key in original.DATA if original.DATA[key] != shipped.DATA[key]}
    assert differing == {"SAMPLER", "SAMPLING_RATE"}  # of which segments take no notice
