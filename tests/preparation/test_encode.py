"""Re-encoding of one clip: every frame once and in order, as H.264 or JPEG frames."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from timesformer.datasets.decoding.open import VideoError, open_video
from timesformer.preparation import encode as module
from timesformer.preparation.encode import encode_frames, encode_video, even_size


def scene(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A frame that shows its number as the position of a bar."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[: height // 2] = 200, 60, 60
    frame[height // 2 :] = 60, 60, 200
    frame[:, 4 * number % width : 4 * number % width + 4] = 255
    return frame


def frames_of(path: Path) -> list[np.ndarray]:
    with open_video(path) as video:
        return [frame.astype(int) for frame in video.frames()]


def assert_same_frames(path: Path, expected: list[np.ndarray]) -> None:
    found = frames_of(path)
    assert len(found) == len(expected)
    for number, frame in enumerate(found):
        errors = [np.abs(frame - other.astype(int)).mean() for other in expected]
        assert int(np.argmin(errors)) == number
        assert min(errors) < 8


def test_video_has_every_frame_and_close_key_frames(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    source = make_video(tmp_path / "x.avi", [scene(number) for number in range(15)], "libx264", bf="2", g="250")
    encode_video(str(source), str(tmp_path / "out/x.mp4"), 256)
    assert_same_frames(tmp_path / "out/x.mp4", frames_of(source))
    with av.open(str(tmp_path / "out/x.mp4")) as container:
        stream = container.streams[0]
        assert (stream.codec_context.name, stream.pix_fmt, float(stream.average_rate)) == ("h264", "yuv420p", 25.0)
        keys = [number for number, packet in enumerate(container.demux(stream)) if packet.is_keyframe]
        assert {0, 12} <= set(keys)  # and at changes of scene
        container.seek(0)
        assert {av.video.frame.PictureType(f.pict_type).name for f in container.decode(stream)} == {"I", "P"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.mp4"]


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((640, 480), 256, (342, 256)),
        ((480, 640), 256, (256, 342)),
        ((45, 33), 256, (44, 32)),
        ((1920, 1080), 0, (1920, 1080)),
        ((1, 1), 256, (2, 2)),
    ],
)
def test_size_is_even_and_never_larger(size: tuple[int, int], short_side: int, expected: tuple[int, int]) -> None:
    assert even_size(*size, short_side) == expected


def test_size_and_quality(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    source = str(make_video(tmp_path / "x.mp4", [scene(number, 160, 120) for number in range(4)]))
    encode_video(source, str(tmp_path / "y.mp4"), 24)
    sizes = []
    for quality in (95, 30):
        encode_frames(source, str(tmp_path / "y"), 24, quality)  # replaces the folder
        sizes.append((tmp_path / "y/000001.jpg").stat().st_size)
    assert sizes[0] > sizes[1]
    assert frames_of(tmp_path / "y.mp4")[0].shape == frames_of(tmp_path / "y")[0].shape == (24, 32, 3)


def test_rotation_is_applied(tmp_path: Path, make_video: Callable[..., Path]) -> None:
    source = make_video(tmp_path / "x.mp4", [scene(number) for number in range(3)], "libx264", rotation=90)
    rotated = frames_of(source)
    assert rotated[0].shape == (64, 48, 3)
    encode_video(str(source), str(tmp_path / "y.mp4"), 0)
    encode_frames(str(source), str(tmp_path / "y"), 0, 95)
    encode_video(str(tmp_path / "y"), str(tmp_path / "back.mp4"), 0)
    for name in ("y.mp4", "y", "back.mp4"):
        assert_same_frames(tmp_path / name, rotated)


def test_unequal_times_keep_frames_and_sound_is_dropped(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "x.mp4"), "w") as container:
        video = container.add_stream("libx264", 25, options={"bf": "2"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream("aac", 16000)
        for number, time in enumerate((0, 10, 500, 510, 2000)):
            frame = av.VideoFrame.from_ndarray(scene(number), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(video.encode(frame))
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        noise.sample_rate = 16000
        container.mux([*sound.encode(noise), *sound.encode(), *video.encode()])
    encode_video(str(tmp_path / "x.mp4"), str(tmp_path / "y.mp4"), 256)
    assert_same_frames(tmp_path / "y.mp4", [scene(number) for number in range(5)])
    with av.open(str(tmp_path / "y.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [0, 1, 3, 2, 4, 5], [0, 1, 2, 3, 4, 5, 5]])
def test_copy_that_differs_is_refused(
    tmp_path: Path, make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, order: list[int]
) -> None:
    source = make_video(tmp_path / "x.avi", [scene(number) for number in range(6)])

    @contextmanager
    def open_copy(path: str | Path, **options: Any) -> Iterator[Any]:
        with open_video(path, **options) as video:
            frames = list(video.frames())
            order_of_copy = order if str(path).endswith(".partial") else range(6)
            yield SimpleNamespace(fps=video.fps, frames=lambda: iter([frames[number] for number in order_of_copy]))

    monkeypatch.setattr(module, "open_video", open_copy)
    with pytest.raises(VideoError, match=r"x\.avi"):
        encode_video(str(source), str(tmp_path / "y.mp4"), 256)
    assert [path.name for path in tmp_path.iterdir()] == ["x.avi"]
