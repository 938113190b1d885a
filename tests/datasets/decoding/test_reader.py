"""Reading frames: the correct one for every number, and an error that names each kind of broken clip."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.datasets.made_videos import assert_close, decode_everything, encode, ffmpeg_frames
from timesformer.datasets.decoding import images, jpeg, pyav
from timesformer.datasets.decoding.open import VideoError, open_video


def shown_number(frame: np.ndarray) -> int:
    """Number that a golden frame shows in binary: square b (16 wide, 24 high, five in a row) is white for a 1."""
    return sum((frame[b // 5 * 24 + 12, b % 5 * 16 + 8].mean() > 128) << b for b in range(10))


def noise(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 64, 96, 3), dtype=np.uint8))


@pytest.mark.slow
def test_golden_videos(golden_dir):
    for described in json.loads((golden_dir / "video_decode.json").read_text())["videos"]:
        with open_video(golden_dir / described["file"]) as video:
            assert video.num_frames == described["num_frames"]
            rate = [int(part) for part in described["fps"].split("/")]
            assert video.fps == pytest.approx(rate[0] / (rate[1] if len(rate) == 2 else 1))
            frames = video.read(range(video.num_frames))
            assert (frames.dtype, frames.shape[1:]) == (np.uint8, (48, 80, 3))
            assert [shown_number(frame) for frame in frames] == list(range(len(frames)))


def test_known_number_of_frames_and_rate(tmp_path, make_frames):
    path = encode(tmp_path / "x.avi", noise(9), "mpeg4")
    with open_video(path, num_frames=7, fps=12.5) as video:
        assert (video.num_frames, video.fps) == (7, 25.0)  # a manifest rounds rates
        for numbers in ([7], [-1], []):
            with pytest.raises(IndexError, match="0 to 6"):
                video.read(numbers)
    with open_video(make_frames(tmp_path / "x", 3), fps=12.5) as video:
        assert video.fps == 12.5
    with open_video(path, num_frames=12) as video:  # of another file
        assert len(video.read([0, 8])) == 2
        with pytest.raises(VideoError, match="frame 10"):
            video.read([0, 10])
        assert video.num_frames == 9


@pytest.mark.parametrize("cores", [1, 8])
def test_frame_folder(tmp_path, monkeypatch, cores):
    monkeypatch.setattr(images, "available_cores", lambda: cores)
    for number in (10, 9, 100, 1):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / f"img_{number}.png")
    (tmp_path / "._img_5.png").write_bytes(b"left by a file manager")
    (tmp_path / "notes.txt").write_text("no frame")
    with open_video(tmp_path) as video:
        assert video.num_frames == 4
        assert video.read([0, 1, 2, 3, 0])[:, 0, 0, 0].tolist() == [1, 9, 10, 100, 1]
    (tmp_path / "img_9.png").write_bytes(b"no image")
    Image.new("RGB", (6, 8)).save(tmp_path / "img_101.png")
    with open_video(tmp_path) as video:
        video.read([0, 2])
        for numbers, named in (([1], "img_9.png"), ([0, 4], "8x6")):
            with pytest.raises(VideoError, match=named):
                video.read(numbers)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("absent.mp4", lambda path: None),
        ("zero.mp4", lambda path: path.write_bytes(b"")),
        ("text.avi", lambda path: path.write_text("I am no video\n" * 99)),
        ("folder", lambda path: path.mkdir()),
        ("frame_%06d.jpg#7-3", lambda path: None),
    ],
)
def test_not_a_clip(tmp_path, name, write):
    write(tmp_path / name)
    with pytest.raises(VideoError, match=name):
        open_video(tmp_path / name)


@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", "libx264"), ("clip.avi", "mpeg4")])
def test_truncated_file(tmp_path, name, codec):
    content = encode(tmp_path / name, noise(20), codec).read_bytes()
    for share in (0.4, 0.98):
        (tmp_path / name).write_bytes(content[: int(len(content) * share)])
        with pytest.raises(VideoError, match=name):
            open_video(tmp_path / name)


def test_huge_frames_are_refused(tmp_path, monkeypatch):
    path = encode(tmp_path / "clip.mp4", noise(3), "libx264")
    monkeypatch.setattr(pyav, "MAX_PIXELS", 64 * 96 - 1)
    with pytest.raises(VideoError, match=r"clip\.mp4.*96x64"):
        open_video(path)
    Image.new("1", (8200, 8200)).save(tmp_path / "1.png")
    with open_video(tmp_path) as video, pytest.raises(VideoError, match=r"1\.png"):
        video.read([0])


def test_videos_are_scaled_down(tmp_path):
    gradient = np.linspace(0, 255, 96, dtype=np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    path = encode(tmp_path / "clip.mp4", [gradient] * 3, "libx264", crf="1")
    with open_video(path, short_side=32) as video, open_video(path, short_side=64) as whole:
        scaled = Image.fromarray(gradient).resize((48, 32), Image.Resampling.BILINEAR)
        assert np.abs(video.read([1])[0] - np.asarray(scaled, int)).max() < 12
        assert whole.read([1]).shape == (1, 64, 96, 3)


def test_jpeg_frames_are_scaled_down(tmp_path):
    Image.new("RGB", (320, 240), (7, 90, 160)).save(tmp_path / "0.jpg")
    for short_side, shape in ((0, (240, 320)), (121, (240, 320)), (120, (120, 160)), (32, (60, 80)), (30, (30, 40))):
        with open_video(tmp_path, short_side=short_side) as video:
            frames = video.read([0])
        assert frames.shape == (1, *shape, 3)
        assert np.abs(frames[0].astype(int) - (7, 90, 160)).max() <= 2


@pytest.mark.parametrize("short_side", [0, 40])
def test_pixels_of_jpeg_frames(tmp_path, monkeypatch, short_side):
    """Equal up to a level with simplejpeg and Pillow; FFmpeg interpolates colors in its own way."""
    assert jpeg.simplejpeg, "expected simplejpeg"
    ramp = np.linspace(0, 255, 161).astype(np.uint8)
    picture = np.dstack(np.broadcast_arrays(ramp[:121, None], ramp[None], ramp[::-1][None]))
    kinds = ({}, {"subsampling": "4:4:4"}, {"progressive": True}, {"keep_rgb": True}, {"mode": "L"})
    for number, kind in enumerate(kinds):
        Image.fromarray(picture).convert(kind.get("mode", "RGB")).save(tmp_path / f"{number}.jpg", quality=95, **kind)
    found = []
    for module, name in ((images.Image, "open"), (jpeg, "simplejpeg")):  # without Pillow, without simplejpeg
        with monkeypatch.context() as patch, open_video(tmp_path, short_side=short_side) as video:
            patch.setattr(module, name, None)
            found.append(video.read(range(len(kinds))).astype(int))
    assert np.abs(found[0] - found[1]).max() <= 1
    expected = ffmpeg_frames(tmp_path / "%d.jpg")
    if short_side:  # 81 x 61 pixels
        expected = [np.asarray(Image.fromarray(frame).reduce(2)) for frame in expected]
    assert_close(found[0], expected)


def test_damaged_jpeg_frame(tmp_path):
    for number, picture in enumerate(noise(2)):
        Image.fromarray(picture).save(tmp_path / f"{number}.jpg", quality=95)
    content = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(content[: len(content) // 2])
    with open_video(tmp_path) as video, pytest.raises(VideoError, match=r"1\.jpg"):
        video.read([0, 1])
    (tmp_path / "1.jpg").write_bytes(content[:4])
    with open_video(tmp_path) as video, pytest.raises(VideoError, match=r"1\.jpg"):
        video.read([1])


def test_numbered_frames(tmp_path, monkeypatch):
    folder = tmp_path / "100% #1-2"
    folder.mkdir()
    for number in range(9, 12):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(folder / f"v_{number:06d}.png")
    monkeypatch.setattr(images.os, "listdir", None)
    with open_video(f"{folder}/v_%06d.png#9-11", fps=12.0) as video:
        assert (video.num_frames, video.fps) == (3, 12.0)
        assert video.read([2, 0, 1])[:, 0, 0, 0].tolist() == [11, 9, 10]
    with open_video(f"{folder}/v_%06d.png#11-12") as video, pytest.raises(VideoError, match=r"v_000012\.png"):
        video.read([0, 1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["hosszu_actions/boxing/*.avi", "basketball_action/shooting/*.mp4", "smoke_clips/tests/data/test.avi"]
)
def test_real_clips(shared, name):
    path = min((shared / "videos").glob(name))
    expected = decode_everything(path)
    with open_video(path) as video:
        assert video.num_frames == len(expected)
        for numbers in ([video.num_frames - 1, 0], [1], [2], [3], range(20, 30), [77, 76]):
            numbers = [number % len(expected) for number in numbers]
            assert np.array_equal(video.read(numbers), [expected[number] for number in numbers])
