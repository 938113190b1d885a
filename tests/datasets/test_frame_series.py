"""Which images in a folder are the frames of its clip, in which order, and with which pixels."""

import numpy as np
import pytest
from PIL import Image

from tests.datasets.made_videos import ffmpeg_frames, moving_scene
from timesformer.config import get_cfg
from timesformer.datasets.clips import ClipMaker
from timesformer.datasets.decoding.open import VideoError, frame_files, open_video
from timesformer.inference.clip_batches import make_views
from timesformer.preparation.command_line import main


def series(prefix: str, count: int, suffix: str = ".jpg", first: int = 1) -> list[str]:
    return [f"{prefix}{number:05d}{suffix}" for number in range(first, first + count)]


RGB = series("img_", 12)
ONE_SERIES = {  # files in a folder, and the frames among them, in order
    "optical flow, as denseflow writes it": (RGB + series("flow_x_", 11, first=0) + series("flow_y_", 11), RGB),
    "optical flow of other tools": (series("", 3) + series("x_", 3) + series("y_", 3), series("", 3)),
    "depth": (["1_rgb.jpg", "1_depth.png", "2_rgb.jpg", "2_depth.png"], ["1_rgb.jpg", "2_rgb.jpg"]),
    "masks": (series("clip", 3) + series("clip_mask_", 3, ".png"), series("clip", 3)),
    "masks alone": (series("mask_", 3, ".png"), series("mask_", 3, ".png")),
    "words for RGB": (RGB + series("warped_", 12), RGB),
    "a cover picture": (["cover.jpg", *RGB], RGB),
    "the same in two formats": (series("", 3) + series("", 3, ".png"), series("", 3)),
    "most of it in one format": (["1.jpg", *(f"{n}.png" for n in range(3))], ["0.png", "1.png", "2.png"]),
    "in two formats by turns": (["1.jpg", "2.png", "3.JPEG"], ["1.jpg", "2.png", "3.JPEG"]),
    "the first without number": (["frame.png", "frame (2).png", "frame (10).png"],) * 2,
    "no numbers": (["a.png", "b.png"],) * 2,
    "checksums": (["0001_a8f3.png", "0002_bcd.png", "0010_0c.png"],) * 2,
    "not padded": (["f2.png", "f10.png", "f100.png"],) * 2,
    "decimals": ([f"frame {second} sec.jpg" for second in (0.0, 0.25, 0.5, 0.75, 1.0, 1.125, 10.5)],) * 2,
    "decimals and whole numbers": (["0_s.jpg", "0.05_s.jpg", "0.25_s.jpg", "0.5_s.jpg", "1_s.jpg"],) * 2,
    "versions": (["v1.2_0003.jpg", "v1.2_0010.jpg", "v1.10_0001.jpg"],) * 2,
    "shots": (["shot1.9.jpg", "shot1.10.jpg", "shot1.11.jpg", "shot2.1.jpg"],) * 2,
    "dates": (["2019.12.31_11.jpg", "2020.01.02_3.jpg", "2020.01.02_10.jpg", "2020.01.10_1.jpg"],) * 2,
}


@pytest.mark.parametrize("case", ONE_SERIES)
def test_one_series_of_a_folder_is_its_clip(tmp_path, case):
    files, frames = ONE_SERIES[case]
    for name in reversed(files):
        Image.new("RGB", (8, 6), (frames.index(name) if name in frames else 255, 0, 0)).save(tmp_path / name)
    assert [file.name for file in frame_files(tmp_path)] == frames
    with open_video(tmp_path) as video:
        assert video.num_frames == len(frames)
        reds = video.read(range(len(frames)))[:, 0, 0, 0]
    assert np.abs(reds - np.arange(len(frames))).max() <= 2


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (series("left_", 3) + series("right_", 4), ["left_00001.jpg", "right_00001.jpg"]),
        (series("flow_x_", 3) + series("flow_y_", 3), ["flow_x_00001.jpg", "flow_y_00001.jpg"]),
        (series("rgb_left_", 3) + series("rgb_right_", 3), ["rgb_left_00001.jpg", "rgb_right_00001.jpg"]),
        (["img_1.jpg", "img_01.jpg"], ["img_1.jpg", "img_01.jpg"]),
    ],
)
def test_several_series_are_an_error_that_names_them(tmp_path, files, named):
    for name in files:
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    with pytest.raises(VideoError) as caught:
        open_video(tmp_path)
    assert all(part in str(caught.value) for part in (str(tmp_path), *named))


