"""What players cope with in video files: lost packets, cuts, several streams, changing sizes, uneven times."""

import math
import shutil
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import PacketSideData
from PIL import Image

from tests.datasets.made_videos import assert_close, encode, ffmpeg_frames, moving_scene, packets_of
from timesformer.config import get_cfg
from timesformer.datasets.clips import ClipMaker
from timesformer.datasets.decoding.open import VideoError, open_video
from timesformer.datasets.manifest import Manifest
from timesformer.inference.clip_batches import make_views
from timesformer.preparation.command_line import main

PACKET = 188  # bytes of a packet of MPEG-TS
OPEN_GOPS = {
    "libx264": {"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=12:scenecut=0"},
    "libx265": {"x265-params": "log-level=none:keyint=12:min-keyint=12:scenecut=0:open-gop=1"},
}


def read_everything(path: Path) -> list[np.ndarray]:
    """All frames, after a test of every way to ask for them."""
    with open_video(path) as video:
        promised, size = video.num_frames, video.size
        frames = list(video.frames())
        assert video.num_frames == promised == len(frames)
        assert frames[0].shape == (size[1], size[0], 3)
        video.verify()
    with open_video(path) as video:
        order = np.random.default_rng(0).permutation(promised).tolist()
        for number in order[:12]:
            assert np.array_equal(video.read([number]), frames[number : number + 1])
        assert np.array_equal(video.read(order), [frames[number] for number in order])
    return frames


def remux(packets: Sequence[av.Packet], source: Path, target: Path, first: int = 0) -> Path:
    """Write packets of the video `source` to another file, `first` of the stream's units earlier."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in packets:
            packet.pts, packet.dts = packet.pts - first, packet.dts - first
            packet.stream = stream
            new.mux(packet)
    return target


@pytest.fixture(scope="module")
def broadcast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MPEG-TS of 20 frames in H.264 with B-frames, a key frame every 5."""
    path = tmp_path_factory.mktemp("broadcast") / "clip.ts"
    return encode(path, moving_scene(20), "libx264", **{"x264-params": "keyint=5:min-keyint=5:scenecut=0:bframes=2"})


@pytest.mark.parametrize("name", ["joined.ts", "joined.mp4"])
def test_joined_transport_streams_are_read_to_the_end(tmp_path, broadcast, name):
    path = tmp_path / name
    path.write_bytes(broadcast.read_bytes() * 2)
    frames = read_everything(path)
    assert np.array_equal(frames, read_everything(broadcast) * 2)
    with open_video(path) as video:
        assert video.times([0, 39]) == (0.0, pytest.approx(39 / 25))  # both parts begin at the same time


def test_of_joined_streams_with_other_numbers_the_first_is_read(tmp_path, broadcast):
    path = tmp_path / "clip.ts"
    other = encode(tmp_path / "other.ts", moving_scene(9), "libx264", format_options={"mpegts_start_pid": "1024"})
    path.write_bytes(broadcast.read_bytes() + other.read_bytes())
    frames = read_everything(path)
    assert_close(frames, ffmpeg_frames(path))
    assert len(frames) == 20


