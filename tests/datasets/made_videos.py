"""Videos made for tests, and their frames as the program `ffmpeg` decodes them."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image


def moving_scene(count: int, width: int = 96, height: int = 64) -> list[np.ndarray]:
    """Noisy frames, uint8 (height, width, 3), every one unlike any other, in which things move; no symmetry."""
    random = np.random.default_rng(0)
    texture = random.integers(0, 256, (height // 8 + 5, width // 8 + count // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)
    frames = [texture[i // 2 : i // 2 + height, i : i + width] for i in range(count)]
    return [np.clip(frame + random.normal(0, 8, frame.shape), 0, 255).astype(np.uint8) for frame in frames]


def encode(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str,
    times: Sequence[int] | None = None,
    format_options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    **options: str,
) -> Path:
    """Write a video; times: when each frame is shown, in milliseconds, else every 40; aspect: of a pixel."""
    with av.open(str(path), "w", options=format_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.height, stream.width = frames[0].shape[:2]
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                stream.codec_context.time_base = frame.time_base = Fraction(1, 1000)
                frame.pts = times[number]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def packets_of(path: Path) -> list[av.Packet]:
    """Packets of the only video stream of a file."""
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def ffmpeg_frames(path: Path) -> list[np.ndarray]:
    """Frames of a video, uint8 (H, W, 3) RGB, as the program `ffmpeg` shows them; skips the test without it."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("the program ffmpeg is not installed")
    with tempfile.TemporaryDirectory() as folder:
        command = ["ffmpeg", "-v", "quiet", "-i", str(path), "-fps_mode", "passthrough", "-pix_fmt", "rgb24"]
        subprocess.run([*command, f"{folder}/%04d.png"], check=True)
        return [np.asarray(Image.open(file)) for file in sorted(Path(folder).iterdir())]


def assert_close(frames: Sequence[np.ndarray], expected: Sequence[np.ndarray], difference: float = 1.0) -> None:
    """Frames are as many, as large and the same up to a mean absolute difference, each, in grey levels of 255."""
    assert len(frames) == len(expected)
    for frame, other in zip(frames, expected, strict=True):
        assert frame.shape == other.shape
        assert np.abs(frame.astype(float) - other).mean() <= difference
