"""System files and subfolders of classes, in training, preparation and the web page."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.datasets.sources.common import make_cfg, names_of, touch
from timesformer.commands.prepare import main
from timesformer.datasets.manifest import NAME, Manifest
from timesformer.datasets.records import SPLITS
from timesformer.preparation.clips_on_disk import find_clips
from timesformer.web.uploads import find_examples


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
    """Two classes of four clips, one with subfolders for two persons."""
    frames = [np.full((24, 32, 3), 20 * number, np.uint8) for number in range(6)]
    for number, person in enumerate(("anna", "anna", "bob", "bob")):
        make_video(tmp_path / f"data/wave/{person}/{number}.mp4", frames)
        make_video(tmp_path / f"data/catch/{number}.MKV", frames)
    return tmp_path / "data"


CLIPS = [
    *(f"catch/{number}.MKV" for number in range(4)),
    *(f"wave/{name}.mp4" for name in ("anna/0", "anna/1", "bob/2", "bob/3")),
]


def all_names(dataset: str, root: Path) -> list[str]:
    return sorted(name for split in SPLITS for name in names_of(make_cfg(dataset, root), split))


@pytest.mark.slow
def test_training_and_preparation_see_the_same_clips(data: Path) -> None:
    litter(data)
    assert all_names("folder", data) == find_examples(data) == CLIPS
    assert main(["folder", str(data), "--short-side", "16", "--check", "--workers", "1"]) == 0
    made = data.with_name("data_16")
    assert [(row.path, row.label) for row in Manifest(made / NAME)] == [
        (f"{clip.rpartition('.')[0]}.mp4", clip.partition("/")[0]) for clip in CLIPS
    ]
    of_check = {NAME, "data_report.html", "data_report.json", "duplicate_groups.csv", "fingerprints.npy"}
    assert {path.name for path in made.iterdir()} == {"catch", "conversion.csv", "conversion.json", "wave"} | of_check
    fractions = ["--test", "0.25", "--val", "0.34"]
    assert main(["hmdb_simp", str(data), "--workers", "1", *fractions]) == 0
    assert all_names("hmdb_simp", data) == CLIPS


def test_check_names_empty_classes_and_strays(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(data, "run/a.xyz", "annotations/all.csv", "wave/notes/read.me")
    (data / "empty").mkdir()
    assert main(["folder", str(data), "--check", "--workers", "1"]) == 1
    assert "annotations, empty, run" in capsys.readouterr().out  # training takes every folder for a class
    shutil.copy(data / "wave/anna/0.mp4", data / "loose.mp4")
    assert main(["folder", str(data), "--check", "--workers", "1"]) == 1
    assert "loose.mp4" in capsys.readouterr().out


def test_skipped_files_among_clips_are_logged(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(data, "train.csv", "lists/test.txt", "wave/readme.md", "wave/anna/2.jpg", "catch/x.part")
    find_clips(data)
    (line,) = caplog.messages
    assert "3 files" in line
    assert all(name in line for name in ("catch/x.part", "wave/anna/2.jpg", "wave/readme.md"))
