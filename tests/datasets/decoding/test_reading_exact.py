"""Frame i is the i-th of decoding everything, for every kind of stream and any requested frames."""

import os
from collections.abc import Container
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest

from tests.datasets.made_videos import (
    decode_everything,
    encode,
    ffmpeg,
    moving_scene,
    packets_of,
    read_everything,
    remux,
)
from timesformer.datasets.decoding import packet_source
from timesformer.datasets.decoding.open import VideoError, open_video
from timesformer.datasets.decoding.packet_index import Packets

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


def streamed_times(path: Path) -> list[float]:
    """When frames are shown, in seconds after the first one, as known while they are decoded in order."""
    with open_video(path) as video:
        ticks = [frame.tick for frame in video.stream()]
        return [float((tick - ticks[0]) * video.time_base) for tick in ticks]


def streamed_frames(path: Path, wanted: Container[int]) -> list[np.ndarray]:
    """These frames, decoded in order without others that no frame refers to, where packets tell."""
    with open_video(path) as video:
        video.known_ticks()
        return [frame.image() for frame in video.stream(wanted.__contains__) if frame.number in wanted]


def assert_every_frame_is_exact(path: Path) -> None:
    """Compare a small file, whose packets are kept in memory, and the same as a large file with decoding everything."""
    expected, facts, times = decode_everything(path), described(path), streamed_times(path)
    assert np.array_equal(read_everything(path), expected)
    for wanted in ({0, 7, 21, 34}, {10, 11, 12}, set(range(45))):
        numbers = sorted(number for number in wanted if number < len(expected))
        assert np.array_equal(streamed_frames(path, numbers), [expected[number] for number in numbers])
    with pytest.MonkeyPatch.context() as monkeypatch:
        treat_as_large(monkeypatch)
        with open_video(path) as video:
            assert np.array_equal(list(video.frames()), expected)
            assert video.num_frames == facts[0]
        assert streamed_times(path) == pytest.approx(times)
        assert described(path) == facts
        assert np.array_equal(read_everything(path), expected)


def treat_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_source, "LARGEST_KEPT", 0)
    monkeypatch.setattr(packet_source, "NEAR", 0)  # packets are found by seeking


IN_ORDER = ["b_frames.mp4", "fragments.mp4", "open_gop.mkv", "open_gop.ts", "b_frames.avi"]


@pytest.mark.parametrize("name", IN_ORDER)
def test_large_file_is_not_read_before_it_is_needed(tmp_path, scene, monkeypatch, name):
    codec, options = STREAMS[name]
    path = encode(tmp_path / name, scene, codec, **options)
    expected = decode_everything(path)
    treat_as_large(monkeypatch)
    monkeypatch.setattr(Packets, "scan", None)  # reads all packets
    with open_video(path) as video:
        assert np.array_equal(list(islice(video.frames(), 3)), expected[:3])
        assert [frame.image().shape for frame in islice(video.stream(), 3)] == [expected[0].shape] * 3
        if name == "b_frames.mp4":  # the only one with a table of all packets
            assert video.num_frames == len(video.timing.times) == 45
            assert np.array_equal(video.read([40, 3]), [expected[40], expected[3]])


@pytest.mark.parametrize("name", IN_ORDER)
def test_frames_of_a_large_file_are_found_by_seeking(tmp_path, scene, monkeypatch, name):
    codec, options = STREAMS[name]
    path, opened, open_file = encode(tmp_path / name, scene, codec, **options), [], packet_source.Demuxer.__init__
    expected = decode_everything(path)
    treat_as_large(monkeypatch)
    monkeypatch.setattr(packet_source.Demuxer, "__init__", lambda *args: opened.append(open_file(*args)))
    with open_video(path) as video:
        for number in (44, 20, 44, 0, 30):
            assert np.array_equal(video.read([number])[0], expected[number])
    assert len(opened) == 1 + (name != "b_frames.mp4")  # once more to read all packets; else to begin again


@pytest.mark.parametrize(("name", "codec"), [("clip.mp4", "libx264"), ("clip.mkv", "libx264"), ("clip.avi", "mpeg4")])
def test_large_file_is_cut_short(tmp_path, scene, monkeypatch, name, codec):
    path = encode(tmp_path / name, scene, codec)
    os.truncate(path, path.stat().st_size // 2)
    treat_as_large(monkeypatch)
    with pytest.raises(VideoError, match=name), open_video(path) as video:
        print(video.num_frames)
    with pytest.raises(VideoError, match=name), open_video(path) as video:
        print(len(list(video.frames())))


@pytest.mark.parametrize("part", [0.3, 0.6, 0.98])
def test_matroska_file_is_cut_short(tmp_path, scene, part):
    path = encode(tmp_path / "clip.mkv", scene, "libx264")
    os.truncate(path, int(part * path.stat().st_size))
    with pytest.raises(VideoError, match="cut short"):
        open_video(path)
    with open_video(path, allow_cut_short=True) as video:
        assert len(list(video.frames())) < len(scene)
        with pytest.raises(VideoError, match="cut short"):
            list(video.stream())


def test_matroska_file_with_a_longer_duration_in_its_header_is_complete(tmp_path, scene):
    held, path = tmp_path / "held.mp4", tmp_path / "held.mkv"
    encode(held, scene, "libx264", [*range(0, 40 * (len(scene) - 1), 40), 10_000])
    frames = len(scene) - 1  # the last one is shown for seconds, which only the header of Matroska has
    ffmpeg("-i", held, "-frames:v", str(frames), "-c", "copy", path)
    with av.open(str(path)) as container:
        assert container.duration > 9 * av.time_base
    with open_video(path, allow_cut_short=True) as video:
        assert len(list(video.stream())) == frames


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


def test_streams_leave_out_frames_that_no_other_refers_to(tmp_path, scene):
    path = encode(tmp_path / "clip.mp4", scene, "libx264", **{"x264-params": f"bframes=3:keyint=15:{NO_SCENECUT}"})
    packets, expected, content = packets_of(path), decode_everything(path), bytearray(path.read_bytes())
    order = sorted(packet.pts for packet in packets)
    others = [packet for packet in packets if not nal_reference(packet)]
    wanted = {3, *(order.index(packet.pts) for packet in others[-7::3])}
    destroyed = [packet for packet in others if order.index(packet.pts) not in wanted | set(range(25))]
    assert len(destroyed) > 4
    for packet in destroyed:  # those of the first frames are decoded before the first one comes out
        content[packet.pos + 5 : packet.pos + packet.size] = bytes(packet.size - 5)
    path.write_bytes(content)
    assert np.array_equal(streamed_frames(path, wanted), [expected[number] for number in sorted(wanted)])
    with pytest.raises(VideoError, match="decoding stops"):
        streamed_frames(path, range(45))


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
