"""Checks of clips: every clip is decoded once, and the manifest has its length or its problem."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.datasets.earlier_manifest import write_earlier_manifest
from timesformer.datasets.manifest import NAME, Manifest, Row
from timesformer.datasets.records import DataError
from timesformer.datasets.workers.pool import Outcome
from timesformer.preparation import check as module
from timesformer.preparation.check import FINGERPRINTS, UNFINISHED, check_clips
from timesformer.preparation.clips_on_disk import find_clips


@pytest.fixture
def root(tmp_path: Path, make_video: Callable[..., Path], make_frames: Callable[..., Path]) -> Path:
    """Four clips, one of them cut off, and other files."""
    root, frames = tmp_path / "data", [np.full((24, 32, 3), 4 * number, np.uint8) for number in range(10)]
    make_video(root / "wave/a.avi", frames)
    whole = make_video(root / "wave/b, c.mp4", frames, "libx264")
    make_frames(root / "catch/frames", 4)
    (root / "catch/cut.mp4").write_bytes(whole.read_bytes()[:-300])
    (root / "classes.txt").write_text("catch\nwave\n")
    return root


def test_clips_are_found_at_any_depth(root: Path, make_frames: Callable[..., Path]) -> None:
    make_frames(root / "deep/er/still/frames", 1)
    found = ["catch/cut.mp4", "catch/frames", "deep/er/still/frames", "wave/a.avi", "wave/b, c.mp4"]
    assert find_clips(root) == found
    (root / "wave/line\nbreak.avi").touch()
    for path in ("catch/frames", "wave/a.avi", "."):
        with pytest.raises(DataError, match=str(root / path)):
            find_clips(root / path)


def test_manifest_has_lengths_and_problems(root: Path) -> None:
    rows = [clip.row for clip in check_clips(root, find_clips(root), 2)]
    assert [row.path for row in rows] == ["catch/cut.mp4", "catch/frames", "wave/a.avi", "wave/b, c.mp4"]
    assert rows[0].problem
    assert rows[1][:5] == ("catch/frames", "catch", 4, 0.0, 32)
    for row in rows[2:]:
        assert row == Row(row.path, "wave", 10, 25.0, 32, 24, 0.4, (root / row.path).stat().st_size)
    assert sorted(Manifest(root / NAME)) == sorted(rows)
    assert sorted(path.name for path in root.iterdir() if path.is_file()) == ["classes.txt", FINGERPRINTS, NAME]


def test_only_changed_clips_are_decoded_again(root: Path, processed: list, make_frames: Callable[..., Path]) -> None:
    check_clips(root, find_clips(root), 1)
    processed.clear()
    (root / "catch/cut.mp4").write_bytes((root / "wave/b, c.mp4").read_bytes())
    (root / "catch/frames/frame0.png").unlink()
    make_frames(root / "wave/new", 2)
    (root / "wave/a.avi").unlink()
    checked = check_clips(root, find_clips(root), 1)
    rows = [clip.row for clip in checked]
    assert processed == ["catch/cut.mp4", "catch/frames", "wave/new"]
    expected = [("catch/cut.mp4", 10), ("catch/frames", 3), ("wave/b, c.mp4", 10), ("wave/new", 2)]
    assert [(row.path, row.frames) for row in rows] == expected
    assert [len(clip.fingerprint) for clip in checked] == [row.frames for row in rows]
    assert Manifest(root / NAME).find("wave/a.avi") is None


def test_rows_of_earlier_manifests_get_patterns_without_decoding(root: Path, processed: list) -> None:
    os.utime(root / "catch/frames", ns=(10**18 + 1, 10**18 + 1))
    rows = [clip.row for clip in check_clips(root, find_clips(root), 1)]
    write_earlier_manifest(root / NAME)
    processed.clear()
    assert [clip.row for clip in check_clips(root, find_clips(root), 1)] == rows
    assert not processed
    assert [row[8:10] for row in rows] == [("", 0), ("frame%d.png#0-3", 10**18 + 1), ("", 0), ("", 0)]


def test_interrupted_check_continues(root: Path, processed: list, monkeypatch: pytest.MonkeyPatch) -> None:
    run = module.in_processes

    def interrupt(*arguments: Any) -> Iterator[Outcome]:
        outcomes = run(*arguments)
        yield next(outcomes)
        yield next(outcomes)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "in_processes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            check_clips(root, find_clips(root), 1)
    assert not (root / NAME).exists()
    with (root / UNFINISHED).open("a") as file:
        file.write("wave/a.avi,wave,1")  # cut off while it was written
    with (root / FINGERPRINTS).with_suffix(".unfinished").open("ab") as file:
        file.write(b"\x93NUMPY")
    processed.clear()
    checked = check_clips(root, find_clips(root), 1)
    assert processed == ["wave/a.avi", "wave/b, c.mp4"]
    assert [clip.row.frames for clip in checked] == [0, 4, 10, 10]
    assert [clip.fingerprint is None for clip in checked] == [True, False, False, False]
    assert not list(root.glob("*.unfinished"))


def test_clips_without_fingerprints_are_decoded_again(root: Path, processed: list) -> None:
    check_clips(root, find_clips(root), 1)
    (root / FINGERPRINTS).unlink()  # as after a check by an earlier version
    processed.clear()
    assert [clip.fingerprint is None for clip in check_clips(root, find_clips(root), 1)] == [True, False, False, False]
    assert processed == ["catch/frames", "wave/a.avi", "wave/b, c.mp4"]
