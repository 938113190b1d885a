"""Which files and folders are clips, and the clip on disk that a split file names."""

from pathlib import Path

import pytest

from timesformer.datasets.records import DataError
from timesformer.datasets.sources import clip_files
from timesformer.datasets.sources.clip_files import (
    ClipFolder,
    class_of,
    clip_names,
    find_below,
    is_system_name,
    list_classes,
)

_TWICE = ["twice.avi", "twice.mp4", "v1.0.webm"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("frames", "both", "a.b", ".hidden"):
        (tmp_path / name).mkdir()
    for name in (
        "film.AVI",
        "both.mp4",
        "twice.mp4",
        "twice.avi",
        "v1.0.webm",
        "preview.gif",
        "preview.mp4",
        ".part.mp4",
        "notes.txt",
    ):
        (tmp_path / name).touch()
    return tmp_path


def test_clips_are_videos_and_folders_in_order_of_name(folder):
    skipped: list[str] = []
    names = clip_names(folder, skipped)
    assert skipped == [f"{folder.name}/notes.txt"]
    assert names == ["a.b", "both", "both.mp4", "film.AVI", "frames", "preview.gif", "preview.mp4", *_TWICE]
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
        ("preview", "preview.mp4"),
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


def test_a_list_may_lead_into_subfolders(tmp_path):
    touch(tmp_path, "anna/01.MTS", "anna/.trash/02.mp4")
    clips = ClipFolder(tmp_path)
    assert clips.find("anna/01.avi") == "anna/01.MTS"
    assert clips.find("Anna/01.avi") is None
    assert clips.find("bob/01.avi") is None
    assert clips.find("anna/.trash/02.mp4") is None
    assert clips.find("../x.mp4") is None


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


SYSTEM = [
    *("__MACOSX", "@eaDir", "lost+found", ".Trash-1000", "$RECYCLE.BIN", "System Volume Information"),
    *(".ipynb_checkpoints", ".git", "#recycle", "@Recycle", "Thumbs.db", "desktop.ini", ".DS_Store", "._a.mp4"),
]


@pytest.mark.parametrize("name", [*SYSTEM, *map(str.upper, SYSTEM)])
def test_what_systems_make_is_neither_clip_nor_class_nor_counted(tmp_path, name):
    assert is_system_name(name)
    touch(tmp_path, "wave/a.mp4", f"{name}/x.mp4", f"wave/{name}/x.mp4", f"wave/b/{name}")
    (tmp_path / "wave/c").mkdir()
    touch(tmp_path, "wave/c/0.jpg", f"wave/c/{name}/0.jpg")
    assert [path.name for path in list_classes(tmp_path)] == ["wave"]
    assert find_below(tmp_path) == (["wave/a.mp4", "wave/b", "wave/c"], [])
    assert ClipFolder(tmp_path / "wave").names == ["a.mp4", "b", "c"]


@pytest.mark.parametrize("name", ["eaDir", "MACOSX", "lost", "found", "recycle", "trash", "thumbs", "_x.mp4", "-x.mp4"])
def test_names_like_those_are_ordinary(name):
    assert not is_system_name(name)


def test_subfolders_of_a_class_hold_its_clips(tmp_path):
    touch(tmp_path, "anna/01.mp4", "anna/indoors/02.MOV", "bob/03/1.jpg", "bob/03/2.jpg", "04.avi", "bob/05.mkv")
    assert clip_names(tmp_path) == ["04.avi", "anna/01.mp4", "anna/indoors/02.MOV", "bob/03", "bob/05.mkv"]


def test_what_a_folder_of_frames_is_among_videos_folders_and_single_images(tmp_path):
    touch(tmp_path, "frames/1.jpg", "frames/2.jpg", "frames/flow/1.jpg", "frames/notes.xml")
    touch(tmp_path, "cover.jpg", "anna/cover.png", "anna/01/1.jpg", "one/1.jpg")
    touch(tmp_path, "mixed/a.mp4", "mixed/a.jpg", "mixed/b.jpg", "other/1.bmp", "other/2.bmp")
    (tmp_path / "lost").mkdir()
    (tmp_path / "anna/lost").mkdir()
    assert find_below(tmp_path) == (
        ["anna/01", "anna/lost", "frames", "lost", "mixed/a.mp4", "one"],
        ["anna/cover.png", "cover.jpg", "frames/flow/", "mixed/a.jpg", "mixed/b.jpg", "other/1.bmp", "other/2.bmp"],
    )


def test_links_to_folders_are_followed_and_never_in_a_circle(tmp_path):
    touch(tmp_path, "set/wave/a.mp4", "elsewhere/b.mp4")
    (tmp_path / "set/catch").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/throw").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/itself").symlink_to("itself")
    assert find_below(tmp_path / "set") == (["catch/b.mp4", "throw/b.mp4", "wave/a.mp4"], ["itself"])


def test_the_class_is_the_first_folder_but_for_that_of_a_split():
    assert [class_of(clip) for clip in ("a.mp4", "wave/a.mp4", "wave/anna/a.mp4", "train/wave/anna/a.mp4")] == [
        *("", "wave", "wave", "wave")
    ]
    assert class_of("train/a.mp4") == "train"  # a class of trains


def test_a_folder_that_cannot_be_listed_is_an_error_that_names_it(tmp_path, monkeypatch):
    touch(tmp_path, "wave/private/a.mp4")
    real = clip_files.os.scandir

    def refused(folder):
        if Path(folder).name == "private":
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(clip_files.os, "scandir", refused)
    with pytest.raises(DataError, match="wave/private"):
        find_below(tmp_path)
