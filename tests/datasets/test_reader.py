"""Reading frames: the right one for every number, and a clear error for every kind of broken clip."""

import json
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from timesformer.datasets.decoding import images as frame_files
from timesformer.datasets.decoding import pyav as video_file
from timesformer.datasets.decoding.open import VideoError, open_video

GOLDEN_VIDEOS = [
    "h264_25fps.mp4",
    "h264_2997.mp4",
    "h264_30fps_gop12.mp4",
    "h264_30fps_gop250.mp4",
    "h264_noduration.mkv",
    "mpeg4_30fps.avi",
    "mpeg4_short.avi",
]


def shown_number(frame: np.ndarray) -> int:
    """Number that a golden frame shows in binary: square b (16 wide, 24 high, five in a row) is white for a 1."""
    return sum((frame[b // 5 * 24 + 12, b % 5 * 16 + 8].mean() > 128) << b for b in range(10))


def noise(n: int, height: int = 64, width: int = 96) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(n)]


@pytest.mark.parametrize("name", GOLDEN_VIDEOS)
def test_every_frame_of_a_video_is_the_one_of_its_number(golden_dir, name):
    described = {Path(v["file"]).name: v for v in json.loads((golden_dir / "video_decode.json").read_text())["videos"]}
    with open_video(golden_dir / "videos" / name) as video:
        assert video.num_frames == described[name]["num_frames"]
        rate = [int(part) for part in described[name]["fps"].split("/")]
        assert video.fps == pytest.approx(rate[0] / (rate[1] if len(rate) == 2 else 1))
        frames = video.read(range(video.num_frames))
    assert frames.dtype == np.uint8
    assert frames.shape[1:] == (48, 80, 3)
    assert [shown_number(frame) for frame in frames] == list(range(len(frames)))


def test_frames_may_repeat_and_come_in_any_order(golden_dir):
    with open_video(golden_dir / "videos/h264_30fps_gop250.mp4") as video:
        assert [shown_number(frame) for frame in video.read([250, 3, 3, 299, 0])] == [250, 3, 3, 299, 0]
        assert [shown_number(frame) for frame in video.read([7])] == [7]


def test_the_frames_that_the_original_takes_are_taken(golden_dir):
    """All runs of the original's decoder on the golden videos: the frame numbers it gave back can be read as such."""
    for described in json.loads((golden_dir / "video_decode.json").read_text())["videos"]:
        runs = {tuple(run["frames"]) for run in described["runs"]}
        with open_video(golden_dir / described["file"]) as video:
            for numbers in runs:
                assert tuple(map(shown_number, video.read(numbers))) == numbers


def test_only_the_frames_asked_for_are_converted(tmp_path, make_video, monkeypatch):
    path = make_video(tmp_path / "clip.avi", noise(30), g="5")
    converted = []
    to_rgb = video_file.VideoFile._rgb
    monkeypatch.setattr(
        video_file.VideoFile, "_rgb", lambda self, frame: converted.append(frame.pts) or to_rgb(self, frame)
    )
    with open_video(path) as video:
        video.read([2, 12, 2])
        assert len(converted) == 2
        video.verify()
        assert len(converted) == 2


def test_decoding_from_the_start_stops_after_the_last_frame_and_names_where_it_breaks(tmp_path, make_video):
    path = make_video(tmp_path / "clip.avi", noise(30), g="30")
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[20:]:
        content[packet.pos + 8 : packet.pos + packet.size] = bytes(packet.size - 8)  # not decodable any more
    path.write_bytes(content)
    with open_video(path) as video:
        assert len(video.read([2, 12])) == 2
        with pytest.raises(VideoError, match=r"clip\.avi: decoding stops after frame \d+ of 30"):
            video.verify()


def test_a_known_number_of_frames_is_believed_and_a_known_rate_where_the_file_has_none(
    tmp_path, make_video, make_frames
):
    with open_video(make_video(tmp_path / "x.mp4", noise(3)), num_frames=2, fps=12.5) as video:
        assert (video.num_frames, video.fps) == (2, 25.0)  # a manifest rounds rates
    with open_video(make_frames(tmp_path / "x", 3), fps=12.5) as video:
        assert video.fps == 12.5


def test_numbers_outside_the_clip_are_refused(tmp_path, make_frames):
    with open_video(make_frames(tmp_path / "clip", 3)) as video:
        for numbers in ([3], [-1], []):
            with pytest.raises(IndexError, match="0 to 2"):
                video.read(numbers)


def test_frames_cut_off_by_an_edit_list_are_not_counted(tmp_path, make_video):
    source = make_video(tmp_path / "source.mp4", noise(40), codec="libx264", g="12")
    cut = tmp_path / "cut.mp4"
    with av.open(str(source)) as old, av.open(str(cut), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for packet in old.demux(stream):
            if packet.size:
                shift = round(0.6 / stream.time_base)  # as `ffmpeg -ss 0.6 -c copy` does: 15 frames
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copy
                new.mux(packet)
    with open_video(source) as whole, open_video(cut) as video:
        assert video.num_frames == 25
        assert np.array_equal(video.read([0, 24]), whole.read([15, 39]))


def test_rotation_in_the_metadata_is_applied(tmp_path, make_video):
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, :32] = 255  # white left half
    path = make_video(tmp_path / "clip.mp4", [image] * 3, codec="libx264", rotation=90)
    with open_video(path) as video:
        frame = video.read([1])[0]
    assert frame.shape == (64, 32, 3)
    assert frame[48:].mean() > 250  # counter-clockwise: the left half lies below
    assert frame[:16].mean() < 5


@pytest.mark.parametrize("cores", [1, 8])
def test_frame_folders_are_read_in_numeric_order(tmp_path, monkeypatch, cores):
    monkeypatch.setattr(frame_files, "available_cores", lambda: cores)
    for number in (10, 9, 100, 1):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / f"img_{number}.png")
    Image.new("L", (8, 6), 200).save(tmp_path / "img_1000.png")
    (tmp_path / "._img_5.png").write_bytes(b"left by a file manager")
    (tmp_path / "notes.txt").write_text("no frame")
    with open_video(tmp_path) as video:
        assert video.num_frames == 5
        frames = video.read([0, 1, 2, 3, 4, 0])
    assert frames.shape == (6, 6, 8, 3)
    assert frames[:, 0, 0, 0].tolist() == [1, 9, 10, 100, 200, 1]


def test_frames_of_different_sizes_are_an_error(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "1.png")
    Image.new("RGB", (6, 8)).save(tmp_path / "2.png")
    with open_video(tmp_path) as video, pytest.raises(VideoError, match="differ in size"):
        video.read([0, 1])


@pytest.mark.parametrize("cores", [1, 8])
def test_a_broken_frame_is_an_error_that_names_it(tmp_path, make_frames, monkeypatch, cores):
    monkeypatch.setattr(frame_files, "available_cores", lambda: cores)
    folder = make_frames(tmp_path / "clip", 3)
    file = folder / "frame1.png"
    file.write_bytes(file.read_bytes()[:40])
    with open_video(folder) as video:
        video.read([0, 2])
        with pytest.raises(VideoError, match=r"clip: frame frame1\.png is unreadable"):
            video.read([1])


def write_audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("name", "write", "reason"),
    [
        ("absent.mp4", lambda path: None, "no such file"),
        ("zero.mp4", lambda path: path.write_bytes(b""), "empty"),
        ("text.avi", lambda path: path.write_text("I am no video\n" * 99), "not a video"),
        ("audio.mp4", write_audio, "no video stream, only audio"),
        ("null\0.mp4", lambda path: None, "no such file"),
        ("folder", lambda path: path.mkdir(), "no frames in this folder"),
        ("frame_%06d.jpg#7-3", lambda path: None, "no frames, as its last number is below its first"),
    ],
)
def test_what_is_no_clip_is_an_error_that_names_file_and_reason(tmp_path, name, write, reason):
    write(tmp_path / name)
    with pytest.raises(VideoError, match=reason) as caught:
        open_video(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("share", [0.4, 0.98])
@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".avi", "mpeg4")])
def test_a_truncated_file_is_an_error(tmp_path, make_video, suffix, codec, share):
    content = make_video(tmp_path / f"whole{suffix}", noise(20), codec=codec).read_bytes()
    path = tmp_path / f"part{suffix}"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(VideoError, match=f"part{suffix}: (cut short|not a video|no frames)"):
        open_video(path)


