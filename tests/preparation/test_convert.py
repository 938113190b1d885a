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
from timesformer.preparation.convert import SETTINGS, SIZES, convert

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


def run(root: Path, frames: bool = False, short_side: int = 256, quality: int = 90) -> dict[str, str]:
    output = root.with_name("frames" if frames else "small")
    return convert(root, find_clips(root), output, short_side, quality * frames, workers=2)


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


@pytest.mark.parametrize("frames", [False, True])
def test_only_failed_clips_are_made_again(root: Path, tmp_path: Path, made: Made, frames: bool) -> None:
    run(root, frames)
    assert made() == ["a.avi", "b.mp4", "broken.mp4"]
    shutil.copyfile(root / "UCF-101/wave/b.mp4", root / "UCF-101/wave/broken.mp4")
    assert run(root, frames) == {}
    assert made() == ["broken.mp4"]
    output, suffix = (tmp_path / "frames", "") if frames else (tmp_path / "small", ".mp4")
    assert names_in(output / "UCF-101/wave") == [f"{name}{suffix}" for name in ("a", "b", "broken")]
    assert json.loads((output / SETTINGS).read_text())["copied_as_it_was"] == {}
    made()
    (output / SIZES).unlink()  # as in folders of versions that did not write it
    run(root, frames)
    run(root, frames)
    assert made() == []


def test_changed_clips_are_made_again(root: Path, tmp_path: Path, make_video: Callable[..., Path], made: Made) -> None:
    run(root)
    made()
    make_video(root / "UCF-101/wave/a.avi", [np.zeros((48, 64, 3), np.uint8)] * 9)
    (root / "UCF-101/wave/b.mp4").write_bytes(b"broken now")
    assert sorted(run(root)) == ["UCF-101/wave/b.mp4", "UCF-101/wave/broken.mp4"]
    assert made() == ["a.avi", "b.mp4", "broken.mp4"]
    assert num_frames(tmp_path / "small/UCF-101/wave/a.mp4") == 9
    (root / "UCF-101/wave/a.avi").write_bytes(b"broken too")
    run(root)
    assert names_in(tmp_path / "small/UCF-101/wave") == ["a.avi", "b.mp4", "broken.mp4"]


@pytest.mark.parametrize("content", [b"{cut", b"\xff", b"[]", b"{}", b'{"copied_as_it_was": 3}'])
def test_damaged_settings_are_named(root: Path, tmp_path: Path, made: Made, content: bytes) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / SETTINGS).write_bytes(content)
    with pytest.raises(DataError, match=SETTINGS):
        run(root)


def test_other_settings_need_another_folder(root: Path, made: Made) -> None:
    run(root)
    with pytest.raises(DataError, match=r"256.*128.*--output"):
        run(root, short_side=128)
    run(root, quality=80)  # which videos do not have
    run(root, frames=True)
    with pytest.raises(DataError, match=r"90.*80.*--output"):
        run(root, frames=True, quality=80)


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


@pytest.mark.parametrize("output", [".", "in", ".."])
def test_output_must_not_overlap(root: Path, output: str) -> None:
    with pytest.raises(DataError, match="--output"):
        convert(root, find_clips(root), root / output)


def test_two_clips_with_one_name_are_errors(root: Path, made: Made) -> None:
    shutil.copyfile(root / "UCF-101/wave/b.mp4", root / "UCF-101/wave/a.mp4")
    with pytest.raises(DataError, match=r"UCF-101/wave/a\.avi and UCF-101/wave/a\.mp4"):
        run(root)
