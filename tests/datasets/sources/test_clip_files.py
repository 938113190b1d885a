"""Which files and folders are clips, and the clip on disk that a split file names."""

from pathlib import Path

import pytest

from tests.datasets.sources.common import touch
from timesformer.datasets.sources.clip_files import ClipFolder, class_of, find_below, list_classes, list_clips


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("frames.avi", "frames"),  # frames extracted from the listed video
        ("film", "film.AVI"),
        ("film.mp4", "film.AVI"),  # re-encoded
        ("both.mp4", "both.mp4"),
        ("both.avi", "both"),
        ("twice", "twice.avi"),
        ("v1.0", "v1.0.webm"),
        ("a.b", "a.b"),
        ("a", None),
        ("notes.txt", None),
        ("FILM", None),
        (".part.mp4", None),
        ("anna/01.avi", "anna/01.MTS"),
        ("bob/01.avi", None),
    ],
)
def test_names_in_split_files(tmp_path: Path, name: str, expected: str | None) -> None:
    for folder in ("frames", "both", "a.b", ".hidden"):
        (tmp_path / folder).mkdir()
    touch(tmp_path, "film.AVI", "both.mp4", "twice.mp4", "twice.avi", "v1.0.webm", ".part.mp4", "notes.txt")
    assert ClipFolder(touch(tmp_path, "anna/01.MTS")).find(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        *("__MACOSX", "@eaDir", "lost+found", ".Trash-1000", "$RECYCLE.BIN", "System Volume Information"),
        *(".ipynb_checkpoints", "#recycle", "@Recycle", "Thumbs.db", "desktop.ini", "THUMBS.DB", "._a.mp4"),
    ],
)
def test_system_names_are_neither_clips_nor_classes(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "wave/a.mp4", f"{name}/x.mp4", f"wave/{name}/x.mp4", f"wave/b/{name}")
    touch(tmp_path, "wave/c/0.jpg", f"wave/c/{name}/0.jpg", f"{name[1:]}_/x.mp4")
    assert [path.name for path in list_classes(tmp_path)] == sorted(["wave", f"{name[1:]}_"])
    assert find_below(tmp_path / "wave") == (["a.mp4", "b", "c"], [])


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
    touch(tmp_path, "mixed/a.mp4", "mixed/a.jpg", "other/1.bmp", "other/2.bmp")
    for name in ("lost", "anna/lost"):
        (tmp_path / name).mkdir()
    assert find_below(tmp_path) == (
        ["anna/01", "anna/lost", "frames", "lost", "mixed/a.mp4", "one"],
        ["anna/cover.png", "cover.jpg", "frames/flow/", "mixed/a.jpg", "other/1.bmp", "other/2.bmp"],
    )


def test_links_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path, "set/wave/a.mp4", "other/b.mp4")
    (tmp_path / "set/catch").symlink_to(tmp_path / "other")
    (tmp_path / "other/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/itself").symlink_to("itself")
    assert find_below(tmp_path / "set") == (["catch/b.mp4", "wave/a.mp4"], ["itself"])


@pytest.mark.parametrize(
    ("clip", "label"),
    [("a.mp4", ""), ("wave/a.mp4", "wave"), ("train/wave/anna/a.mp4", "wave"), ("train/a.mp4", "train")],
)
def test_class_of_a_path(clip: str, label: str) -> None:
    assert class_of(clip) == label
