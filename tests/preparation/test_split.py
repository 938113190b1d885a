"""Splits of HMDB_simp, made by tools/prepare.py hmdb_simp."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.sources.common import make_cfg, names_of, touch
from timesformer.commands.prepare import main
from timesformer.datasets.records import SPLITS
from timesformer.preparation.split import split_clips


@pytest.fixture
def clips(tmp_path: Path, make_frames: Callable[..., Path], make_video: Callable[..., Path]) -> Path:
    """Two classes of 25 clips: frame folders and video files."""
    root = tmp_path / "clips"
    for number in range(25):
        make_frames(root / "wave" / f"w{number}", 2, 8, 8)
        make_video(root / "catch" / f"c{number}.avi", [np.full((16, 16, 3), number, np.uint8)] * 2)
    return root


def read(file: Path) -> list[str]:
    return file.read_text().splitlines()


def test_split_is_stratified_and_leaves_out_unreadable_clips(clips: Path, processed: list) -> None:
    (clips / "catch/broken.mp4").write_bytes(b"")
    (clips / "wave/none").mkdir()
    assert main(["hmdb_simp", str(clips)]) == 1
    header, *unreadable = read(clips / "unreadable.csv")
    assert header == "class,video_name,reason"
    assert [line.split(",")[:2] for line in unreadable] == [["catch", "broken.mp4"], ["wave", "none"]]
    assert read(clips / "classes.txt") == ["catch", "wave"]
    assert len(read(clips / "manifest.csv")) == 1 + 52
    rows = {split: read(clips / f"{split}.csv") for split in SPLITS}
    assert {lines.pop(0) for lines in rows.values()} == {"class,video_name"}
    assert [len(rows[split]) for split in SPLITS] == [36, 9, 5]
    assert len(set().union(*rows.values())) == 50
    assert Counter(line.split(",")[0] for line in rows["train"]) == {"catch": 18, "wave": 18}
    assert len(names_of(make_cfg("hmdb_simp", clips))) == 36


@pytest.mark.slow
def test_split_is_not_overwritten_and_depends_on_the_seed(
    clips: Path, tmp_path: Path, processed: list, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["hmdb_simp", str(clips), "--output", str(tmp_path / "a"), "--workers", "1"]
    assert main(command) == 0
    first = read(tmp_path / "a/train.csv")
    assert main([*command, "--seed", "1"]) == 2
    assert "train.csv" in capsys.readouterr().err
    assert main([*command, "--seed", "1", "--force"]) == 0
    assert read(tmp_path / "a/train.csv") != first
    assert main([*command, "--force"]) == 0
    assert read(tmp_path / "a/train.csv") == first
    processed.clear()
    assert main([*command, "--val", "0.99", "--force"]) == 2
    assert processed == []  # fractions are checked before any clip


def test_check_keeps_the_split(clips: Path, tmp_path: Path, processed: list) -> None:
    (clips / "lists").mkdir()
    for split, number in zip(SPLITS, range(3), strict=True):
        lines = "".join(f"{label},{label[0]}{number}\n" for label in ("catch", "wave"))
        (clips / "lists" / f"{split}.csv").write_text(f"class,video_name\n{lines}")
    output = tmp_path / "report"
    command = ["hmdb_simp", str(clips), "--output", str(output), "--workers", "1", "--check"]
    assert main([*command, "DATA.SPLITS_DIR", str(clips / "lists")]) == 0
    assert json.loads((output / "data_report.json").read_text())["splits"] == {"train": 2, "val": 2, "test": 2}
    assert not [*clips.glob("*.csv")]
    assert not (output / "train.csv").exists()


@pytest.mark.parametrize(
    ("names", "named"),
    [
        ([], "nowhere"),
        (["wave/a.mp4"], "wave (1)"),
        (["wave/a.mp4", "yawn/notes"], "yawn"),
        (["train/wave/a.mp4", "test/wave/b.mp4"], "train"),
    ],
)
def test_folders_that_cannot_be_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], named: str
) -> None:
    root = touch(tmp_path / "nowhere", *names)
    assert main(["hmdb_simp", str(root), "--workers", "1"]) == 2
    assert named in capsys.readouterr().err
    assert not list(tmp_path.glob("**/*.csv"))


def test_25_classes_of_50_clips_give_900_225_125() -> None:
    clips = [(f"class{label:02}", f"clip{number}") for label in range(25) for number in range(50)]
    splits = split_clips(clips, 42, 0.1, 0.2)
    assert [len(splits[name]) for name in SPLITS] == [900, 225, 125]
    for name, each in zip(SPLITS, (36, 9, 5), strict=True):
        assert set(Counter(label for label, _ in splits[name]).values()) == {each}
    assert split_clips(clips[::-1], 42, 0.1, 0.2) == splits