@pytest.mark.parametrize("lost", ["one in the middle", "every 17th", "the start", "the end"])
def test_transport_streams_with_lost_packets_are_read_as_far_as_frames_decode(tmp_path, broadcast, lost):
    content = broadcast.read_bytes()
    packets = [content[at : at + PACKET] for at in range(0, len(content), PACKET)]
    middle = next(
        n for n in range(len(packets) // 2, len(packets)) if packets[n][1] & 0x5F == 1 and not packets[n][2]
    )  # of the video's packets (PID 256) one that begins no frame
    kept = {
        "one in the middle": packets[:middle] + packets[middle + 1 :],
        "every 17th": [packet for number, packet in enumerate(packets) if number % 17 != 16],
        "the start": packets[:3] + packets[len(packets) // 3 :],  # but for the tables of what is in it
        "the end": [*packets[: -len(packets) // 3], packets[0][:77]],
    }[lost]
    path = tmp_path / "clip.ts"
    path.write_bytes(b"".join(kept))
    frames = read_everything(path)
    expected = ffmpeg_frames(path)
    assert len(frames) >= 10
    if lost == "every 17th":  # another version of FFmpeg may conceal losses in another way
        assert abs(len(frames) - len(expected)) <= 1
    else:
        assert_close(frames, expected, difference=2)


def open_gop_cut(codec: str, target: Path, frames: int = 45) -> Path:
    """What a cut at the second key frame leaves: frames after it that refer to others before it."""
    source = encode(target.parent / f"source_of_{target.name}", moving_scene(frames), codec, **OPEN_GOPS[codec])
    packets = packets_of(source)
    start = [number for number, packet in enumerate(packets) if packet.is_keyframe][1]
    assert min(packet.pts for packet in packets[start:]) < packets[start].pts
    return remux(packets[start:], source, target, packets[start].pts)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
@pytest.mark.parametrize("codec", OPEN_GOPS)
def test_frames_of_cuts_through_open_gops(tmp_path, codec, suffix):
    path = open_gop_cut(codec, tmp_path / f"cut{suffix}")
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert np.array_equal(read_everything(path), expected)
    if codec == "libx265":
        assert_close(expected, ffmpeg_frames(path))


def test_check_conversion_and_clips_agree_on_the_frames_of_a_cut(tmp_path):
    """As `ffmpeg -ss 0.7 -i whole.mp4 -c copy cut.mkv` makes it."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("the program ffmpeg is not installed")
    whole = encode(tmp_path / "whole.mp4", moving_scene(60), "libx265", **OPEN_GOPS["libx265"])
    path = tmp_path / "data/up/cut.mkv"
    path.parent.mkdir(parents=True)
    subprocess.run(["ffmpeg", "-v", "error", "-ss", "0.7", "-i", whole, "-c", "copy", path], check=True)
    with av.open(str(path)) as container:
        stored = sum(packet.size > 0 for packet in container.demux(video=0))
    expected = ffmpeg_frames(path)
    assert len(expected) < stored
    data = str(tmp_path / "data")
    assert main(["folder", data, "--check", "--workers", "1"]) == 0
    assert main(["folder", data, "--short-side", "64", "--check", "--workers", "1"]) == 0
    assert main(["folder", data, "--frames", "--check", "--workers", "1"]) == 0
    for folder in ("data", "data_64", "data_frames"):
        (row,) = Manifest(tmp_path / folder / "manifest.csv")
        assert (row.frames, row.problem) == (len(expected), "")
    cfg = get_cfg()
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.DATA.TEST_CROP_SIZE = len(expected), 1, 64
    cfg.DATA.TRAIN_JITTER_SCALES = [64, 64]
    cfg.DATA.SAMPLER, cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS = "uniform", 1, 1
    (clip,) = make_views(ClipMaker(cfg, "test"), str(path), [0], 0)
    assert clip.numbers == tuple(range(len(expected)))
    assert_close(list(clip.frames), [frame[:, 16:80] for frame in expected])


def two_streams(path: Path, default: Sequence[int]) -> Path:
    """A red and a blue stream, flagged as default or not, of 64 x 48 and 96 x 64 pixels."""
    with av.open(str(path), "w") as container:
        streams = []
        for number, (width, height) in enumerate([(64, 48), (96, 64)]):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.disposition = av.stream.Disposition.default if number in default else 0
            streams.append(stream)
        for number, color in enumerate([(255, 0, 0), (0, 0, 255)]):
            stream = streams[number]
            picture = np.full((stream.height, stream.width, 3), color, np.uint8)
            for _ in range(9):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize("default", [0, 1])
def test_the_stream_flagged_as_default_is_read(tmp_path, default):
    path = two_streams(tmp_path / "two.mkv", [default])
    frames = read_everything(path)
    assert frames[0][24, 32].argmax() == 2 * default
    assert_close(frames, ffmpeg_frames(path))


@pytest.mark.parametrize("default", [[], [0, 1]])
def test_of_streams_with_equal_flags_the_one_that_ffmpeg_finds_best_is_read(tmp_path, default):
    path = two_streams(tmp_path / "two.mkv", default)
    with av.open(str(path)) as container:
        best = container.streams.best("video")
        size = best.codec_context.width, best.codec_context.height
    with open_video(path) as video:
        assert video.size == size


def test_a_cover_picture_is_not_the_video(tmp_path):
    path, cover = tmp_path / "clip.mp4", tmp_path / "cover.jpg"
    Image.new("RGB", (320, 240), "red").save(cover)
    source = encode(tmp_path / "source.mp4", moving_scene(1), "libx264")  # with one frame each, neither is preferred
    if shutil.which("ffmpeg") is None:
        pytest.skip("the program ffmpeg is not installed")
    streams = ["-map", "1", "-map", "0", "-c", "copy", "-disposition:v:0", "attached_pic", "-disposition:v:1", "0"]
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, "-i", cover, *streams, path], check=True)
    with open_video(path) as video:
        assert video.size == (96, 64)


@pytest.mark.parametrize("suffix", [".webm", ".mkv"])
@pytest.mark.parametrize("sizes", [(48, 96), (96, 48)])
def test_frames_of_another_size_are_scaled_to_the_first(tmp_path, sizes, suffix):
    codec = "libvpx" if suffix == ".webm" else "libx264"
    scene = moving_scene(20, 96, 96)
    parts = []
    for number, size in enumerate(sizes):
        pictures = [np.asarray(Image.fromarray(p).resize((size, size))) for p in scene[10 * number : 10 * number + 10]]
        parts.append(
            encode(
                tmp_path / f"part{number}.ts" if codec == "libx264" else tmp_path / f"part{number}.ivf",
                pictures,
                codec,
                bf="0",
                g="5",
                b="2M",
            )
        )
    path, count = tmp_path / f"clip{suffix}", 0
    with av.open(str(path), "w") as new, av.open(str(parts[0])) as first:
        stream = new.add_stream_from_template(first.streams.video[0])
        for part in parts:
            for packet in packets_of(part):
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, count, count, Fraction(1, 25)
                count += 1
                new.mux(packet)
    frames = read_everything(path)
    assert {frame.shape for frame in frames} == {(sizes[0], sizes[0], 3)}
    brightness = np.array([0.299, 0.587, 0.114])  # versions of FFmpeg differ in where the colours of H.264 lie
    assert_close([frame @ brightness for frame in frames], [frame @ brightness for frame in ffmpeg_frames(path)], 2)
    assert main(["folder", str(tmp_path), "--short-side", "32", "--workers", "1", "--output", f"{tmp_path}_32"]) == 0


def test_a_stream_whose_codec_gets_other_parameters_is_read_in_any_order(tmp_path):
    """A decoder that has got them must not decode the frames before the change with them."""
    scene, path, count = moving_scene(20, 96, 96), tmp_path / "clip.flv", 0
    parts = [
        encode(tmp_path / "small.mp4", [frame[::2, ::2] for frame in scene[:10]], "libx264", bf="0", g="5"),
        encode(tmp_path / "large.mp4", scene[10:], "libx264", bf="0", g="5"),
    ]
    with av.open(str(path), "w") as new, av.open(str(parts[0])) as first:
        stream = new.add_stream_from_template(first.streams.video[0])
        for part in parts:
            with av.open(str(part)) as old:
                parameters = old.streams.video[0].codec_context.extradata
            for packet in packets_of(part):
                if count == 10:
                    data = PacketSideData(1, len(parameters))  # AV_PKT_DATA_NEW_EXTRADATA
                    data.update(parameters)
                    packet.set_sidedata(data)
                packet.stream, packet.pts, packet.dts, packet.time_base = stream, count, count, Fraction(1, 25)
                count += 1
                new.mux(packet)
    frames = read_everything(path)
    expected = ffmpeg_frames(path)
    assert_close(frames[:10], expected[:10])
    assert_close(frames[10:], expected[10:], difference=8)


def test_times_are_those_at_which_frames_are_shown(tmp_path):
    times = [1000 * min(number, 9) + 40 * max(number - 9, 0) for number in range(40)]
    path = encode(tmp_path / "clip.mkv", moving_scene(40), "libx264", times, bf="2", g="12")
    with open_video(path) as video:
        assert video.times(range(40)) == pytest.approx([time / 1000 for time in times])
        assert video.times([9, 0, 9]) == pytest.approx([9, 0, 9])
        assert video.seconds == pytest.approx(times[-1] / 1000 * 40 / 39)
    cfg = get_cfg()
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.DATA.TEST_CROP_SIZE = 8, 1, 64
    cfg.DATA.SAMPLER, cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS = "uniform", 1, 1
    (clip,) = make_views(ClipMaker(cfg, "test"), str(path), [0], 0)
    assert clip.times == pytest.approx(range(8))


def test_times_begin_with_the_first_frame(tmp_path):
    path = encode(tmp_path / "clip.mp4", moving_scene(9), "libx264", [4000 + 100 * n for n in range(9)], bf="2")
    with open_video(path) as video:
        assert video.times(range(9)) == pytest.approx([n / 10 for n in range(9)], abs=2e-3)


def test_times_of_a_stream_that_is_decoded_from_the_start(tmp_path):
    times = [0, 100, 150, 400, 1000, 1040]
    path = encode(tmp_path / "clip.mkv", moving_scene(6), "ffv1", times)
    for known in (0, 6):
        with open_video(path, num_frames=known) as video:
            assert video.times([4, 2]) == pytest.approx([1.0, 0.15], abs=2e-3)


def test_times_follow_from_the_frame_rate_where_the_file_has_none(tmp_path, make_frames):
    path = encode(tmp_path / "clip.h264", moving_scene(6), "libx264", bf="2")
    with open_video(path) as video:
        assert video.times([5, 0]) == pytest.approx([5 / video.fps, 0])
        assert video.seconds == pytest.approx(6 / video.fps)
    folder = make_frames(tmp_path / "clip", 3)
    with open_video(folder) as video:
        assert all(map(math.isnan, video.times([0, 2])))
        assert video.seconds == 0
    with open_video(folder, fps=10.0) as video:
        assert video.times([2]) == (0.2,)


def test_the_sample_aspect_ratio_is_ignored(tmp_path):
    scene = moving_scene(5)
    plain = encode(tmp_path / "plain.mp4", scene, "libx264")
    path = encode(tmp_path / "wide.mp4", scene, "libx264", aspect=Fraction(2, 1))
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == 2
    assert np.array_equal(read_everything(path), read_everything(plain))
    assert_close(read_everything(path), ffmpeg_frames(path))


def animation(path: Path, **options: object) -> None:
    first, *others = (Image.fromarray(picture) for picture in moving_scene(3))
    first.save(path, save_all=True, append_images=others, duration=40, **options)


@pytest.mark.parametrize("suffix", [".mp4", ".dat"])  # players go by the content, not by the name
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("WebP", lambda path: animation(path, format="WEBP")),
        ("APNG", lambda path: animation(path, format="PNG")),
        (
            "HLS",
            lambda path: path.write_text("#EXTM3U\n#EXTINF:10.0,\nsegment0.ts\n#EXT-X-ENDLIST\n"),
        ),
        ("DASH", lambda path: path.write_text('<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"/>')),
        ("WebP", lambda path: Image.new("RGB", (8, 8)).save(path, "WEBP")),
        ("PNG", lambda path: Image.new("RGB", (8, 8)).save(path, "PNG")),
    ],
)
def test_other_formats_are_named(tmp_path, name, write, suffix):
    path = tmp_path / f"clip{suffix}"
    write(path)
    with pytest.raises(VideoError) as caught:
        open_video(path)
    assert str(path) in str(caught.value)
    assert name in str(caught.value)
    assert "Invalid argument" not in str(caught.value)


def test_a_gif_is_a_video(tmp_path):
    path = tmp_path / "clip.gif"
    animation(path)
    assert_close(read_everything(path), ffmpeg_frames(path))


def test_raw_motion_jpeg_is_a_video_whatever_the_size_of_its_frames(tmp_path):
    path = tmp_path / "clip.MJPEG"
    with av.open(str(path), "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for picture in moving_scene(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with open_video(path) as video:
        assert video.num_frames == 12
        frames = list(video.frames())
    with av.open(str(path), format="mjpeg") as container:
        assert_close(frames, [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize(("suffix", "codec"), [(".ogv", "libvpx"), (".ivf", "libvpx"), (".mkv", "libx264")])
def test_the_frame_rate_is_that_of_the_packets_where_the_header_has_none(tmp_path, suffix, codec):
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=60)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for picture in moving_scene(90):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with open_video(path) as video:
        assert video.fps == pytest.approx(60, rel=1e-3)


def test_the_dense_window_fits_the_frames_that_are_shown_and_not_those_that_a_header_counts(tmp_path):
    if shutil.which("ffmpeg") is None:
        pytest.skip("the program ffmpeg is not installed")
    whole = encode(tmp_path / "whole.mp4", moving_scene(100), "libx264", g="300", bf="2")
    path = tmp_path / "cut.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-ss", "2.5", "-i", whole, "-c", "copy", path], check=True)
    with open_video(path) as video:
        shown = video.num_frames
        assert shown < video.timing.num_frames
    cfg = get_cfg()
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.DATA.SAMPLER_WINDOW = 8, 32, "fit"
    cfg.TEST.NUM_ENSEMBLE_VIEWS, cfg.TEST.NUM_SPATIAL_CROPS = 2, 1
    first, second = make_views(ClipMaker(cfg, "test"), str(path), [0, 1], 0)
    assert first.numbers == second.numbers == tuple((shown - 1) * i // 7 for i in range(8))
