"""Videos with labels, compared with their sources by the programs ffmpeg and ffprobe."""

import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets.made_videos import encode, ffmpeg, ffmpeg_frames, moving_scene
from timesformer.errors import UserError
from timesformer.localization.segments import Segment
from timesformer.localization.windows import WindowScores
from timesformer.visualization.labelled_video import Labels, write_overlay

pytestmark = pytest.mark.slow

NAMES = ("walk", "wave")
TIMES = [0, 40, 80, 200, 240, 520, 560, 600, 1000, 1040]  # milliseconds


def labels_of(seconds: float) -> Labels:
    """Two windows: "walk" with 90 %, then "wave" with 60 %; the second half is a segment."""
    rows = np.array([[0.9, 0.1], [0.4, 0.6]], np.float32)
    windows = [WindowScores(number * seconds / 2, (number + 1) * seconds / 2, row) for number, row in enumerate(rows)]
    return Labels(windows, [Segment(seconds / 2, seconds, "wave", 0.6)], NAMES)


def ffprobe(path: Path, entries: str, stream: str = "v:0") -> list[str]:
    options = ["-v", "error", "-select_streams", stream, "-show_entries", entries, "-of", "csv=p=0", str(path)]
    out = subprocess.run(["ffprobe", *options], check=True, capture_output=True, text=True).stdout
    return out.replace(",", " ").split()


def bar_lengths(frames: list[np.ndarray]) -> list[int]:
    """Pixels of the first bar, which is blue, in gray frames."""
    return [int((frame[..., 2] > frame[..., 0].astype(int) + 90).any(axis=0).sum()) for frame in frames]


def test_frames_times_and_sound_are_those_of_the_source(tmp_path: Path) -> None:
    gray = [frame.mean(axis=2, keepdims=True).repeat(3, 2).astype(np.uint8) for frame in moving_scene(10, 160, 120)]
    silent = encode(tmp_path / "silent.mp4", gray, "libx264", TIMES)
    source, output = tmp_path / "source.mp4", tmp_path / "labelled.mp4"
    sound = ["-f", "lavfi", "-i", "sine=duration=2", "-c:v", "copy", "-c:a", "aac", "-map", "0:v", "-map", "1:a"]
    ffmpeg("-itsoffset", "0.5", "-i", silent, *sound, source)  # pictures begin after the sound
    assert write_overlay(source, labels_of(1.6), output, quiet=True) == []
    times = np.array(ffprobe(output, "frame=pts_time"), float)
    assert times == pytest.approx(np.array(ffprobe(source, "frame=pts_time"), float), abs=1e-6)
    assert times == pytest.approx(np.array(TIMES) / 1000 + 0.5, abs=1e-3)
    assert ffprobe(output, "stream=codec_name,width,height,pix_fmt") == ["h264", "160", "120", "yuv420p"]
    copied = [ffprobe(path, "packet=pts_time,data_hash", "a:0") for path in (source, output)]
    assert copied[0] == copied[1]
    found, expected = ffmpeg_frames(output), ffmpeg_frames(source)
    assert len(found) == len(expected) == 10
    for frame, other in zip(found, expected, strict=True):  # between label and bars
        assert np.abs(frame[24:72].astype(int) - other[24:72]).mean() < 4
    full = 152  # pixels of a bar of 100 %
    assert bar_lengths(found) == pytest.approx([0.9 * full if time < 0.8 else 0.6 * full for time in times], abs=3)
    assert [bool((frame[4:20, 4:40] > 235).any()) for frame in found] == [bool(time >= 0.8) for time in times]


def test_rotated_video_of_odd_size_is_upright(tmp_path: Path) -> None:
    encode(tmp_path / "plain.mp4", moving_scene(6, 120, 160), "libx264", rotation=90)
    odd = ["-vf", "crop=119:159:0:0:exact=1", "-pix_fmt", "yuv444p", "-metadata:s:v", "rotate=90"]
    ffmpeg("-noautorotate", "-i", tmp_path / "plain.mp4", *odd, "-c:v", "libx264", "-crf", "1", tmp_path / "odd.mp4")
    (expected, *others) = ffmpeg_frames(tmp_path / "odd.mp4")
    write_overlay(tmp_path / "odd.mp4", labels_of(1), tmp_path / "labelled.mp4", quiet=True)
    found = ffmpeg_frames(tmp_path / "labelled.mp4")
    assert len(found) == len(others) + 1
    height, width, _ = expected.shape
    assert height % 2 == width % 2 == 1
    assert found[0].shape == (height + 1, width + 1, 3)
    difference = np.abs(found[0][:-1, :-1].astype(int) - expected)[40:60]
    assert difference.mean() < 12  # half the resolution of the colors


def test_sound_of_other_codecs_is_left_out_and_frames_need_a_rate(tmp_path: Path) -> None:
    encode(tmp_path / "silent.mp4", moving_scene(5), "libx264")
    sound = ["-f", "lavfi", "-i", "sine=duration=1", "-c:v", "copy", "-c:a", "pcm_s16le", tmp_path / "pcm.avi"]
    ffmpeg("-i", tmp_path / "silent.mp4", *sound)
    (note,) = write_overlay(tmp_path / "pcm.avi", labels_of(1), tmp_path / "out.mp4", quiet=True)
    assert "pcm_s16le" in note
    assert ffprobe(tmp_path / "out.mp4", "stream=codec_name", "a") == []
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(moving_scene(5)):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number}.png")
    with pytest.raises(UserError, match="frames"):
        write_overlay(tmp_path / "frames", labels_of(1), tmp_path / "out.mp4", quiet=True)
    write_overlay(tmp_path / "frames", labels_of(1), tmp_path / "out.mp4", fps=30000 / 1001, quiet=True)
    times = np.array(ffprobe(tmp_path / "out.mp4", "frame=pts_time"), float)
    assert times == pytest.approx([float(number * Fraction(1001, 30000)) for number in range(5)], abs=1e-5)


def test_source_is_never_replaced(tmp_path: Path) -> None:
    source = encode(tmp_path / "a.mp4", moving_scene(3), "libx264")
    content = source.read_bytes()
    for output in (source, tmp_path / "a.avi"):
        with pytest.raises(UserError, match=output.name):
            write_overlay(source, labels_of(1), output, quiet=True)
    (tmp_path / "cut.mp4").write_bytes(content[:-300])
    with pytest.raises(UserError, match=r"cut\.mp4"):
        write_overlay(tmp_path / "cut.mp4", labels_of(1), tmp_path / "out.mp4", quiet=True)
    assert source.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "cut.mp4"]