def test_a_video_that_promises_more_frames_than_decode_is_an_error_and_corrects_its_count(tmp_path, make_video):
    path = make_video(tmp_path / "clip.avi", noise(9))
    with open_video(path, num_frames=12) as video:  # as a list says that was made of another file
        assert len(video.read([0, 8])) == 2
        with pytest.raises(VideoError, match="frame 10 is missing: the file promises 12 frames, but 9 decode"):
            video.read([0, 10])
        assert video.num_frames == 9


def test_a_known_number_of_frames_limits_what_is_read(tmp_path, make_video):
    with open_video(make_video(tmp_path / "clip.avi", noise(9)), num_frames=7, fps=12.5) as video:
        assert video.num_frames == 7
        with pytest.raises(IndexError, match="0 to 6"):
            video.read([7])


def test_frames_of_any_claimed_size_are_refused_before_memory_is_taken(tmp_path, make_video, monkeypatch):
    path = make_video(tmp_path / "clip.mp4", noise(3), codec="libx264")
    monkeypatch.setattr(video_file, "MAX_PIXELS", 64 * 96 - 1)
    with pytest.raises(VideoError, match=r"clip\.mp4: its frames claim to be 96x64, more than 6143 pixels"):
        open_video(path)
    avi = make_video(tmp_path / "clip.avi", noise(3))
    monkeypatch.setattr(video_file, "_LIMITS", {"max_pixels": "6143"})  # FFmpeg refuses before it knows a size
    with open_video(avi) as video, pytest.raises(VideoError, match=r"no size, or claim more than 6143 pixels"):
        video.read([0])


