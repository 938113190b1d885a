"""Which images in a folder are the frames of its clip, in which order, and with which pixels."""

import os

import numpy as np
import pytest
from PIL import Image

from tests.datasets.made_videos import ffmpeg_frames
from timesformer.datasets.decoding.open import VideoError, frame_files, open_video


def series(prefix: str, count: int, suffix: str = ".jpg", first: int = 1) -> list[str]:
    return [f"{prefix}{number:05d}{suffix}" for number in range(first, first + count)]


RGB = series("img_", 12)
SELECTED = {  # files in a folder, and the frames among them, in order
    "optical flow, as denseflow writes it": (RGB + series("flow_x_", 11, first=0) + series("flow_y_", 11), RGB),
    "depth": (["1_rgb.jpg", "1_depth.png", "2_rgb.jpg", "2_depth.png"], ["1_rgb.jpg", "2_rgb.jpg"]),
    "masks": (series("clip", 3) + series("clip_mask_", 3, ".png"), series("clip", 3)),
    "words for RGB": (RGB + series("warped_", 12), RGB),
    "a cover picture": (["cover.jpg", *RGB], RGB),
    "the same in two formats": (series("", 3) + series("", 3, ".png"), series("", 3)),
    "most of it in one format": (["1.jpg", *(f"{n}.png" for n in range(3))], ["0.png", "1.png", "2.png"]),
}
SORTED = {
    "two formats in turn": ["1.jpg", "2.png", "3.JPEG"],
    "checksums": ["0001_a8f3.png", "0002_bcd.png", "0010_0c.png"],
    "not padded": ["f2.png", "f10.png", "f100.png"],
    "decimals": [f"frame {second} sec.jpg" for second in (0.0, 0.25, 0.5, 0.75, 1.0, 1.125, 10.5)],
    "shots": ["shot1.9.jpg", "shot1.10.jpg", "shot1.11.jpg", "shot2.1.jpg"],
    "one clip of several series": ["I-frame_001.png", "P-frame_002.png", "B-frame_003.png", "P-frame_004.png"],
}
CASES = {**SELECTED, **{name: (files, files) for name, files in SORTED.items()}}


@pytest.mark.parametrize("case", CASES)
def test_frames_of_a_folder(tmp_path, case):
    files, frames = CASES[case]
    for name in reversed(files):
        Image.new("RGB", (8, 6), (frames.index(name) if name in frames else 255, 0, 0)).save(tmp_path / name)
    assert list(map(os.path.basename, frame_files(tmp_path))) == frames
    with open_video(tmp_path) as video:
        assert video.num_frames == len(frames)
        reds = video.read(range(len(frames)))[:, 0, 0, 0]
    assert np.abs(reds - np.arange(len(frames))).max() <= 2


@pytest.mark.parametrize("files", [series("left_", 3) + series("right_", 4), ["img_1.jpg", "img_01.jpg"]])
def test_ambiguous_series(tmp_path, files):
    for name in files:
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    with pytest.raises(VideoError, match=files[0]):
        open_video(tmp_path)


@pytest.mark.parametrize("mode", ["I;16", "L", "LA", "P", "1", "RGBA", "CMYK"])
def test_pixels_of_images_are_those_of_ffmpeg(tmp_path, mode):
    random, file = np.random.default_rng(0), tmp_path / ("0.jpg" if mode == "CMYK" else "0.png")
    if mode == "I;16":
        picture = Image.fromarray(random.integers(0, 2**16, (8, 12), dtype=np.uint16).repeat(4, 0).repeat(4, 1))
    else:
        picture = Image.fromarray(random.integers(0, 256, (8, 12, 4), dtype=np.uint8).repeat(4, 0).repeat(4, 1), "RGBA")
        picture = (picture.convert("RGB") if mode in ("P", "1", "CMYK") else picture).convert(mode)
    picture.save(file)
    with open_video(tmp_path) as video:
        frame = video.read([0])[0]
    (expected,) = ffmpeg_frames(file)
    assert frame.std() > 50
    assert np.abs(frame.astype(int) - expected).max() <= (2 if mode == "CMYK" else 1)


def test_images_of_32_bits_are_an_error(tmp_path):
    Image.new("F", (8, 6), 70000).save(tmp_path / "0.png", format="TIFF")
    with open_video(tmp_path) as video, pytest.raises(VideoError, match=r"0\.png"):
        video.read([0])
