"""The manifest: its rows, and the records of clips that have not changed since."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fvcore.common.config import CfgNode

from timesformer.datasets import clips as clips_module
from timesformer.datasets.clips import ClipDataset
from timesformer.datasets.decoding.open import VideoReader, open_video
from timesformer.datasets.manifest import (
    HEADER,
    NAME,
    Manifest,
    Row,
    clip_files,
    known_video,
    write_manifest,
)
from timesformer.datasets.records import DataError, Records, VideoRecord
from timesformer.preparation.check import check_clips
from timesformer.preparation.clips_on_disk import find_clips

ROWS = [
    Row("a/x.avi", "a", 75, 29.97003, 340, 256, 2.5, 1000),
    Row("a/with, comma.avi", "a", 3, 25.0, 32, 24, 0.12, 10),
    Row('a/"quoted" é.mp4', "a", 4, 25.0, 32, 24, 0.16, 11),
    Row("a/x", "a", 9, 0.0, 32, 24, 0.0, 12, 'a, "b" %03d.jpg#1-9', 1700000000123456789),
    Row("a/bad.avi", "a", bytes=13, problem="not a video, at all"),
    Row("a/odd \udcff.avi", "a", 5, 25.0, 32, 24, 0.2, 14),
]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A manifest of ROWS."""
    write_manifest(tmp_path / NAME, ROWS)
    return tmp_path / NAME


def test_rows_round_trip(manifest: Path) -> None:
    assert [Manifest(manifest).find(row.path) for row in ROWS] == ROWS
    assert Manifest(manifest).find("a/x.av") is None
    assert manifest.read_bytes().startswith(
        b"path,label,frames,fps,width,height,seconds,bytes,pattern,modified,problem\n"
    )
    lines = [row.format().encode("utf-8", "surrogateescape") for row in ROWS]  # as edited by hand
    manifest.write_bytes(b"\r\n".join([b"\xef\xbb\xbf" + HEADER.encode(), *reversed(lines), b"", b""]))
    assert [Manifest(manifest).find(row.path) for row in ROWS] == ROWS


@pytest.mark.parametrize("content", ["class,video_name\n", f"{HEADER}\na/x.avi,a,many,\n", ""])
def test_other_files_are_errors(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    with pytest.raises(DataError, match=r"manifest\.csv"):
        Manifest(tmp_path / NAME).find("a/x.avi")


def test_records_are_described(tmp_path: Path, manifest: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/bad.avi").write_bytes(b"x" * 13)
    (tmp_path / "a/x.avi").write_bytes(b"x" * 1000)
    paths = [f"{tmp_path}/a/../{path}" for path in ("a/bad.avi", "a/new.avi", "a/x.avi", "a/x/%03d.jpg#3-5")]
    records = Records(map(str, range(4)), [0] * 4, paths)
    Manifest(manifest).apply_to(records)
    assert records[0].problem == "not a video, at all"
    assert records[1] == VideoRecord(paths[1], 0, "1")
    assert records[2] == VideoRecord(paths[2], 0, "2", 75, 29.97003, "", 1000)
    assert records[3] == VideoRecord(paths[3], 0, "3")  # its path has the frame numbers
    assert known_video(records[2]) == (paths[2], 75, 29.97003)
    for name in ("bad", "x"):
        (tmp_path / f"a/{name}.avi").write_bytes(b"replaced")
    Manifest(manifest).apply_to(records := Records(map(str, range(4)), [0] * 4, paths))
    assert records.problems == {}
    assert known_video(records[2]) == (paths[2], 0, 0.0)


def test_bytes_of_a_folder_are_those_of_its_frames(tmp_path: Path, make_frames: Callable[..., Path]) -> None:
    folder = make_frames(tmp_path / "clip", 3)
    total = sum(path.stat().st_size for path in folder.iterdir())
    (folder / "notes.txt").write_text("no frame")
    assert clip_files(str(folder)).bytes == clip_files(f"{folder}/frame%d.png#0-2").bytes == total


@pytest.fixture
def videos(tmp_path: Path, cfg: CfgNode, make_video: Callable[..., Path], make_frames: Callable[..., Path]) -> Path:
    """Two classes of three clips, split by folder, with a manifest; one clip is broken, one a folder of frames."""
    root = tmp_path / "videos"
    frames = [np.full((24, 32, 3), 4 * number, np.uint8) for number in range(12)]
    for label in ("catch", "wave"):
        for number, split in enumerate(("train", "val", "test")):
            make_video(root / split / label / f"{label}{number}.mp4", frames, "libx264")
    (root / "train/wave/broken.mp4").write_bytes(b"nothing of a video")
    make_frames(root / "train/wave/frames", 6)
    check_clips(root, find_clips(root), 1)
    cfg.DATA.PATH_TO_DATA_DIR = str(root)
    return root


def test_training_uses_the_manifest(videos: Path, cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[str, tuple[int, float]] = {}

    def record(path: str, *, num_frames: int, fps: float, **options: Any) -> VideoReader:
        opened[Path(path).name] = num_frames, fps
        return open_video(path, num_frames=num_frames, fps=fps, **options)

    monkeypatch.setattr(clips_module, "open_video", record)
    dataset = ClipDataset(cfg, "train")
    (problem,) = (record.problem for record in dataset.records if record.problem)
    assert problem.startswith("not a video")
    items = [dataset[number] for number in range(len(dataset))]
    assert opened == {"catch0.mp4": (12, 25.0), "wave0.mp4": (12, 25.0), "frames": (0, 0.0)}
    assert sum(bool(item["errors"]) for item in items) == 1
    with_manifest = [item["clip"] for item in items]
    (videos / NAME).unlink()
    without = [item["clip"] for item in map(ClipDataset(cfg, "train").__getitem__, range(len(dataset)))]
    assert opened == {"catch0.mp4": (0, 0.0), "wave0.mp4": (0, 0.0), "frames": (0, 0.0), "broken.mp4": (0, 0.0)}
    assert all(one.equal(other) for one, other in zip(with_manifest, without, strict=True))
