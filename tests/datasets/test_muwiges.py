"""MuWiGes' splits by subject and scene."""

import logging
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from timesformer.config import get_cfg
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import SPLITS, DataError

GESTURES = tuple(f"gesture_{letter}" for letter in "abcdefghijkl")


def config(root: Path, **data: object) -> CfgNode:
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "muwiges"
    cfg.DATA.PATH_TO_DATA_DIR = str(root)
    cfg.MODEL.NUM_CLASSES = 12
    cfg.DATA.update(data)
    return cfg


def fails(root: Path, message: str, split: str = "train", **options) -> None:
    with pytest.raises(DataError, match=message):
        load_split(config(root, **options), split)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One clip of each of 12 gestures by each of 50 subjects; some at home, some in the lab."""
    rows = ["path,label,subject,scene"]
    for subject in range(1, 51):
        (tmp_path / f"s{subject:02d}").mkdir()
        for number, gesture in enumerate(GESTURES):
            (tmp_path / f"s{subject:02d}/{gesture}.mp4").touch()
            scene = "lab" if subject > 25 and number % 2 else "home"
            rows.append(f"s{subject:02d}/{gesture}.mp4,{gesture},{subject},{scene}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    return tmp_path


def subjects(root: Path, split: str, **options) -> set[int]:
    return {int(record.name[1:3]) for record in load_split(config(root, **options), split).records}


def test_cross_subject_has_other_people_in_each_split(root, caplog):
    with caplog.at_level(logging.INFO):
        found = {split: load_split(config(root), split) for split in SPLITS}
    assert [len(found[split].records) for split in SPLITS] == [30 * 12, 5 * 12, 15 * 12]
    assert [subjects(root, split) for split in SPLITS] == [set(range(1, 31)), set(range(31, 36)), set(range(36, 51))]
    assert found["test"].class_names == GESTURES
    record = found["test"].records[13]
    assert (record.path, record.label, record.name) == (f"{root}/s37/gesture_b.mp4", 1, "s37/gesture_b.mp4")
    assert "cross_subject: train 360, val 60, test 180, left out 0 clips" in caplog.text


def test_subjects_are_a_setting(root):
    options = {"TEST_SUBJECTS": [3], "VAL_SUBJECTS": [1, 2]}
    assert subjects(root, "test", **options) == {3}
    assert subjects(root, "val", **options) == {1, 2}
    assert len(subjects(root, "train", **options)) == 47


def test_cross_scene_subject_has_other_people_in_other_scenes(root):
    cfg = config(root, PROTOCOL="cross_scene_subject", TEST_SCENES="street, lab")
    found = {split: load_split(cfg, split).records for split in SPLITS}
    # Of the test subjects the lab clips, of the others those at home: 25 x 12 + 5 x 6 to train, 5 x 6 to validate on.
    assert [len(found[split]) for split in SPLITS] == [330, 30, 90]
    assert {record.label % 2 for record in found["test"]} == {1}
    assert {record.label % 2 for record in found["val"]} == {0}


def test_clips_made_of_the_listed_ones_are_found(root):
    (root / "s36/gesture_a.mp4").unlink()
    (root / "s36/gesture_a").mkdir()
    assert load_split(config(root), "test").records[0].path == f"{root}/s36/gesture_a"


@pytest.mark.parametrize("first", [0, 1])
def test_labels_may_be_numbers_from_0_or_from_1(root, first):
    text = (root / "clips.csv").read_text()
    for number, gesture in enumerate(GESTURES, start=first):
        text = text.replace(f",{gesture},", f",{number},")
    (root / "clips.csv").write_text(text)
    found = load_split(config(root), "test")
    assert [record.label for record in found.records][:12] == list(range(12))
    assert found.class_names == tuple(str(number + first) for number in range(12))
    if first == 0:
        (root / "classes.txt").write_text("\n".join(GESTURES))
        assert load_split(config(root), "test").class_names == GESTURES


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("path,label,subject", "line 1: found 'path,label,subject', expected the header 'path,label,subject,scene'"),
        ("a.mp4,wave,7", "line 602: found 'a.mp4,wave,7', expected 'path,label,subject,scene'"),
        ("a.mp4,,7,home", "line 602: found 'a.mp4,,7,home'"),
        ("a.mp4,wave,seven,home", "line 602: subject 'seven', expected a whole number"),
        ("s01/gesture_a.mp4,wave,7,home", "line 602: s01/gesture_a.mp4 stands in line 2 already"),
        (
            "./s01/gesture_a.mp4,gesture_a,36,home",
            "line 602: ./s01/gesture_a.mp4 stands in line 2 already, as s01/gesture_a.mp4",
        ),
        (
            "s02/../s01/gesture_a.mp4,gesture_a,1,home",
            "line 602: s02/../s01/gesture_a.mp4 stands in line 2 already, as",
        ),
        ("s01/gesture_a.avi,gesture_b,40,home", "line 602: s01/gesture_a.avi stands in line 2 already, as s01/ges"),
        ("a.mp4,gesture_a,7,home", "(?s)1 of 361 listed clips are not on disk.*line 602: .*a.mp4"),
    ],
)
def test_a_wrong_file_is_an_error_with_its_line(root, line, message):
    csv = root / "clips.csv"
    text = csv.read_text()
    csv.write_text(f"{line}\n" if line.startswith("path") else f"{text}\n{line}\n")
    fails(root, message)


def test_no_file_and_no_clips_are_errors(root):
    fails(
        root,
        r"no clips for the test split .*the subjects 1, 2, 3, .*50 and the scenes home, lab",
        "test",
        TEST_SUBJECTS=[99],
    )
    (root / "classes.txt").write_text("\n".join(GESTURES[1:]))
    fails(root, "(?s)no class of classes.txt:.*gesture_a")
    (root / "clips.csv").write_text("path,label,subject,scene\n")
    fails(root, "has a header but no clips")
    (root / "clips.csv").unlink()
    fails(root, "clips.csv not found: expected a file of columns path,label,subject,scene")