def test_from_the_command_to_a_clip_optical_flow_plays_no_part(tmp_path, capsys):
    folder = tmp_path / "data/up/clip"
    folder.mkdir(parents=True)
    pictures = moving_scene(10)
    for number, picture in enumerate(pictures, 1):
        Image.fromarray(picture).save(folder / f"img_{number:05d}.png")
        for axis in "xy":
            Image.fromarray(np.full(picture.shape[:2], 128, np.uint8)).save(folder / f"flow_{axis}_{number:05d}.jpg")
    assert main(["folder", str(tmp_path / "data"), "--check", "--workers", "1"]) == 0
    assert "1 clips, 10 frames" in capsys.readouterr().out
    cfg = get_cfg()
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.DATA.TEST_CROP_SIZE, cfg.DATA.SAMPLER = 5, 2, 64, "uniform"
    cfg.DATA.TRAIN_JITTER_SCALES = [64, 64]
    cfg.TEST.NUM_ENSEMBLE_VIEWS = cfg.TEST.NUM_SPATIAL_CROPS = 1
    (clip,) = make_views(ClipMaker(cfg, "test"), str(folder), [0], 0)
    assert np.array_equal(clip.frames, [picture[:, 16:80] for picture in pictures[::2]])
    assert np.isnan(clip.times).all()


def test_a_folder_of_frames_that_differ_in_size_is_refused_by_the_check_too(tmp_path, capsys):
    folder = tmp_path / "data/up/clip"
    folder.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (32, 24 + 8 * (number == 2))).save(folder / f"{number}.png")
    assert main(["folder", str(tmp_path / "data"), "--check", "--workers", "1"]) == 1
    assert "up/clip" in capsys.readouterr().out


def picture_of_mode(mode: str) -> Image.Image:
    random = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 2**16, (8, 12), dtype=np.uint16).repeat(4, 0).repeat(4, 1))
    pixels = random.integers(0, 256, (8, 12, 4), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    image = Image.fromarray(pixels, "RGBA")
    return image.convert("RGB").convert(mode) if mode in ("P", "1", "CMYK") else image.convert(mode)


@pytest.mark.parametrize("mode", ["I;16", "L", "LA", "P", "1", "RGB", "RGBA", "CMYK"])
def test_pixels_of_images_are_those_of_ffmpeg(tmp_path, mode):
    file = tmp_path / ("0.jpg" if mode == "CMYK" else "0.png")
    picture_of_mode(mode).save(file)
    with open_video(tmp_path) as video:
        frame = video.read([0])[0]
    (expected,) = ffmpeg_frames(file)
    assert frame.std() > 50
    assert np.abs(frame.astype(int) - expected).max() <= (2 if mode == "CMYK" else 1)


def test_16_bit_grey_is_scaled_to_8_bits(tmp_path):
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16).repeat(4, 0)
    Image.fromarray(values).save(tmp_path / "0.png")
    with open_video(tmp_path) as video:
        assert video.read([0])[0, 0].tolist() == [[0] * 3, [0] * 3, [1] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_images_of_32_bits_are_an_error_that_names_them(tmp_path, mode):
    Image.new(mode, (8, 6), 70000).save(tmp_path / "0.png", format="TIFF")
    with open_video(tmp_path) as video, pytest.raises(VideoError) as caught:
        video.read([0])
    assert "0.png" in str(caught.value)


def test_series_that_make_one_clip_are_ordered_by_number(tmp_path):
    for number, kind in enumerate("IPBP", 1):
        Image.new("RGB", (32, 24), (60 * number, 0, 0)).save(tmp_path / f"{kind}-frame_{number:03d}.png")
    with open_video(tmp_path) as video:
        assert [int(frame[0, 0, 0]) for frame in video.frames()] == [60, 120, 180, 240]
