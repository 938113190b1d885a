"""Files are complete or as before."""

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from timesformer.atomic import write_atomically, write_text_atomically


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_file_reaches_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, path, seen = os.fsync, tmp_path / "file", []

    def note(file: int) -> None:
        seen.append((os.path.samestat(os.fstat(file), tmp_path.stat()), path.exists()))
        fsync(file)

    monkeypatch.setattr(os, "fsync", note)
    write_text_atomically(path, "new")
    assert seen == [(False, False), (True, True)]  # whether the folder was synced, and whether the file had its name
    assert path.read_text() == "new"
