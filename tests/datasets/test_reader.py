"""Reading frames: the right one for every number, and a clear error for every kind of broken clip."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from timesformer.datasets import reader as reader_module
from timesformer.datasets.reader import VideoError, open_video

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
def test_every_frame_of_a_video_is_the_one_of_its_number(shared, name):
    described = {
        Path(v["file"]).name: v for v in json.loads((shared / "golden/video_decode.json").read_text())["videos"]
    }
    with open_video(shared / "golden/videos" / name) as video:
        assert video.num_frames == described[name]["num_frames"]
        rate = [int(part) for part in described[name]["fps"].split("/")]
        assert video.fps == pytest.approx(rate[0] / (rate[1] if len(rate) == 2 else 1))
        frames = video.read(range(video.num_frames))
    assert frames.dtype == np.uint8
    assert frames.shape[1:] == (48, 80, 3)
    assert [shown_number(frame) for frame in frames] == list(range(len(frames)))


def test_frames_may_repeat_and_come_in_any_order(shared):
    with open_video(shared / "golden/videos/h264_30fps_gop250.mp4") as video:
        assert [shown_number(frame) for frame in video.read([250, 3, 3, 299, 0])] == [250, 3, 3, 299, 0]
        assert [shown_number(frame) for frame in video.read([7])] == [7]


def test_only_the_frames_asked_for_are_converted_and_decoding_stops_after_the_last(tmp_path, make_video, monkeypatch):
    path = make_video(tmp_path / "clip.avi", noise(30), gop="5")
    converted = []
    to_rgb = reader_module._to_rgb
    monkeypatch.setattr(reader_module, "_to_rgb", lambda frame: converted.append(frame.pts) or to_rgb(frame))
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[20:]:
        content[packet.pos + 8 : packet.pos + packet.size] = bytes(packet.size - 8)  # not decodable any more
    path.write_bytes(content)
    with open_video(path) as video:
        video.read([2, 12])
        assert len(converted) == 2
        with pytest.raises(VideoError):
            video.verify()


def test_frames_that_are_known_are_not_counted(tmp_path, make_video, monkeypatch):
    path = make_video(tmp_path / "x.mp4", noise(3))
    monkeypatch.setattr(reader_module.av, "open", None)
    with open_video(path, num_frames=3, fps=12.5) as video:
        assert (video.num_frames, video.fps) == (3, 12.5)


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


def test_frame_folders_are_read_in_numeric_order(tmp_path):
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


def test_a_broken_frame_is_an_error_that_names_it(tmp_path, make_frames):
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
        ("folder", lambda path: path.mkdir(), "no frames in this folder"),
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
    with open_video(make_video(tmp_path / "clip.avi", noise(9))) as video:
        video.num_frames = 12  # as a container does whose last packets decode to nothing
        assert len(video.read([0, 8])) == 2
        with pytest.raises(VideoError, match="frame 10 is missing: the file promises 12 frames, but 9 decode"):
            video.read([0, 10])
        assert video.num_frames == 9


@pytest.mark.parametrize(
    ("pattern", "count", "fewest"),
    [
        ("videos/hosszu_actions/boxing/*.avi", 2, 120),
        ("videos/basketball_action/shooting/*.mp4", 5, 5),
        ("videos/smoke_clips/**/test.*", 2, 164),
    ],
)
def test_real_clips_are_read(shared, pattern, count, fewest):
    paths = sorted(shared.glob(pattern))[:count]
    assert len(paths) == count
    for path in paths:
        with open_video(path) as video:
            assert video.num_frames >= fewest
            assert video.fps > 0
            frames = video.read([0, video.num_frames // 2, video.num_frames - 1])
        assert frames.std() > 5
        assert len(frames) == 3
