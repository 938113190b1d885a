"""Converting a dataset: clips keep their names, nothing is lost, and an interrupted run continues."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from timesformer.datasets.decoding.open import open_video
from timesformer.datasets.records import DataError
from timesformer.datasets.workers.pool import Outcome
from timesformer.preparation import convert as module
from timesformer.preparation.clips_on_disk import find_clips
from timesformer.preparation.convert import SETTINGS, convert

Made = Callable[[], list[str]]


def num_frames(path: Path) -> int:
    with open_video(path) as video:
        return video.num_frames


@pytest.fixture
def root(tmp_path: Path, make_video: Callable[..., Path]) -> Path:
    """A dataset of two readable clips and a broken one, with a list."""
    root, frame = tmp_path / "data", np.full((48, 64, 3), 90, np.uint8)
    make_video(root / "UCF-101/wave/a.avi", [frame] * 5)
    make_video(root / "UCF-101/wave/b.mp4", [frame] * 6)
    (root / "UCF-101/wave/broken.mp4").write_bytes(b"no video")
    (root / "lists").mkdir()
    (root / "lists/classInd.txt").write_text("1 wave\n")
    (root / "manifest.csv").write_text("of these clips, not of the copies")
    return root


@pytest.fixture
def made(processed: list[Any]) -> Made:
    """made(): names of the clips that were made since the last call."""

    def names() -> list[str]:
        names = [Path(job.source).name for job in processed]
        processed.clear()
        return names

    return names


def run(root: Path, frames: bool = False, short_side: int = 256) -> dict[str, str]:
    output = root.with_name("frames" if frames else "small")
    return convert(root, find_clips(root), output, short_side, 90 * frames, workers=2)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_clips_keep_their_names_and_lists_are_copied(root: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert list(run(root)) == ["UCF-101/wave/broken.mp4"]
    run(root, frames=True)
    names = ["UCF-101/wave/a", "UCF-101/wave/b", "UCF-101/wave/broken"]
    assert find_clips(tmp_path / "small") == [f"{name}.mp4" for name in names]
    assert find_clips(tmp_path / "frames") == [*names[:2], "UCF-101/wave/broken.mp4"]
    assert num_frames(tmp_path / "small/UCF-101/wave/a.mp4") == 5
    for output in (tmp_path / "small", tmp_path / "frames"):
        assert (output / "lists/classInd.txt").read_text() == "1 wave\n"
        assert (output / "UCF-101/wave/broken.mp4").read_bytes() == b"no video"
        assert not (output / "manifest.csv").exists()
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_failed_and_changed_clips_are_made_again(
    root: Path, tmp_path: Path, make_video: Callable[..., Path], made: Made
) -> None:
    wave, output = root / "UCF-101/wave", tmp_path / "small/UCF-101/wave"
    run(root)
    assert made() == ["a.avi", "b.mp4", "broken.mp4"]
    shutil.copyfile(wave / "b.mp4", wave / "broken.mp4")
    assert run(root) == {}
    assert made() == ["broken.mp4"]
    assert json.loads((tmp_path / "small" / SETTINGS).read_text())["copied_as_it_was"] == {}
    make_video(wave / "a.avi", [np.zeros((48, 64, 3), np.uint8)] * 9)
    (wave / "b.mp4").write_bytes(b"broken now")
    assert sorted(run(root)) == ["UCF-101/wave/b.mp4"]
    assert made() == ["a.avi", "b.mp4"]
    assert num_frames(output / "a.mp4") == 9
    (wave / "a.avi").write_bytes(b"broken too")
    run(root)
    assert names_in(output) == ["a.avi", "b.mp4", "broken.mp4"]


def test_other_or_damaged_settings_are_errors(root: Path, tmp_path: Path, made: Made) -> None:
    run(root)
    with pytest.raises(DataError, match="--output"):
        run(root, short_side=128)
    (tmp_path / "small" / SETTINGS).write_bytes(b"{cut")
    with pytest.raises(DataError, match=SETTINGS):
        run(root)


@pytest.mark.parametrize("frames", [False, True])
def test_killed_run_continues(
    root: Path, tmp_path: Path, made: Made, monkeypatch: pytest.MonkeyPatch, frames: bool
) -> None:
    in_processes = module.in_processes

    def killed(make: Callable[[Any], None], jobs: Sequence[Any], *_: Any) -> Iterator[Outcome]:
        yield next(in_processes(make, jobs[:1]))
        target = Path(jobs[1].target)  # as a process leaves it that is killed while it writes
        partial = target.with_name(f".{target.name}.partial")
        if frames:
            partial.mkdir(parents=True)
        (partial / "000001.jpg" if frames else partial).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "in_processes", killed)
        with pytest.raises(KeyboardInterrupt):
            run(root, frames)
    output, suffix = tmp_path / ("frames" if frames else "small"), "" if frames else ".mp4"
    assert find_clips(output) == [f"UCF-101/wave/a{suffix}"]
    made()
    run(root, frames)
    assert made() == ["b.mp4", "broken.mp4"]
    assert num_frames(output / f"UCF-101/wave/b{suffix}") == 6
    assert not [path for path in output.rglob("*") if path.name.startswith(".")]


def test_clips_of_one_name_and_overlapping_folders_are_errors(root: Path, made: Made) -> None:
    with pytest.raises(DataError, match="--output"):
        convert(root, find_clips(root), root / "in")
    shutil.copyfile(root / "UCF-101/wave/b.mp4", root / "UCF-101/wave/a.mp4")
    with pytest.raises(DataError, match=r"UCF-101/wave/a\.avi and UCF-101/wave/a\.mp4"):
        run(root)
