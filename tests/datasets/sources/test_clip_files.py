"""Which files and folders are clips, and the clip on disk that a split file names."""

from pathlib import Path

import pytest

from tests.datasets.sources.common import touch
from timesformer.datasets.sources.clip_files import (
    ClipFolder,
    class_of,
    find_below,
    is_system_name,
    list_classes,
    list_clips,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("frames", "both", "a.b", ".hidden"):
        (tmp_path / name).mkdir()
    videos = ("film.AVI", "both.mp4", "twice.mp4", "twice.avi", "v1.0.webm", "preview.gif", "preview.mp4", ".part.mp4")
    return touch(tmp_path, *videos, "notes.txt", "anna/01.MTS", "anna/.trash/02.mp4")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("frames", "frames"),
        ("frames.avi", "frames"),  # frames extracted from the listed video
        ("film", "film.AVI"),
        ("film.mp4", "film.AVI"),  # re-encoded
        ("both.mp4", "both.mp4"),
        ("both.avi", "both"),
        ("twice.mp4", "twice.mp4"),
        ("twice", "twice.avi"),
        ("preview", "preview.mp4"),
        ("v1.0", "v1.0.webm"),
        ("a.b", "a.b"),
        ("a", None),
        ("v1", None),
        ("notes.txt", None),
        ("film.jpg", None),
        ("FILM", None),
        (".part.mp4", None),
        ("anna/01.avi", "anna/01.MTS"),
        ("./anna/01", "./anna/01.MTS"),
        ("Anna/01.avi", None),
        ("bob/01.avi", None),
    ],
)
def test_names_in_split_files(folder: Path, name: str, expected: str | None) -> None:
    assert ClipFolder(folder).find(name) == expected


SYSTEM = [
    *("__MACOSX", "@eaDir", "lost+found", ".Trash-1000", "$RECYCLE.BIN", "System Volume Information"),
    *(".ipynb_checkpoints", ".git", "#recycle", "@Recycle", "Thumbs.db", "desktop.ini", ".DS_Store", "._a.mp4"),
]


@pytest.mark.parametrize("name", [*SYSTEM, *map(str.upper, SYSTEM)])
def test_system_names_are_neither_clips_nor_classes(tmp_path: Path, name: str) -> None:
    assert is_system_name(name)
    touch(tmp_path, "wave/a.mp4", f"{name}/x.mp4", f"wave/{name}/x.mp4", f"wave/b/{name}")
    (tmp_path / "wave/c").mkdir()
    touch(tmp_path, "wave/c/0.jpg", f"wave/c/{name}/0.jpg")
    assert [path.name for path in list_classes(tmp_path)] == ["wave"]
    assert find_below(tmp_path) == (["wave/a.mp4", "wave/b", "wave/c"], [])


@pytest.mark.parametrize("name", ["eaDir", "MACOSX", "lost", "found", "recycle", "trash", "thumbs", "_x.mp4", "-x.mp4"])
def test_similar_names_are_not_system_names(name: str) -> None:
    assert not is_system_name(name)


def test_classes_have_clips_in_subfolders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a/anna/01.mp4", "a/anna/in/02.MOV", "a/bob/03/1.jpg", "a/bob/03/2.jpg", "a/04.avi", "a/x.txt")
    touch(tmp_path, "b/1.mp4", "stray.mp4")
    (tmp_path / "c").mkdir()
    in_subfolders = ["04.avi", "anna/01.mp4", "anna/in/02.MOV", "bob/03"]
    for _ in range(2):  # logged once
        assert list_clips(tmp_path) == {"a": in_subfolders, "b": ["1.mp4"], "c": []}
    skipped, nested, strays = caplog.messages
    assert "a/x.txt" in skipped
    assert "a/anna/01.mp4" in nested
    assert "stray.mp4" in strays


def test_folders_of_frames(tmp_path: Path) -> None:
    touch(tmp_path, "frames/1.jpg", "frames/2.jpg", "frames/flow/1.jpg", "frames/notes.xml")
    touch(tmp_path, "cover.jpg", "anna/cover.png", "anna/01/1.jpg", "one/1.jpg")
    touch(tmp_path, "mixed/a.mp4", "mixed/a.jpg", "mixed/b.jpg", "other/1.bmp", "other/2.bmp")
    (tmp_path / "lost").mkdir()
    (tmp_path / "anna/lost").mkdir()
    assert find_below(tmp_path) == (
        ["anna/01", "anna/lost", "frames", "lost", "mixed/a.mp4", "one"],
        ["anna/cover.png", "cover.jpg", "frames/flow/", "mixed/a.jpg", "mixed/b.jpg", "other/1.bmp", "other/2.bmp"],
    )


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path, "set/wave/a.mp4", "other/b.mp4")
    (tmp_path / "set/catch").symlink_to(tmp_path / "other")
    (tmp_path / "set/throw").symlink_to(tmp_path / "other")
    (tmp_path / "other/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/itself").symlink_to("itself")
    assert find_below(tmp_path / "set") == (["catch/b.mp4", "throw/b.mp4", "wave/a.mp4"], ["itself"])


@pytest.mark.parametrize(
    ("clip", "label"),
    [("a.mp4", ""), ("wave/a.mp4", "wave"), ("train/wave/anna/a.mp4", "wave"), ("train/a.mp4", "train")],
)
def test_class_of_a_path(clip: str, label: str) -> None:
    assert class_of(clip) == label
