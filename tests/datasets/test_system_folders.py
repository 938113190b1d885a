"""What operating systems and storage devices leave behind, in every reader of folders; and classes with subfolders."""

import csv
import json
import logging
import runpy
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, TINY_CONFIG, Outcome
from tests.datasets.official import OfficialDataset
from tests.rar import rar
from timesformer.config import get_cfg
from timesformer.datasets.catalog import load_split
from timesformer.datasets.manifest import NAME, Manifest
from timesformer.datasets.records import SPLITS
from timesformer.preparation.clips_on_disk import find_empty_classes
from timesformer.preparation.command_line import main
from timesformer.preparation.download import download_if_asked
from timesformer.preparation.unpack import unpack
from timesformer.web.uploads import find_examples


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    return root


def litter(root: Path) -> Path:
    """The files of macOS, Windows, Linux, a Synology and Jupyter in `root` and in every folder below it."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        touch(folder, "@eaDir/a.mp4/SYNOINDEX_MEDIA_INFO", "__MACOSX/wave/._a.mp4", ".Trash-1000/files/b.mp4")
        touch(folder, "Thumbs.db", "desktop.ini", ".DS_Store", "._a.mp4", ".ipynb_checkpoints/c.mp4")
        touch(folder, "$RECYCLE.BIN/d.mp4", "System Volume Information/e.mp4")
        (folder / "lost+found").mkdir()
    return root


@pytest.fixture
def data(tmp_path: Path, make_video: Callable[..., Path]) -> Path:
    """Two classes of four clips: one with clips in the folders of two persons."""
    frames = [np.full((24, 32, 3), 20 * number, np.uint8) for number in range(6)]
    for number, person in enumerate(("anna", "anna", "bob", "bob")):
        make_video(tmp_path / f"data/wave/{person}/{number}.mp4", frames)
        make_video(tmp_path / f"data/catch/{number}.MKV", frames)
    return tmp_path / "data"


CLIPS = [
    *(f"catch/{number}.MKV" for number in range(4)),
    *(f"wave/{place}.mp4" for place in ("anna/0", "anna/1", "bob/2", "bob/3")),
]


def test_a_run_of_a_littered_folder_from_and_into_the_users_home(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_net: Callable[..., Outcome],
) -> None:
    litter(data)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = TINY_CONFIG.replace("hmdb_simp", "folder").replace("NUM_CLASSES: 3", "NUM_CLASSES: 2")
    (tmp_path / "tiny.yaml").write_text(f"{config}OUTPUT_DIR: ~/runs/first\n")
    done = run_net("--cfg=~/tiny.yaml", "DATA.PATH_TO_DATA_DIR", "~/data", "SOLVER.MAX_EPOCH", "1")
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "runs/first/results.json").read_text())
    assert (results["num_videos"], results["unreadable"]) == (2, [])
    with (tmp_path / "runs/first/predictions.csv").open() as file:
        assert {row["label"] for row in csv.DictReader(file)} == {"catch", "wave"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "runs", "tiny.yaml"]


def test_training_check_and_conversion_see_the_same_clips(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    litter(data)
    caplog.set_level(logging.WARNING)
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "folder"
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(data), 2
    assert sorted(record.name for split in SPLITS for record in load_split(cfg, split).records) == CLIPS
    assert len(caplog.messages) == 1  # of subfolders, and of no file that is skipped
    assert "4 clips" in caplog.text
    assert "wave/anna/0.mp4" in caplog.text
    assert main("folder", [str(data), "--short-side", "16", "--check", "--workers", "1"]) == 0
    rows = list(Manifest(data.with_name("data_16") / NAME))
    assert [(row.path, row.label) for row in rows] == [
        (f"{clip.rpartition('.')[0]}.mp4", clip.partition("/")[0]) for clip in CLIPS
    ]
    made = data.with_name("data_16")
    assert sorted(path.name for path in made.iterdir()) == ["catch", "conversion.csv", "conversion.json", NAME, "wave"]
    assert find_examples(data) == CLIPS


def test_persons_in_subfolders_can_be_kept_together(data: Path) -> None:
    for number in range(4, 8):
        touch(data, f"wave/cleo/{number}.mp4", f"catch/anna/{number}.mp4")
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "folder"
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(data), 2
    cfg.DATA.SPLIT_GROUPS = r"/([a-z]+)/|/\d"
    persons = [
        {record.name.split("/")[1] for record in load_split(cfg, split).records if record.name.count("/") == 2}
        for split in SPLITS
    ]
    assert set().union(*persons) == {"anna", "bob", "cleo"}
    assert sum(map(len, persons)) == 3


@pytest.mark.slow
def test_lists_made_of_subfolders_are_read_again(data: Path) -> None:
    script = runpy.run_path(str(ROOT / "datasets/hmdb_simp/prepare.py"))
    litter(data)
    assert script["main"]([str(data), "--workers", "1", "--test", "0.25", "--val", "0.34"]) == 0
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "hmdb_simp"
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(data), 2
    assert sorted(record.name for split in SPLITS for record in load_split(cfg, split).records) == CLIPS


def test_official_lists_and_class_folders_among_system_files(tmp_path: Path) -> None:
    hmdb51, ucf101 = OfficialDataset("hmdb51", 1), OfficialDataset("ucf101", 1)
    touch(tmp_path, *(f"hmdb51_org/wave/{name}.avi" for name in "abc"))
    lists = tmp_path / "testTrainMulti_7030_splits"
    touch(tmp_path, "testTrainMulti_7030_splits/wave_test_split1.txt")
    (lists / "wave_test_split1.txt").write_text("a.avi 1\nb.avi 1\nc.avi 2\n")
    (tmp_path / "ucfTrainTestlist").mkdir()
    for name, text in {
        "classInd": "1 wave",
        "trainlist01": "wave/a.avi 1\nwave/b.avi 1",
        "testlist01": "wave/c.avi",
    }.items():
        (tmp_path / f"ucfTrainTestlist/{name}.txt").write_text(text)
    litter(tmp_path)
    touch(
        tmp_path, "__MACOSX/testTrainMulti_7030_splits/._wave_test_split1.txt", "__MACOSX/ucfTrainTestlist/classInd.txt"
    )
    touch(lists, "._wave_test_split1.txt", "._run_test_split1.txt")
    for dataset in (hmdb51, ucf101):
        found = [name for split in SPLITS for name in dataset.names(tmp_path, split)]
        assert sorted(found) == [f"wave/{name}.avi" for name in "abc"]


def test_clips_of_kinetics_are_found_in_linked_folders_and_not_in_system_folders(tmp_path: Path) -> None:
    clip = "a_000000_000010"
    touch(tmp_path, f"set/__MACOSX/{clip}.mp4", f"elsewhere/{clip}.MTS", f"set/lost+found/{clip}.mp4")
    (tmp_path / "set/wave").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/train.csv").write_text("label,youtube_id,time_start,time_end,split\nwave,a,0,10,train\n")
    cfg = get_cfg()
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(tmp_path / "set"), 1
    assert [record.name for record in load_split(cfg, "train").records] == [f"wave/{clip}.MTS"]


@pytest.mark.parametrize("name", ["__MACOSX/UCF-101/a/._x.avi", ".DS_Store", "desktop.ini"])
def test_an_outer_folder_gives_way_with_system_files_beside_it(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("UCF-101/a/x.avi", "x")
        archive.writestr(name, "y")
    unpack(tmp_path / "a.zip", tmp_path / "videos")
    assert [str(path.relative_to(tmp_path)) for path in (tmp_path / "videos").rglob("*.avi")] == ["videos/a/x.avi"]


def test_a_resource_fork_is_no_rar_in_a_rar(tmp_path: Path) -> None:
    inner = rar({"wave/w.avi": b"1"})
    (tmp_path / "a.rar").write_bytes(rar({"wave.rar": inner, "._wave.rar": b"Mac OS X", "run.rar": inner}))
    unpack(tmp_path / "a.rar", tmp_path / "videos")
    assert (tmp_path / "videos/wave/w.avi").read_bytes() == b"1"


def test_a_dataset_is_fetched_to_a_disk_that_has_nothing_but_its_system_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    monkeypatch.setattr("timesformer.preparation.download.download", lambda name, *_: fetched.append(name))
    cfg = get_cfg()
    cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.DOWNLOAD = str(litter(tmp_path)), True
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "ucf101"
    download_if_asked(cfg)
    assert fetched == ["ucf101"]


def test_a_class_of_files_that_are_no_clips_is_named_by_the_check(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    touch(data, "run/a.xyz", "annotations/all.csv", "wave/notes/read.me")
    (data / "empty").mkdir()
    assert main("folder", [str(data), "--check", "--workers", "1"]) == 1
    assert find_empty_classes(data, CLIPS) == ["empty", "run"]
    assert "annotations, empty, run" in capsys.readouterr().out  # training takes every folder for a class


def test_clips_in_no_class_folder_are_named_by_the_check_and_by_training(
    data: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(data / "wave/anna/0.mp4", data / "loose.mp4")
    assert main("folder", [str(data), "--check", "--workers", "1"]) == 1
    assert "loose.mp4" in capsys.readouterr().out
    cfg = get_cfg()
    cfg.TRAIN.DATASET = cfg.TEST.DATASET = "folder"
    cfg.DATA.PATH_TO_DATA_DIR, cfg.MODEL.NUM_CLASSES = str(data), 2
    load_split(cfg, "train")
    assert len([line for line in caplog.messages if "loose.mp4" in line]) == 1


def test_files_of_no_clip_are_named_where_clips_lie_and_lists_are_not(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(data, "train.csv", "lists/test.txt", "wave/readme.md", "wave/anna/2.jpg", "catch/x.part")
    caplog.set_level(logging.WARNING)
    assert main("folder", [str(data), "--check", "--workers", "1"]) == 0
    (line,) = caplog.messages
    assert "3 files" in line
    assert all(name in line for name in ("catch/x.part", "wave/anna/2.jpg", "wave/readme.md"))
