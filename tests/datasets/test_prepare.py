"""Making a split of HMDB_simp with the command, as a user would."""

import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.patience import PATIENCE
from timesformer.config import get_cfg
from timesformer.datasets.catalog import load_split
from timesformer.datasets.records import SPLITS

CLONE = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The script as a module, so that not every test starts an interpreter."""
    specification = importlib.util.spec_from_file_location("hmdb_simp_prepare", CLONE / "datasets/hmdb_simp/prepare.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def clips(tmp_path, make_frames, make_video) -> Path:
    """Two classes of 25 clips: frame folders and video files."""
    root = tmp_path / "clips"
    for number in range(25):
        make_frames(root / "wave" / f"w{number}", 2, 8, 8)
        make_video(root / "catch" / f"c{number}.avi", [np.full((16, 16, 3), number, np.uint8)] * 2)
    return root


def read(file: Path) -> list[str]:
    return file.read_text().splitlines()


def test_the_command_splits_by_class_and_leaves_out_and_lists_what_is_unreadable(clips):
    (clips / "catch/broken.mp4").write_bytes(b"")
    (clips / "wave/none").mkdir()
    command = [sys.executable, "datasets/hmdb_simp/prepare.py", str(clips)]
    environment = {"PATH": "/usr/bin:/bin"}  # without PYTHONPATH
    done = subprocess.run(command, cwd=CLONE, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1, done.stderr
    assert "2 classes; train 36, val 9, test 5" in done.stdout
    assert "2 of 52 clips are unreadable" in done.stdout
    assert "broken.mp4: the file is empty" in done.stdout
    assert "checking clips: 100%" in done.stderr
    assert read(clips / "unreadable.csv") == [
        "class,video_name,reason",
        "catch,broken.mp4,the file is empty (0 bytes): copy or download it again",
        'wave,none,"no frames in this folder: expected .jpeg, .jpg, .png files; of videos in it, name one"',
    ]
    assert read(clips / "classes.txt") == ["catch", "wave"]
    assert len(read(clips / "manifest.csv")) == 1 + 52
    assert "catch/broken.mp4,catch,0,0.0,0,0,0.0,0,the file is empty (0 bytes): copy or download it again" in read(
        clips / "manifest.csv"
    )
    rows = {split: read(clips / f"{split}.csv") for split in SPLITS}
    assert all(lines[0] == "class,video_name" for lines in rows.values())
    assert {split: len(lines) - 1 for split, lines in rows.items()} == {"train": 36, "val": 9, "test": 5}
    assert len({line for lines in rows.values() for line in lines[1:]}) == 50
    assert Counter(line.split(",")[0] for line in rows["train"][1:]) == {"catch": 18, "wave": 18}

    cfg = get_cfg()
    cfg.TRAIN.DATASET, cfg.MODEL.NUM_CLASSES, cfg.DATA.PATH_TO_DATA_DIR = "hmdb_simp", 2, str(clips)
    assert len(load_split(cfg, "train").records) == 36


def test_a_split_is_not_overwritten_without_force_and_is_the_same_for_the_same_seed(clips, tmp_path, script, capsys):
    def run(*options: str) -> int:
        return script.main([str(clips), "--output", str(tmp_path / "a"), *options])

    assert run() == 0
    first = read(tmp_path / "a/train.csv")
    assert run("--seed", "1") == 2
    assert "train.csv, val.csv, test.csv, classes.txt already: give --force" in capsys.readouterr().err
    assert read(tmp_path / "a/train.csv") == first
    assert run("--seed", "1", "--force") == 0
    assert read(tmp_path / "a/train.csv") != first
    assert run("--force") == 0
    assert read(tmp_path / "a/train.csv") == first


def test_what_cannot_be_split_is_an_error_that_says_why(tmp_path, hmdb_root, make_frames, script, capsys):
    make_frames(tmp_path / "few/wave/w0", 1)
    make_frames(tmp_path / "empty/wave/w0", 1)
    (tmp_path / "empty/yawn").mkdir()
    (tmp_path / "other/yawn").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"broken/wave/w{number}").mkdir(parents=True)
    for root, message in {
        tmp_path / "nowhere": "nowhere is not a folder",
        tmp_path / "few/wave/w0": "holds no class folders",
        tmp_path / "few": "fewer than 3 readable clips",
        tmp_path / "empty": "classes without clips",
        tmp_path / "other": "none holds a clip: is it the folder of the dataset?",
        tmp_path / "broken": "no clip can be read",
        hmdb_root: "it is split already",
    }.items():
        assert script.main([str(root)]) == 2
        assert message in capsys.readouterr().err
        assert {path.name for path in root.glob("*.csv")} <= {"manifest.csv"}


def test_shares_are_looked_at_before_any_clip(clips, script, capsys, monkeypatch):
    monkeypatch.delattr(script, "check")
    for share in ("20", "0", "abc", "nan"):
        with pytest.raises(SystemExit) as stopped:
            script.main([str(clips), "--test", share])
        assert stopped.value.code == 2
        assert f"{share!r} found, a share above 0 and below 1 expected" in capsys.readouterr().err
    assert script.main([str(clips), "--val", "0.99"]) == 2
    assert "50 clips of 2 classes cannot be split into 0.1 of all for test, 0.99 of the rest" in capsys.readouterr().err


def test_an_interruption_is_told_in_one_line(clips, script, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "check", interrupted)
    assert script.main([str(clips)]) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on from here\n"


def test_25_classes_of_50_clips_give_900_225_125(script):
    rows = [(f"class{label:02}", f"clip{number}") for label in range(25) for number in range(50)]
    splits = script.split_rows(rows, 42, 0.1, 0.2)
    assert [len(splits[name]) for name in SPLITS] == [900, 225, 125]
    for name, each in zip(SPLITS, (36, 9, 5), strict=True):
        assert set(Counter(label for label, _ in splits[name]).values()) == {each}
    assert script.split_rows(rows[::-1], 42, 0.1, 0.2) == splits
