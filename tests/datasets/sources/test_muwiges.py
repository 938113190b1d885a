"""MuWiGes' splits by subject and scene."""

from functools import partial
from pathlib import Path

import pytest

from tests.datasets.sources.common import assert_fails, make_cfg, touch, write
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import SPLITS

GESTURES = tuple(f"gesture_{letter}" for letter in "abcdefghijkl")
make = partial(make_cfg, "muwiges", num_classes=12)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One clip of each of 12 gestures by each of 50 subjects; some at home, some in the lab."""
    clips = [(subject, number, gesture) for subject in range(1, 51) for number, gesture in enumerate(GESTURES)]
    rows = [
        f"s{subject:02d}/{gesture}.mp4,{gesture},{subject},{'lab' if subject > 25 and number % 2 else 'home'}"
        for subject, number, gesture in clips
    ]
    write(tmp_path / "clips.csv", "path,label,subject,scene", *rows)
    return touch(tmp_path, *(row.partition(",")[0] for row in rows))


def test_cross_subject(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    found = {split: load_split(make(root), split) for split in SPLITS}
    assert [len(found[split].records) for split in SPLITS] == [30 * 12, 5 * 12, 15 * 12]
    subjects = [{int(record.name[1:3]) for record in found[split].records} for split in SPLITS]
    assert subjects == [set(range(1, 31)), set(range(31, 36)), set(range(36, 51))]
    assert found["test"].class_names == GESTURES
    record = found["test"].records[13]
    assert (record.path, record.label, record.name) == (f"{root}/s37/gesture_b.mp4", 1, "s37/gesture_b.mp4")
    assert "train 360, val 60, test 180, left out 0" in caplog.text


def test_cross_scene_subject(root: Path) -> None:
    cfg = make(root, PROTOCOL="cross_scene_subject", TEST_SCENES="street, lab")
    found = {split: load_split(cfg, split).records for split in SPLITS}
    # Test subjects in the lab, others at home: 25 x 12 + 5 x 6 clips to train on, 5 x 6 to validate on.
    assert [len(found[split]) for split in SPLITS] == [330, 30, 90]
    assert {record.label % 2 for record in found["test"]} == {1}
    assert {record.label % 2 for record in found["val"]} == {0}


def test_labels_may_be_numbers(root: Path) -> None:
    text = (root / "clips.csv").read_text()
    for number, gesture in enumerate(GESTURES):
        text = text.replace(f",{gesture},", f",{number},")
    (root / "clips.csv").write_text(text)
    found = load_split(make(root), "test")
    assert found.records.labels[:12].tolist() == list(range(12))
    assert found.class_names == tuple(map(str, range(12)))
    write(root / "classes.txt", *GESTURES)
    assert load_split(make(root), "test").class_names == GESTURES


@pytest.mark.parametrize(
    "line",
    [
        *("a.mp4,wave,7", "a.mp4,gesture_a,seven,home", "gone.mp4,gesture_a,7,home"),
        *("s02/../s01/gesture_a.mp4,gesture_a,1,home", "s01/gesture_a.avi,gesture_b,40,home"),
    ],
)
def test_bad_lines_are_errors(root: Path, line: str) -> None:
    write(root / "clips.csv", (root / "clips.csv").read_text() + line)
    assert_fails(make(root), "clips.csv", "line 602")


def test_missing_columns_classes_clips_and_files_are_errors(root: Path) -> None:
    assert_fails(make(root, TEST_SUBJECTS=[99]), "DATA.TEST_SUBJECTS", "home, lab", split="test")
    write(root / "classes.txt", *GESTURES[1:])
    assert_fails(make(root), "classes.txt", "gesture_a")
    write(root / "clips.csv", "path,label,subject")
    assert_fails(make(root), "clips.csv")
    (root / "clips.csv").unlink()
    assert_fails(make(root), "clips.csv", "DATA.SPLITS_DIR")
