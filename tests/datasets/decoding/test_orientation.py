"""Rotated and mirrored pictures: display matrices of videos, EXIF orientation of images."""

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.datasets.made_videos import assert_close, clip_of, encode, ffmpeg_frames, moving_scene, read_everything
from timesformer.commands.prepare import main
from timesformer.datasets.decoding.open import open_video

# a, b, c, d of the display matrix, and what a player does to the stored picture
MATRICES: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "upright": ((1, 0, 0, 1), lambda image: image),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "half a turn": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "upside down": ((1, 0, 0, -1), np.flipud),
    "transposed": ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    "clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "transversed": ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
    "counter-clockwise": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
}


def set_matrix(path: Path, name: str) -> None:
    """Write a display matrix into the header of the track (ISO/IEC 14496-12, 8.3.2)."""
    (a, b, c, d), _ = MATRICES[name]
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    numbers = [number << 16 for number in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30]
    content[start : start + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)
    path.write_bytes(content)


@pytest.mark.parametrize("name", MATRICES)
def test_display_matrix(tmp_path, name):
    path = encode(tmp_path / "clip.mp4", moving_scene(12), "libx264", g="5", bf="2")
    with open_video(path) as video:
        expected = [MATRICES[name][1](frame) for frame in video.frames()]
    set_matrix(path, name)
    with open_video(path) as video:
        assert video.size == expected[0].shape[1::-1]
        assert np.array_equal(video.read([7]), expected[7:8])
        frames = list(video.frames())
        assert np.array_equal(frames, expected)
    assert_close(frames, ffmpeg_frames(path))
    with open_video(path, short_side=32) as video:
        assert video.size == video.read([3]).shape[2:0:-1]
        assert min(video.size) == 32


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mirrored", "transposed"])
def test_clips_and_converted_clips_are_as_shown(tmp_path, name):
    path = encode(tmp_path / "data/wave/clip.mp4", moving_scene(12), "libx264", crf="1")
    set_matrix(path, name)
    shown = ffmpeg_frames(path)
    for number, frame in enumerate(shown):
        (tmp_path / "shown").mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / f"shown/{number}.png")
    clips = [clip_of(source, NUM_FRAMES=4, SAMPLING_RATE=3) for source in (path, tmp_path / "shown")]
    assert_close(*(list(clip.frames) for clip in clips))
    for options in (["--short-side", "64"], ["--frames", "--quality", "95"]):
        assert main(["folder", str(tmp_path / "data"), *options, "--workers", "1"]) == 0
    for copy in ("data_64/wave/clip.mp4", "data_frames/wave/clip"):
        assert_close(read_everything(tmp_path / copy), shown, difference=12)


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x112] = orientation
    return data


@pytest.mark.parametrize(("suffix", "short_side"), [("png", 0), ("jpg", 16)])  # 16: decoded at half its size
@pytest.mark.parametrize("orientation", range(1, 10))  # 9 is not defined
def test_exif_orientation(tmp_path, orientation, suffix, short_side):
    for number, picture in enumerate(moving_scene(2, 48, 32)):
        Image.fromarray(picture).save(tmp_path / f"{number}.{suffix}", exif=exif(orientation))
    expected = []
    for file in sorted(tmp_path.iterdir()):
        with Image.open(file) as image:
            if short_side:
                image.draft(None, (24, 16))
            expected.append(np.asarray(ImageOps.exif_transpose(image)))
    with open_video(tmp_path, short_side=short_side) as video:
        assert np.array_equal(video.read([0, 1]), expected)
        assert video.size == expected[0].shape[1::-1]


def test_exif_orientation_of_motion_jpeg(tmp_path):
    """PyAV has no name for the side data with which FFmpeg passes EXIF data on."""
    path, (picture,), jpeg = tmp_path / "clip.avi", moving_scene(1), io.BytesIO()
    Image.fromarray(picture).save(jpeg, "JPEG", quality=95, exif=exif(6))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], "yuvj420p"
        for number in range(4):
            packet = av.Packet(jpeg.getvalue())
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 10), stream, True
            container.mux(packet)
    # FFmpeg applies EXIF data from version 8 on.
    expected = np.rot90(picture, -1) if av.library_versions["libavcodec"][0] >= 62 else picture
    assert_close(read_everything(path), [expected] * 4, difference=12)
