"""Frame i is the i-th of decoding everything, whatever the stream is like, and however few frames are asked for."""

import random
from pathlib import Path

import av
import numpy as np
import pytest

from tests.datasets.made_videos import encode, moving_scene
from timesformer.datasets.decoding import pyav as video_file
from timesformer.datasets.decoding.open import open_video

SCENECUT_OFF = "scenecut=0:min-keyint=1"
# name: (codec, options of the encoder, whether frames are found without decoding everything)
STREAMS: dict[str, tuple[str, dict[str, str], bool]] = {
    "b_frames.mp4": ("libx264", {"x264-params": f"bframes=3:b-pyramid=normal:keyint=12:{SCENECUT_OFF}"}, True),
    "long_gop.mp4": ("libx264", {"x264-params": "bframes=5:b-pyramid=strict:keyint=250"}, True),
    "no_b_frames.mov": ("libx264", {"bf": "0", "g": "12"}, True),
    "open_gop.mkv": ("libx264", {"x264-params": f"open-gop=1:bframes=3:keyint=12:{SCENECUT_OFF}"}, True),
    "open_gop.ts": ("libx264", {"x264-params": f"open-gop=1:bframes=3:keyint=12:{SCENECUT_OFF}"}, True),
    "refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:bframes=2:keyint=16"}, False),
    "interlaced.mp4": ("libx264", {"flags": "+ildct+ilme", "g": "12"}, False),
    "interlaced.ts": ("libx264", {"flags": "+ildct+ilme", "g": "12"}, False),
    "no_times.avi": ("libx264", {"bf": "2", "g": "12"}, False),
    "no_times.h264": ("libx264", {"bf": "2", "g": "12"}, False),
    "closed_gop.mp4": ("libx265", {"x265-params": "log-level=none:keyint=12:min-keyint=6:open-gop=0"}, True),
    "open_gop.mp4": ("libx265", {"x265-params": "log-level=none:keyint=12:min-keyint=6:open-gop=1"}, True),
    "hidden.webm": ("libvpx-vp9", {"g": "15", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}, True),
    "hidden_vp8.webm": ("libvpx", {"g": "15", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}, True),
    "b_frames.avi": ("mpeg4", {"g": "12", "bf": "2", "b": "2M"}, True),
    "no_b_frames.avi": ("mpeg4", {"g": "12", "b": "2M"}, True),
    "pictures.avi": ("mjpeg", {}, True),
    "other_codec.ts": ("mpeg2video", {"g": "12", "bf": "2"}, False),
}


@pytest.fixture(scope="module")
def scene() -> list[np.ndarray]:
    """45 frames, every one unlike any other."""
    return moving_scene(45)


def decode_everything(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def assert_every_frame_is_right(path: Path, sequential: bool) -> None:
    """Ask for each frame alone, and for some together, in random orders.

    sequential: whether the file has to be decoded from the start in the end.
    """
    expected = decode_everything(path)
    order = random.Random(0)
    with open_video(path) as video:
        assert video.num_frames == len(expected)
        for index in order.sample(range(len(expected)), len(expected)):
            assert np.array_equal(video.read([index])[0], expected[index]), f"frame {index}"
        for _ in range(10):
            indices = [order.randrange(len(expected)) for _ in range(order.randint(2, 9))]
            assert np.array_equal(video.read(indices), [expected[index] for index in indices]), indices
        assert bool(video._index.sequential) == sequential


@pytest.mark.parametrize("name", STREAMS)
def test_frames_of_every_kind_of_stream(tmp_path, scene, name):
    codec, options, found = STREAMS[name]
    path = encode(tmp_path / name, scene, codec, **options)
    assert_every_frame_is_right(path, sequential=not found)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    ("first", "steps"), [(0, (1, 7, 40, 333)), (4000, (40,)), (-280, (40,))], ids=["uneven", "late", "negative"]
)
def test_frames_at_uneven_late_and_negative_times(tmp_path, scene, suffix, first, steps):
    if first < 0 and suffix == ".mkv":
        pytest.skip("Matroska cannot say it")
    times = [first + sum(steps[k % len(steps)] for k in range(number)) for number in range(len(scene))]
    path = encode(tmp_path / f"clip{suffix}", scene, "libx264", times, bf="2", g="12")
    assert_every_frame_is_right(path, sequential=False)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fragments.mp4", {"movflags": "frag_keyframe+empty_moov"}),  # no table of samples
        ("no_edits.mp4", {"use_editlist": "0"}),
        ("endless.mkv", {"live": "1"}),  # neither duration nor index
    ],
)
def test_frames_of_files_without_index_or_duration(tmp_path, scene, name, options):
    path = encode(tmp_path / name, scene, "libx264", format_options=options, bf="2", g="12")
    assert_every_frame_is_right(path, sequential=False)


