"""Video files that players cope with: lost packets, cuts, several streams, changing sizes, uneven times."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from tests.datasets.made_videos import (
    assert_close,
    clip_of,
    decode_everything,
    encode,
    ffmpeg,
    ffmpeg_frames,
    moving_scene,
    packets_of,
    read_everything,
    remux,
)
from timesformer.commands.prepare import main
from timesformer.datasets.decoding.open import VideoError, open_video
from timesformer.datasets.manifest import Manifest

pytestmark = pytest.mark.slow
OPEN_GOPS = {
    "libx264": {"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:scenecut=0"},
    "libx265": {"x265-params": "log-level=none:keyint=12:min-keyint=12:scenecut=0:open-gop=1"},
}


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
@pytest.mark.parametrize("codec", OPEN_GOPS)
def test_cuts_through_open_gops(tmp_path, codec, suffix):
    """A cut at the second key frame leaves frames after it that refer to others before it."""
    path = tmp_path / f"cut{suffix}"
    source = encode(tmp_path / f"source{suffix}", moving_scene(45), codec, **OPEN_GOPS[codec])
    packets = packets_of(source)
    start = [number for number, packet in enumerate(packets) if packet.is_keyframe][1]
    remux(packets[start:], source, path, packets[start].pts)
    expected = decode_everything(path)
    assert np.array_equal(read_everything(path), expected)
    if codec == "libx265":
        assert_close(expected, ffmpeg_frames(path))


def test_check_conversion_and_clips_agree_on_the_frames_of_a_cut(tmp_path):
    whole = encode(tmp_path / "whole.mp4", moving_scene(60), "libx265", **OPEN_GOPS["libx265"])
    path = tmp_path / "data/up/cut.mkv"
    path.parent.mkdir(parents=True)
    ffmpeg("-ss", "0.7", "-i", whole, "-c", "copy", path)
    expected = ffmpeg_frames(path)
    assert len(expected) < len(packets_of(path))
    for options in ([], ["--short-side", "64"], ["--frames"]):
        assert main(["folder", str(tmp_path / "data"), *options, "--check", "--workers", "1"]) == 0
    for folder in ("data", "data_64", "data_frames"):
        (row,) = Manifest(tmp_path / folder / "manifest.csv")
        assert (row.frames, row.problem) == (len(expected), "")
    clip = clip_of(path, NUM_FRAMES=len(expected), SAMPLING_RATE=1)
    assert clip.numbers == tuple(range(len(expected)))
    assert_close(list(clip.frames), [frame[:, 16:80] for frame in expected])


@pytest.mark.parametrize("sizes", [(48, 96), (96, 48)])
def test_frames_of_another_size_are_scaled_to_the_first(tmp_path, sizes):
    scene, packets, parts = moving_scene(20, 96, 96), [], []
    for number, size in enumerate(sizes):
        pictures = [np.asarray(Image.fromarray(p).resize((size, size))) for p in scene[10 * number : 10 * number + 10]]
        parts.append(encode(tmp_path / f"part{number}.ivf", pictures, "libvpx", g="5", b="2M"))
        packets += packets_of(parts[-1])
    for number, packet in enumerate(packets):
        packet.pts, packet.dts, packet.time_base = number, number, Fraction(1, 25)
    path = remux(packets, parts[0], tmp_path / "clip.webm")
    frames = read_everything(path)
    assert {frame.shape for frame in frames} == {(sizes[0], sizes[0], 3)}
    assert_close(frames, ffmpeg_frames(path), difference=2)


def test_times_follow_from_the_frame_rate(tmp_path, make_frames):
    with open_video(encode(tmp_path / "clip.h264", moving_scene(6), "libx264", bf="2")) as video:
        assert video.times([5, 0]) == pytest.approx([5 / video.fps, 0])
    folder = make_frames(tmp_path / "clip", 3)
    with open_video(folder) as video, open_video(folder, fps=10.0) as known:
        assert np.isnan(video.times([0, 2])).all()
        assert known.times([2]) == (0.2,)


def test_sample_aspect_ratio_is_ignored(tmp_path):
    plain = encode(tmp_path / "plain.mp4", moving_scene(5), "libx264")
    path = encode(tmp_path / "wide.mp4", moving_scene(5), "libx264", **{"x264-params": "sar=2/1"})
    assert np.array_equal(read_everything(path), read_everything(plain))
    assert_close(read_everything(path), ffmpeg_frames(path))


@pytest.mark.parametrize("change", ["joined", "without start", "without end"])
def test_transport_streams(tmp_path, change):
    options = {"x264-params": "keyint=5:min-keyint=5:scenecut=0:bframes=2"}
    path = encode(tmp_path / "clip.ts", moving_scene(20), "libx264", **options)
    content, whole = path.read_bytes(), read_everything(path)
    third = len(content) // 188 // 3 * 188  # packets of MPEG-TS have 188 bytes
    changed = {
        "joined": content * 2,
        "without start": content[: 3 * 188] + content[third:],
        "without end": content[: -third - 100],
    }
    path.write_bytes(changed[change])
    frames = read_everything(path)
    assert len(frames) >= 10
    if change == "joined":
        assert np.array_equal(frames, whole * 2)
    else:
        assert_close(frames, ffmpeg_frames(path), difference=2)


@pytest.mark.parametrize("default", [0, 1])
def test_default_stream_is_read(tmp_path, default):
    path, sizes = tmp_path / "two.mkv", [(64, 48), (96, 64)]
    first, second = (encode(tmp_path / f"{size[0]}.mp4", moving_scene(9, *size), "libx264") for size in sizes)
    flags = ["-disposition:v", "0", f"-disposition:v:{default}", "default"]
    ffmpeg("-i", first, "-i", second, "-map", "0", "-map", "1", "-c", "copy", *flags, path)
    with open_video(path) as video:
        assert video.size == sizes[default]
    assert_close(read_everything(path), ffmpeg_frames(path))


def test_cover_picture_is_not_the_video(tmp_path):
    path, cover = tmp_path / "clip.mp4", tmp_path / "cover.jpg"
    Image.new("RGB", (320, 240), "red").save(cover)
    source = encode(tmp_path / "source.mp4", moving_scene(1), "libx264")  # with one frame each, neither is preferred
    streams = ["-map", "1", "-map", "0", "-c", "copy", "-disposition:v:0", "attached_pic", "-disposition:v:1", "0"]
    ffmpeg("-i", source, "-i", cover, *streams, path)
    with open_video(path) as video:
        assert video.size == (96, 64)


def test_times_of_frames(tmp_path):
    times = [1000 * min(number, 9) + 40 * max(number - 9, 0) for number in range(40)]
    path = encode(tmp_path / "clip.mkv", moving_scene(40), "libx264", times, bf="2", g="12")
    with open_video(path) as video:
        assert video.times(range(40)) == pytest.approx([time / 1000 for time in times])
        assert video.seconds == pytest.approx(times[-1] / 1000 * 40 / 39)
    clip = clip_of(path, NUM_FRAMES=8, SAMPLING_RATE=1)
    assert clip.times == pytest.approx(range(8))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("HLS", b"#EXTM3U\n#EXTINF:10.0,\nsegment0.ts\n#EXT-X-ENDLIST\n"),
        ("DASH", b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"/>'),
        ("WebP image", None),
        ("animated WebP", None),
        ("PNG image", None),
        ("animated PNG", None),
        ("JPEG", None),
    ],
)
def test_other_formats_are_named(tmp_path, name, content):
    path, images = tmp_path / "clip.mp4", [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    more = {"save_all": True, "append_images": images[1:]} if "animated" in name else {}
    image_format = name.replace("animated", "").replace("image", "").strip()
    path.write_bytes(content) if content else images[0].save(path, image_format, **more)
    with pytest.raises(VideoError, match=name):
        open_video(path)
