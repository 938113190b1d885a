"""Files are whole or as they were."""

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from timesformer.atomic import write_atomically, write_text_atomically


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    write_text_atomically(path, "new")
    assert path.read_text() == "new"


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, path, seen = os.fsync, tmp_path / "file", []

    def note(file: int) -> None:
        seen.append((os.path.samestat(os.fstat(file), tmp_path.stat()), path.exists()))
        fsync(file)

    monkeypatch.setattr(os, "fsync", note)
    write_text_atomically(path, "new")
    assert seen == [(False, False), (True, True)]  # whether it was the folder's turn, and the name was there
