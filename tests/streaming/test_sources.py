"""What may follow --stream."""

import errno
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import av
import pytest

from tests.datasets.made_videos import encode, moving_scene
from tests.patience import PATIENCE
from tests.streaming.senders import gray_video
from timesformer.errors import UserError
from timesformer.streaming.connection import Connection, StreamError
from timesformer.streaming.sources import is_stream, parse_source, public_name


@pytest.mark.parametrize(
    ("text", "platform", "address", "form"),
    [
        ("0", "linux", "/dev/video0", "v4l2"),
        ("/dev/video2", "linux", "/dev/video2", "v4l2"),
        ("1", "darwin", "1:none", "avfoundation"),
    ],
)
def test_cameras(text: str, platform: str, address: str, form: str):
    source = parse_source(text, platform)
    assert (source.kind, source.address, source.format) == ("camera", address, form)


def test_pipes(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    assert parse_source("-").kind == parse_source(str(tmp_path / "pipe")).kind == "pipe"


@pytest.mark.parametrize("url", ["rtsp://h/x", "RTSPS://h:1/x", "rtmp://h/a/b", "https://h/x.m3u8", "udp://@:5000"])
def test_addresses_and_their_protocols(url: str):
    source = parse_source(url)
    assert (source.kind, source.address) == ("network", url)
    allowed = source.options["protocol_whitelist"].split(",")
    assert url.partition(":")[0].lower() in allowed
    assert not {"file", "data", "concat", "pipe", "unix"}.intersection(allowed)


@pytest.mark.parametrize(
    "text", ["srt://h/x", "file:///etc/passwd", "udps://h:1", "rtsp://", "http://h:x/", "missing.mp4", ".", __file__]
)
def test_what_is_no_stream(text: str):
    with pytest.raises(UserError):
        parse_source(text)


def test_windows_knows_cameras_by_name(monkeypatch: pytest.MonkeyPatch):
    devices = [av.DeviceInfo("Microphone", "", False, ["audio"]), av.DeviceInfo("Front", "", True, ["video"])]
    monkeypatch.setattr(av, "enumerate_input_devices", lambda form: devices)
    assert parse_source("0", "win32").address == "video=Front"
    with pytest.raises(UserError, match="Front"):
        parse_source("1", "win32")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("rtsp://u:secret@h:554/x/y", "rtsp://h:554/x/y"),
        ("http://h/video?user=u&pwd=secret", "http://h/video"),
        ("https://h/x#secret", "https://h/x"),
        ("rtsp://u:sec@ret@h/x", "rtsp://h/x"),
        ("rtsp://u:sec/ret@h/x", "rtsp://h/x"),
        ("rtsp://u:sec?ret@h/x", "rtsp://h/x"),
        ("rtsp://[::1]:554/x", "rtsp://[::1]:554/x"),
        ("rtsp://h/user=u_password=secret_channel=1.sdp", "rtsp://h/..."),
        ("udp://@:5000?localaddr=x", "udp://@:5000"),
        ("https://h/@channel/live", "https://h/@channel/live"),
    ],
)
def test_passwords_are_not_shown(url: str, name: str):
    assert public_name(url) == name
    assert "secret" not in repr(parse_source(url)) if "/ret" not in url and "?ret" not in url else True


def test_which_video_arguments_are_streams(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    streams = ["-", "rtsp://h/x", "HTTP://h/x", "/dev/video0", "/dev/null", str(tmp_path / "pipe")]
    assert list(map(is_stream, streams)) == [True] * 6
    assert list(map(is_stream, ["clip.mp4", "0", "missing", str(tmp_path), __file__])) == [False] * 5


@pytest.mark.skipif(sys.platform == "darwin", reason="PyAV has AVFoundation on macOS")
def test_a_camera_that_this_build_cannot_open():
    with pytest.raises(StreamError, match="build of PyAV has no avfoundation"):
        Connection(parse_source("0", "darwin"), timeout=1)


def test_a_camera_without_a_new_picture_is_asked_again(tmp_path: Path):
    os.mkfifo(pipe := tmp_path / "pipe")
    threading.Thread(target=pipe.write_bytes, args=(gray_video(range(20)),), daemon=True).start()
    with Connection(parse_source(str(pipe)), timeout=PATIENCE) as connection:
        container, asked = connection._container, []

        class Hesitant:
            close = container.close

            def demux(self, stream: object) -> Iterator[av.Packet]:
                asked.append(stream)
                if len(asked) <= 2:
                    raise av.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
                yield from container.demux(stream)

        connection._container = Hesitant()
        assert len(list(connection.frames())) == 20
    assert len(asked) == 3


def test_an_interrupt_while_a_pipe_is_opened_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stalled(io.BytesIO):
        def read1(self, size: int) -> bytes:
            raise KeyboardInterrupt(15)

    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=Stalled()))
    with pytest.raises(KeyboardInterrupt) as caught:
        Connection(parse_source("-"), timeout=1)
    assert caught.value.args == (15,)


def test_an_mp4_file_with_its_index_at_the_end_is_read_from_a_file_but_not_from_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = encode(tmp_path / "clip.mp4", moving_scene(20, 320, 240), "mjpeg", format_options={})
    content = video.read_bytes()
    assert content.index(b"moov") > 2**17  # it is read before the frames only by seeking
    with video.open("rb") as file:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=file))
        with Connection(parse_source("-"), timeout=PATIENCE) as connection:
            assert len(list(connection.frames())) == 20
    os.mkfifo(pipe := tmp_path / "pipe")
    threading.Thread(target=write_until_closed, args=(pipe, content), daemon=True).start()
    with Connection(parse_source(str(pipe)), timeout=PATIENCE) as connection, pytest.raises(StreamError) as caught:
        list(connection.frames())
    assert str(pipe) in str(caught.value)
    assert "faststart" in str(caught.value)


def test_an_empty_pipe_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO())))
    with pytest.raises(StreamError, match="standard input: it is empty"):
        Connection(parse_source("-"), timeout=1)


def write_until_closed(pipe: Path, content: bytes) -> None:
    with suppress(BrokenPipeError):
        pipe.write_bytes(content)
