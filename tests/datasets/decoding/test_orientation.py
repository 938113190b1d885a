"""Rotated and mirrored pictures: display matrices of videos, EXIF orientation of images."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.datasets.made_videos import assert_close, encode, ffmpeg_frames, moving_scene
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


@pytest.mark.parametrize("name", MATRICES)
def test_display_matrix(tmp_path, name):
    (a, b, c, d), shown = MATRICES[name]
    path = encode(tmp_path / "clip.mp4", moving_scene(12), "libx264", g="5", bf="2")
    with open_video(path) as video:
        expected = [shown(frame) for frame in video.frames()]
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44  # of the matrix (ISO/IEC 14496-12, 8.3.2)
    numbers = [number << 16 for number in (a, b, 0, c, d, 0, 0, 0)] + [1 << 30]
    content[start : start + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)
    path.write_bytes(content)
    with open_video(path) as video:
        assert video.size == expected[0].shape[1::-1]
        assert np.array_equal(video.read([7]), expected[7:8])
        frames = list(video.frames())
        assert np.array_equal(frames, expected)
    assert_close(frames, ffmpeg_frames(path))
    with open_video(path, short_side=32) as video:
        assert video.size == video.read([3]).shape[2:0:-1]
        assert min(video.size) == 32


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