@pytest.mark.parametrize("name", ["b_frames.mp4", "open_gop.mkv", "open_gop.mp4"])
def test_frames_of_clips_cut_by_an_edit_list(tmp_path, scene, name):
    codec, options, _ = STREAMS[name]
    source = encode(tmp_path / name, scene, codec, **options)
    cut = tmp_path / "cut.mp4"
    with av.open(str(source)) as old, av.open(str(cut), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        shift = round(0.6 / stream.time_base)  # as `ffmpeg -ss 0.6 -c copy` does: 15 frames
        for packet in old.demux(stream):
            if packet.size:
                packet.pts -= shift
                packet.dts = packet.dts - shift if packet.dts is not None else None
                packet.stream = copy
                new.mux(packet)
    assert_every_frame_is_right(cut, sequential=False)
    with open_video(source) as whole, open_video(cut) as video:
        last = video.num_frames - 1
        assert np.array_equal(video.read([last]), whole.read([whole.num_frames - 1]))


def test_frames_of_a_stream_that_begins_between_key_frames(tmp_path, scene):
    codec, options, _ = STREAMS["open_gop.ts"]
    path = encode(tmp_path / "clip.ts", scene, codec, **options)
    path.write_bytes(path.read_bytes()[188 * 40 :])
    assert_every_frame_is_right(path, sequential=True)  # there are packets whose frames cannot be decoded


def test_packed_b_frames_of_a_real_clip_are_found(shared):
    path = shared / "videos/smoke_clips/tests/data/test.avi"
    expected = decode_everything(path)
    with open_video(path) as video:
        for indices in ([163, 0], [1], [2], [3], range(20, 30), [77, 76]):
            assert np.array_equal(video.read(indices), [expected[index] for index in indices])
        assert not video._index.sequential


def test_a_large_file_is_read_again_instead_of_kept(tmp_path, scene, monkeypatch):
    monkeypatch.setattr(video_file, "LARGEST_KEPT", 0)
    path = encode(tmp_path / "clip.mp4", scene, "libx264", bf="2", g="6")
    assert_every_frame_is_right(path, sequential=False)


def nal_reference(packet: av.Packet) -> int:
    """nal_ref_idc of the picture in a packet of H.264 in MP4; 0: no other picture refers to it."""
    data, at = bytes(packet), 0
    while data[at + 4] & 31 not in (1, 5):  # up to the first slice
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return data[at + 4] >> 5 & 3


def test_only_what_the_frames_asked_for_depend_on_is_decoded(tmp_path, scene):
    """The rest of the file is destroyed, and nobody notices."""
    path = encode(tmp_path / "clip.mp4", scene, "libx264", **{"x264-params": f"bframes=3:keyint=15:{SCENECUT_OFF}"})
    wanted = (17, 20, 33)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        order = sorted(packet.pts for packet in packets)
        needed = set()
        for number in wanted:
            target = next(i for i, packet in enumerate(packets) if packet.pts == order[number])
            first = max(i for i in range(target + 1) if packets[i].is_keyframe)
            needed |= {i for i in range(first, target) if nal_reference(packets[i])} | {target}
        expected = [decode_everything(path)[number] for number in wanted]
        content = bytearray(path.read_bytes())
        for number, packet in enumerate(packets):
            if number and number not in needed:  # without its first key frame, a stream is decoded from the start
                content[packet.pos + 5 : packet.pos + packet.size] = bytes(packet.size - 5)  # after the type
    assert len(needed) < 12
    path.write_bytes(content)
    with pytest.raises(av.FFmpegError):
        decode_everything(path)
    with open_video(path) as video:
        assert np.array_equal(video.read(wanted), expected)
        assert not video._index.sequential


def test_a_packet_falsely_marked_as_key_frame_is_noticed(tmp_path, scene):
    source = encode(tmp_path / "source.mp4", scene, "mpeg4", g="30")
    path = tmp_path / "clip.mp4"
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for number, packet in enumerate(packet for packet in old.demux(stream) if packet.size):
            packet.is_keyframe = number % 5 == 0
            packet.stream = copy
            new.mux(packet)
    assert_every_frame_is_right(path, sequential=True)
