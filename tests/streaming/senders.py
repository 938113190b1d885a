"""Senders of streams on this machine: HTTP and RTSP servers that do what a test says, connection after connection."""

import io
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import av
import numpy as np

from tests.patience import PATIENCE

FPS = 10


def gray_video(levels: Sequence[int], form: str = "mpegts", codec: str = "mpeg2video", size: int = 32) -> bytes:
    """A video of gray frames, 10 per second."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.width = stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 1
        for level in levels:
            frame = av.VideoFrame.from_ndarray(np.full((size, size, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


Script = Callable[[Callable[[bytes], None]], None]
"""What a connection sends; it gets the function that sends bytes, which raises OSError when the receiver is gone."""


class Sender:
    """A server on 127.0.0.1; the n-th connection runs the n-th script, later ones are refused. A context manager."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.requests: list[str] = []  # first line of each request
        self.stopped = threading.Event()  # set at the end, so that a script that stalls ends

    def __enter__(self) -> "Sender":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._listening.close()

    def stall(self) -> None:
        """Send nothing until the test ends."""
        self.stopped.wait(PATIENCE)

    def _accept(self) -> None:
        for script in self._scripts:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, script), daemon=True).start()
        self._listening.close()  # further attempts are refused

    def _serve(self, connection: socket.socket, script: Script) -> None:
        with connection, suppress(OSError):  # the receiver may have gone
            self.answer(connection, script)

    def answer(self, connection: socket.socket, script: Script) -> None:
        raise NotImplementedError


class HttpSender(Sender):
    """Sends without a length, as live streams are sent."""

    content_type = "video/mp2t"

    def answer(self, connection: socket.socket, script: Script) -> None:
        self.requests.append(next(_requests(connection))[0])
        connection.sendall(f"HTTP/1.0 200 OK\r\nContent-Type: {self.content_type}\r\n\r\n".encode())
        script(connection.sendall)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/live"


class RtspSender(Sender):
    """Sends MPEG-TS in RTP packets over the RTSP connection (RFC 2326, 10.12; RFC 2250)."""

    _SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track0\r\n"

    def answer(self, connection: socket.socket, script: Script) -> None:
        for first, headers in _requests(connection):
            self.requests.append(first)
            method, more, body = first.split()[0], "", ""
            if method == "DESCRIBE":
                more, body = f"Content-Type: application/sdp\r\nContent-Length: {len(self._SDP)}\r\n", self._SDP
            elif method == "SETUP":
                more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            elif method == "OPTIONS":
                more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            answer = f"RTSP/1.0 200 OK\r\nCSeq: {headers['cseq']}\r\nSession: 1\r\n{more}\r\n{body}"
            connection.sendall(answer.encode())
            if method == "PLAY":
                self._sequence = 0
                script(lambda data: self._send(connection, data))
                return

    def _send(self, connection: socket.socket, data: bytes) -> None:
        for start in range(0, len(data), 7 * 188):
            payload = data[start : start + 7 * 188]
            rtp = struct.pack(">BBHII", 0x80, 33, self._sequence & 0xFFFF, 0, 1) + payload
            connection.sendall(b"$\0" + struct.pack(">H", len(rtp)) + rtp)
            self._sequence += 1

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/live"


def _requests(connection: socket.socket) -> Iterator[tuple[str, dict[str, str]]]:
    """First line and headers of each request."""
    with connection.makefile("rb") as file:
        while lines := list(iter(lambda: file.readline().strip().decode(), "")):
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            yield lines[0], headers


def jpeg_part(image: bytes) -> bytes:
    """A part of a Motion JPEG stream over HTTP (multipart/x-mixed-replace)."""
    return b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(image), image)
