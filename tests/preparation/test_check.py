"""Checking: every clip is decoded once, by whatever run, and what it is or why not stands in the manifest."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from timesformer.datasets.manifest import NAME, Manifest, Row
from timesformer.datasets.records import DataError
from timesformer.datasets.workers.pool import Outcome
from timesformer.errors import UserError
from timesformer.preparation import manifest_check as module
from timesformer.preparation.clips_on_disk import find_clips
from timesformer.preparation.manifest_check import check


@pytest.fixture
def root(tmp_path: Path, make_video: Callable[..., Path], make_frames: Callable[..., Path]) -> Path:
    """Four clips, one of them broken, and what is none."""
    frames = [np.full((24, 32, 3), 4 * number, np.uint8) for number in range(10)]
    make_video(tmp_path / "data/wave/a.avi", frames)
    whole = make_video(tmp_path / "data/wave/b, c.mp4", frames, "libx264")
    (tmp_path / "data/catch").mkdir()
    (tmp_path / "data/catch/cut.mp4").write_bytes(whole.read_bytes()[:-300])
    make_frames(tmp_path / "data/catch/frames", 4)
    (tmp_path / "data/classes.txt").write_text("catch\nwave\n")
    (tmp_path / "data/.hidden").mkdir()
    (tmp_path / "data/.hidden/x.avi").touch()
    (tmp_path / "data/wave/poster.jpg").touch()
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The clips decoded so far; in this process, without others."""
    clips: list[str] = []

    def here(function: Callable[[Any], Any], items: Sequence[Any], workers: int, limit: float) -> Iterator[Outcome]:
        for item in items:
            clips.append(item)
            try:
                yield Outcome(item, function(item))
            except UserError as error:
                yield Outcome(item, problem=str(error))

    monkeypatch.setattr(module, "in_processes", here)
    return clips


def test_clips_are_found_at_any_depth(root: Path, make_frames: Callable[..., Path]) -> None:
    make_frames(root / "deep/er/still/frames", 1)
    found = ["catch/cut.mp4", "catch/frames", "deep/er/still/frames", "wave/a.avi", "wave/b, c.mp4"]
    assert find_clips(root) == found
    with pytest.raises(DataError, match="holds no clips"):
        find_clips(root / "catch/frames")
    with pytest.raises(DataError, match="is not a folder"):
        find_clips(root / "wave/a.avi")
    (root / "wave/line\nbreak.avi").touch()
    with pytest.raises(DataError, match="has a line break in its name"):
        find_clips(root)


def test_the_manifest_says_what_each_clip_is_or_why_not(root: Path) -> None:
    rows = check(root, find_clips(root), 2)
    assert [row.path for row in rows] == ["catch/cut.mp4", "catch/frames", "wave/a.avi", "wave/b, c.mp4"]
    sizes = [(root / path).stat().st_size for path in ("wave/a.avi", "wave/b, c.mp4")]
    assert rows[2:] == [
        Row("wave/a.avi", "wave", 10, 25.0, 32, 24, 0.4, sizes[0]),
        Row("wave/b, c.mp4", "wave", 10, 25.0, 32, 24, 0.4, sizes[1]),
    ]
    assert rows[0].problem.startswith("cut short: the file ends at byte")
    assert rows[1][:5] == ("catch/frames", "catch", 4, 0.0, 32)
    assert sorted(Manifest(root / NAME)) == sorted(rows)
    assert sorted(path.name for path in root.iterdir() if path.is_file()) == ["classes.txt", NAME]


def test_folders_need_not_be_classes(root: Path, decoded: list[str]) -> None:
    assert {row.label for row in check(root, find_clips(root), 1, label_of=None)} == {""}


def test_only_what_changed_is_decoded_again(root: Path, decoded: list[str], make_frames: Callable[..., Path]) -> None:
    check(root, find_clips(root), 1)
    decoded.clear()
    (root / "catch/cut.mp4").write_bytes((root / "wave/b, c.mp4").read_bytes())
    (root / "catch/frames/frame0.png").unlink()
    make_frames(root / "wave/new", 2)
    (root / "wave/a.avi").unlink()
    rows = check(root, find_clips(root), 1)
    assert decoded == ["catch/cut.mp4", "catch/frames", "wave/new"]
    assert [(row.path, row.frames) for row in rows] == [
        ("catch/cut.mp4", 10),
        ("catch/frames", 3),
        ("wave/b, c.mp4", 10),
        ("wave/new", 2),
    ]
    assert len(Manifest(root / NAME)) == 4


def test_an_interrupted_check_goes_on(root: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    here = module.in_processes

    def interrupted(*arguments: object) -> Iterator[Outcome]:
        outcomes = here(*arguments)
        yield next(outcomes)
        yield next(outcomes)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "in_processes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check(root, find_clips(root), 1)
    assert not (root / NAME).exists()
    with (root / module.UNFINISHED).open("a") as file:
        file.write("wave/a.avi,wave,1")  # the machine stopped amid a line
    decoded.clear()
    monkeypatch.setattr(module, "in_processes", here)
    rows = check(root, find_clips(root), 1)
    assert decoded == ["wave/a.avi", "wave/b, c.mp4"]
    assert [row.frames for row in rows] == [0, 4, 10, 10]
    assert not (root / module.UNFINISHED).exists()


def test_a_place_that_cannot_be_written_is_named(root: Path, decoded: list[str]) -> None:
    (root / NAME).mkdir()
    with pytest.raises(UserError, match=r"manifest.csv could not be written: .*let somebody"):
        check(root, find_clips(root), 1)
