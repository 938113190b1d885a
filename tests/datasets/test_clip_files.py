"""The clip on disk that a split file names."""

from pathlib import Path

import pytest

from timesformer.datasets.clip_files import ClipFolder, list_classes, list_clips


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("frames", "both", "a.b", ".hidden"):
        (tmp_path / name).mkdir()
    for name in ("film.AVI", "both.mp4", "twice.mp4", "twice.avi", "v1.0.webm", ".part.mp4", "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


def test_clips_are_videos_and_folders_in_order_of_name(folder):
    names = [path.name for path in list_clips(folder)]
    assert names == ["a.b", "both", "both.mp4", "film.AVI", "frames", "twice.avi", "twice.mp4", "v1.0.webm"]
    assert [path.name for path in list_classes(folder)] == ["a.b", "both", "frames"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("frames", "frames"),
        ("frames.avi", "frames"),  # frames taken from the video listed
        ("film", "film.AVI"),
        ("film.mp4", "film.AVI"),  # encoded anew
        ("both.mp4", "both.mp4"),
        ("both.avi", "both"),
        ("twice.mp4", "twice.mp4"),
        ("twice", "twice.avi"),
        ("v1.0", "v1.0.webm"),
        ("a.b", "a.b"),
        ("a", None),
        ("v1", None),
        ("notes.txt", None),
        ("film.jpg", None),
        (".part.mp4", None),
    ],
)
def test_a_clip_is_found_by_the_name_in_a_split_file(folder, name, expected):
    assert ClipFolder(folder).find(name) == expected


def test_a_folder_that_is_not_there_has_no_clips(tmp_path):
    assert ClipFolder(tmp_path / "gone").find("x") is None
