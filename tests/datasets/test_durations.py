"""The median length of clips, without decoding them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets.made_videos import encode, moving_scene
from timesformer.datasets.durations import median_seconds
from timesformer.datasets.records import VideoRecord


def test_lengths_are_those_of_the_manifest_headers_and_folders(tmp_path: Path) -> None:
    frames = moving_scene(50, 48, 32)
    short = encode(tmp_path / "short.mp4", frames[:10], rate=10)
    long = encode(tmp_path / "long.mp4", frames, rate=10)
    (tmp_path / "frames").mkdir()
    for number in range(3):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"frames/{number}.jpg")
    (tmp_path / "text.mp4").write_text("no video")
    paths = [short, long, tmp_path / "frames", tmp_path / "text.mp4", tmp_path / "missing.mp4"]
    records = [VideoRecord(str(path), 0, path.name) for path in paths]
    assert [median_seconds([record], 2.0) for record in records] == pytest.approx([1.0, 5.0, 1.5, 0.0, 0.0])
    assert median_seconds(records, 2.0) == pytest.approx(1.5)
    known = VideoRecord(str(long), 0, "known", 30, 10.0, bytes=long.stat().st_size)
    assert median_seconds([known], 2.0) == 3.0
    assert median_seconds([], 2.0) == 0.0
