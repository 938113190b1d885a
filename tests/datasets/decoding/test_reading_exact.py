"""Frame i is the i-th of decoding everything, for every kind of stream and any requested frames."""

from pathlib import Path

import av
import numpy as np
import pytest

from tests.datasets.made_videos import decode_everything, encode, moving_scene, packets_of, read_everything, remux
from timesformer.datasets.decoding import packet_source
from timesformer.datasets.decoding.open import open_video

NO_SCENECUT = "scenecut=0:min-keyint=1"
GOP = {"bf": "2", "g": "12"}
UNEVEN = [sum((1, 7, 40, 333)[k % 4] for k in range(number)) for number in range(45)]
STREAMS: dict[str, tuple[str, dict]] = {  # codec and options of `encode`
    "b_frames.mp4": ("libx264", {"x264-params": f"bframes=3:b-pyramid=normal:keyint=12:{NO_SCENECUT}"}),
    "open_gop.mkv": ("libx264", {"x264-params": f"open-gop=1:bframes=3:keyint=12:{NO_SCENECUT}"}),
    "open_gop.ts": ("libx264", {"x264-params": f"open-gop=1:bframes=3:keyint=12:{NO_SCENECUT}"}),
    "refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:bframes=2:keyint=16"}),
    "interlaced.mp4": ("libx264", {"flags": "+ildct+ilme", "g": "12"}),
    "no_times.avi": ("libx264", GOP),
    "no_times.h264": ("libx264", GOP),
    "closed_gop.mp4": ("libx265", {"x265-params": "log-level=none:keyint=12:min-keyint=6:open-gop=0"}),
    "open_gop.mp4": ("libx265", {"x265-params": "log-level=none:keyint=12:min-keyint=6:open-gop=1"}),
    "hidden.webm": ("libvpx-vp9", {"g": "15", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}),
    "hidden_vp8.webm": ("libvpx", {"g": "15", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}),
    "b_frames.avi": ("mpeg4", {"g": "12", "bf": "2", "b": "2M"}),
    "pictures.avi": ("mjpeg", {}),
    "pictures.mjpeg": ("mjpeg", {}),
    "animation.gif": ("gif", {}),
    "other_codec.ts": ("mpeg2video", GOP),
    "uneven.mp4": ("libx264", {"times": UNEVEN, **GOP}),
    "uneven.mkv": ("libx264", {"times": UNEVEN, **GOP}),
    "negative.mp4": ("libx264", {"times": range(-280, 45 * 40, 40), **GOP}),
    "fragments.mp4": ("libx264", {"format_options": {"movflags": "frag_keyframe+empty_moov"}, **GOP}),  # no index
    "endless.mkv": ("libx264", {"format_options": {"live": "1"}, **GOP}),  # neither duration nor index
}


@pytest.fixture(scope="module")
def scene() -> list[np.ndarray]:
    return moving_scene(45)


def described(path: Path) -> tuple[object, ...]:
    """All that a reader says of a video without its pixels."""
    with open_video(path) as video:
        timing = video.timing
        stream = timing and (timing.num_frames, timing.fps, timing.duration, list(timing.times))
        return video.num_frames, video.fps, video.seconds, video.times(range(video.num_frames)), video.size, stream


def assert_every_frame_is_exact(path: Path) -> None:
    """Compare a small file, whose packets are kept in memory, and the same as a large file with decoding everything."""
    expected, facts = decode_everything(path), described(path)
    assert np.array_equal(read_everything(path), expected)
    with pytest.MonkeyPatch.context() as monkeypatch:
        treat_as_large(monkeypatch)
        with open_video(path) as video:
            assert np.array_equal(list(video.frames()), expected)
            assert video.num_frames == facts[0]
        assert described(path) == facts
        assert np.array_equal(read_everything(path), expected)


def treat_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_source, "LARGEST_KEPT", 0)
    monkeypatch.setattr(packet_source, "NEAR", 0)  # packets are found by seeking


@pytest.mark.parametrize("name", STREAMS)
def test_kinds_of_streams(tmp_path, scene, name):
    codec, options = STREAMS[name]
    assert_every_frame_is_exact(encode(tmp_path / name, scene, codec, **options))


def nal_reference(packet: av.Packet) -> int:
    """nal_ref_idc of the picture in a packet of H.264 in MP4; 0: no other picture refers to it."""
    data, at = bytes(packet), 0
    while data[at + 4] & 31 not in (1, 5):  # up to the first slice
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return data[at + 4] >> 5 & 3


def test_only_needed_packets_are_decoded(tmp_path, scene):
    """All other packets are destroyed."""
    path = encode(tmp_path / "clip.mp4", scene, "libx264", **{"x264-params": f"bframes=3:keyint=15:{NO_SCENECUT}"})
    wanted, packets, needed = (17, 20, 33), packets_of(path), set()
    order = sorted(packet.pts for packet in packets)
    for number in wanted:
        target = next(i for i, packet in enumerate(packets) if packet.pts == order[number])
        first = max(i for i in range(target + 1) if packets[i].is_keyframe)
        needed |= {i for i in range(first, target) if nal_reference(packets[i])} | {target}
    assert len(needed) < 12
    expected, content = [decode_everything(path)[number] for number in wanted], bytearray(path.read_bytes())
    for number, packet in enumerate(packets):
        if number and number not in needed:  # without its first key frame, a stream is decoded from the start
            content[packet.pos + 5 : packet.pos + packet.size] = bytes(packet.size - 5)  # after the type
    path.write_bytes(content)
    with pytest.raises(av.FFmpegError):
        decode_everything(path)
    with open_video(path) as video:
        assert np.array_equal(video.read(wanted), expected)


@pytest.mark.parametrize("name", ["b_frames.mp4", "open_gop.mp4"])
def test_edit_list(tmp_path, scene, name):
    codec, options = STREAMS[name]
    source = encode(tmp_path / name, scene, codec, **options)
    packets = packets_of(source)
    shift = round(0.6 / packets[0].time_base)  # as `ffmpeg -ss 0.6 -c copy` does: 15 frames
    assert_every_frame_is_exact(remux(packets, source, tmp_path / "cut.mp4", shift))


def test_stream_that_begins_between_key_frames(tmp_path, scene):
    codec, options = STREAMS["open_gop.ts"]
    path = encode(tmp_path / "clip.ts", scene, codec, **options)
    path.write_bytes(path.read_bytes()[188 * 40 :])
    assert_every_frame_is_exact(path)