def test_an_image_of_a_huge_claimed_size_is_refused(tmp_path):
    file = tmp_path / "1.png"
    Image.new("RGB", (8, 6)).save(file)
    content = bytearray(file.read_bytes())
    content[16:24] = (60000).to_bytes(4, "big") * 2  # IHDR
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    file.write_bytes(content)
    with open_video(tmp_path) as video, pytest.raises(VideoError, match=r"frame 1\.png is unreadable .*pixels"):
        video.read([0])


@pytest.mark.parametrize(("size", "expected"), [((96, 64), (48, 32)), ((64, 96), (32, 48)), ((40, 32), (40, 32))])
def test_frames_are_scaled_down_while_they_are_converted(tmp_path, make_video, size, expected):
    gradient = np.linspace(0, 255, size[0], dtype=np.uint8)[None, :, None].repeat(size[1], 0).repeat(3, 2)
    path = make_video(tmp_path / "clip.mp4", [gradient] * 3, codec="libx264", crf="1")
    with open_video(path, short_side=32) as video:
        frame = video.read([1])[0]
    assert frame.shape == (expected[1], expected[0], 3)
    whole = np.asarray(Image.fromarray(gradient).resize(expected, Image.Resampling.BILINEAR), int)
    assert np.abs(frame - whole).max() < 12


def test_jpeg_frames_are_decoded_at_a_part_of_their_size(tmp_path):
    for number in range(2):
        Image.new("RGB", (320, 240), (number, 90, 160)).save(tmp_path / f"{number}.jpg")
    for short_side, shape in ((0, (240, 320)), (121, (240, 320)), (120, (120, 160)), (32, (60, 80)), (30, (30, 40))):
        with open_video(tmp_path, short_side=short_side) as video:
            frames = video.read([1, 0])
        assert frames.shape == (2, *shape, 3)
        assert np.abs(frames[0].astype(int) - (1, 90, 160)).max() <= 2


def test_numbered_frames_are_read_without_listing_their_folder(tmp_path, monkeypatch):
    folder = tmp_path / "100% #1-2"
    folder.mkdir()
    for number in range(3, 12):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(folder / f"v_{number:06d}.png")
        Image.new("RGB", (8, 6), (number, 0, 0)).save(folder / f"w{number}b.png")
    monkeypatch.setattr(frame_files.os, "listdir", None)
    for pattern in ("v_%06d.png", "w%db.png"):
        with open_video(f"{folder}/{pattern}#9-11", fps=12.0) as video:
            assert (video.num_frames, video.fps) == (3, 12.0)
            assert video.read([2, 0, 1])[:, 0, 0, 0].tolist() == [11, 9, 10]
    with (
        open_video(f"{folder}/v_%06d.png#11-12") as video,
        pytest.raises(VideoError, match=r"frame v_000012\.png is unreadable"),
    ):
        video.read([0, 1])


@pytest.mark.parametrize(
    ("pattern", "count", "fewest"),
    [
        ("videos/hosszu_actions/boxing/*.avi", 2, 120),
        ("videos/basketball_action/shooting/*.mp4", 5, 5),
        ("videos/smoke_clips/**/test.*", 2, 164),
    ],
)
def test_real_clips_are_read_alike(shared, pattern, count, fewest):
    paths = sorted(shared.glob(pattern))[:count]
    assert len(paths) == count
    for path in paths:
        with open_video(path) as video, av.open(str(path)) as container:
            assert video.num_frames >= fewest
            assert video.fps > 0
            indices = [2, video.num_frames // 4, 0]
            frames = video.read(indices)
            everything = [frame for frame, _ in zip(container.decode(video=0), range(max(indices) + 1), strict=False)]
            assert np.array_equal(frames, [everything[index].to_ndarray(format="rgb24") for index in indices])
        assert frames.std() > 5
