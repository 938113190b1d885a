"""Limits of uploads, the private file, and examples."""

import stat
from pathlib import Path

import pytest

from timesformer.errors import UserError
from timesformer.web.uploads import Limits, RefusedError, clock, find_examples, private_file


def test_an_upload_lies_in_a_private_file_that_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with private_file(b"content") as path:
        assert path.read_bytes() == b"content"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not list(tmp_path.iterdir())
    with pytest.raises(ZeroDivisionError), private_file(b"content"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_files_that_are_too_large_or_empty_are_refused() -> None:
    limits = Limits(megabytes=2)
    limits.check_size(2 * 2**20)
    with pytest.raises(RefusedError, match=r"too large: 3\.0 MB, and at most 2 MB"):
        limits.check_size(3 * 2**20)
    with pytest.raises(RefusedError, match="empty"):
        limits.check_size(0)


def test_videos_that_are_too_long_are_refused_where_their_rate_is_known() -> None:
    limits = Limits(seconds=90)
    limits.check_frames(640, 480, 90.0)
    limits.check_frames(640, 480, 0.0)
    with pytest.raises(RefusedError, match=r"too long: 1:31 min, and at most 1:30 min"):
        limits.check_frames(640, 480, 91.0)


def test_lengths_read_as_people_say_them() -> None:
    assert [clock(s) for s in (2.5, 59.96, 60, 3600)] == ["2.5 s", "1:00 min", "1:00 min", "1:00:00 h"]


def test_examples_are_the_videos_of_a_folder_and_its_subfolders(tmp_path: Path) -> None:
    (tmp_path / "wave").mkdir()
    for name in ("b.mp4", "wave/a.AVI", "notes.txt"):
        (tmp_path / name).touch()
    assert find_examples(tmp_path) == ["b.mp4", "wave/a.AVI"]
    assert find_examples(tmp_path, limit=1) == ["b.mp4"]
    with pytest.raises(UserError, match="no such folder"):
        find_examples(tmp_path / "absent")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="no video files"):
        find_examples(tmp_path / "bare")
