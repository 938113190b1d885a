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

from timesformer.config import get_cfg
from timesformer.datasets.clips import ClipMaker, SampledClip, clip_rng
from timesformer.datasets.decoding.open import open_video
from timesformer.datasets.records import VideoRecord


def moving_scene(count: int, width: int = 96, height: int = 64) -> list[np.ndarray]:
    """Noisy moving frames, uint8 [height, width, 3], all different and without symmetry."""
    random = np.random.default_rng(0)
    texture = random.integers(0, 256, (height // 8 + 5, width // 8 + count // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)
    frames = [texture[i // 2 : i // 2 + height, i : i + width] for i in range(count)]
    return [np.clip(frame + random.normal(0, 8, frame.shape), 0, 255).astype(np.uint8) for frame in frames]


def encode(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "mpeg4",
    times: Sequence[int] | None = None,
    format_options: dict[str, str] | None = None,
    container_format: str | None = None,
    rotation: int = 0,
    rate: Fraction | int = 25,
    **options: str,
) -> Path:
    """Write a video; times: when each frame is shown in milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if format_options is None and path.suffix == ".mp4":
        format_options = {"movflags": "faststart"}
    with av.open(str(path), "w", format=container_format, options=format_options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
        stream.height, stream.width = frames[0].shape[:2]
        if rotation:
            stream.set_display_rotation(rotation)
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


def remux(packets: Sequence[av.Packet], source: Path, target: Path, shift: int = 0) -> Path:
    """Write packets to a file with the stream parameters of `source`, `shift` ticks earlier."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in packets:
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = stream
            new.mux(packet)
    return target


def decode_everything(path: Path) -> list[np.ndarray]:
    """All frames, uint8 [height, width, 3], in the order in which PyAV decodes them."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def read_everything(path: Path) -> list[np.ndarray]:
    """All frames, after comparing every way to read them: in order, alone, and several in random order."""
    with open_video(path) as video:
        num_frames, size = video.num_frames, video.size
        frames = list(video.frames())
        assert video.num_frames == num_frames == len(frames)
        assert frames[0].shape == (size[1], size[0], 3)
        video.verify()
    with open_video(path) as video:
        order = np.random.default_rng(0).permutation(num_frames).tolist()
        for numbers in (*([number] for number in order), order[:4], order, [1, 3, 3, 0]):
            assert np.array_equal(video.read(numbers), [frames[number] for number in numbers]), numbers
    return frames


def ffmpeg(*arguments: object) -> None:
    """Run the program `ffmpeg`; skips the test without it."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("the program ffmpeg is not installed")
    subprocess.run(["ffmpeg", "-v", "quiet", *map(str, arguments)], check=True)


def ffmpeg_frames(path: Path) -> list[np.ndarray]:
    """Frames of a video, uint8 [height, width, 3], RGB, as the program `ffmpeg` shows them."""
    with tempfile.TemporaryDirectory() as folder:
        ffmpeg("-i", path, "-fps_mode", "passthrough", "-pix_fmt", "rgb24", f"{folder}/%04d.png")
        return [np.asarray(Image.open(file)) for file in sorted(Path(folder).iterdir())]


def assert_close(frames: Sequence[np.ndarray], expected: Sequence[np.ndarray], difference: float = 1.0) -> None:
    """Frames have the same number, size and pixels, up to a mean absolute difference for each frame."""
    assert np.shape(frames) == np.shape(expected)
    assert np.abs(np.asarray(frames, float) - expected).mean(axis=(1, 2, 3)).max() <= difference


def clip_of(path: Path, **data: object) -> SampledClip:
    """A test clip of 64 x 64 pixels with these options of DATA; by default a uniform sample."""
    cfg = get_cfg()
    cfg.TEST.NUM_ENSEMBLE_VIEWS = cfg.TEST.NUM_SPATIAL_CROPS = 1
    cfg.DATA.update({"TEST_CROP_SIZE": 64, "TRAIN_JITTER_SCALES": [64, 64], "SAMPLER": "uniform", **data})
    return ClipMaker(cfg, "test").make(VideoRecord(str(path), 0, str(path)), [0], [clip_rng(0, 0, 0, 0)])[0]
