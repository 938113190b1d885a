"""What a stream may be: a camera, an address on the network, or a pipe."""

import os
import re
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import urlsplit

import av

from timesformer.datasets.decoding.base import MAX_PIXELS
from timesformer.datasets.decoding.containers import EXTENSIONS_OF
from timesformer.errors import UserError

EXPECTED = """expected a camera (0 or /dev/video0), an address (rtsp://, rtsps://, rtmp://, rtmps://, http://, https://,
udp://), a named pipe, or - for the standard input""".replace("\n", " ")

_CAMERA_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
_CONTAINERS = [*EXTENSIONS_OF, "yuv4mpegpipe", "jpeg_pipe"]
_SECURE = "tcp,tls,crypto,httpproxy"
_PROTOCOLS = {
    "http": f"http,https,{_SECURE}",
    "rtsp": f"rtsp,rtsps,rtp,udp,http,https,{_SECURE}",
    "rtmp": f"rtmp,rtmps,{_SECURE}",
    "udp": "udp",
}
_NETWORK_FORMATS = {
    "http": [*_CONTAINERS, "mpjpeg", "hls", "aac", "webvtt"],
    "rtsp": ["rtsp", "rtp", "sdp", "mpegts"],
    "rtmp": ["flv"],
    "udp": ["mpegts"],
}
# A playlist can name other addresses, but no local files: the protocol `file` is not among those above.
_NETWORK_OPTIONS = {
    "rtsp": {"rtsp_flags": "prefer_tcp"},  # UDP loses packets
    "rtmp": {"rtmp_live": "live"},
    "udp": {"overrun_nonfatal": "1"},
}


class PipeFile:
    """A pipe, or a file in its place, for PyAV, which would print and forget a KeyboardInterrupt in `read`.

    `interrupt` is the first one; from then on, the pipe is at its end. `is_empty`: nothing has been read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._is_file = False
        with suppress(OSError):
            self._is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode) and not file.tell()
        self.interrupt: KeyboardInterrupt | None = None
        self.is_empty = True

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, as soon as there are some; none at the end."""
        if self.interrupt:
            return b""
        try:
            data = self._file.read1(size)
        except KeyboardInterrupt as interrupt:
            self.interrupt = interrupt
            return b""
        self.is_empty = self.is_empty and not data
        return data

    def seekable(self) -> bool:
        """Return whether it is a file, as in `command < file`."""
        return self._is_file

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position of a file in bytes, which is returned."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the position in a file in bytes."""
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Source:
    """Where a stream comes from.

    Attributes:
        kind: camera, network or pipe.
        address: path, URL or device name for FFmpeg, which may hold a password; "-" for the standard input.
        name: the address without user name, password and query, for messages and files.
        format: FFmpeg's input format; None: found out from the content.
        options: FFmpeg's options.
    """

    kind: str
    address: str = field(repr=False)
    name: str
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)

    def file(self) -> PipeFile | None:
        """Return the file to read a pipe from, None for other sources. Opening a named pipe waits for its writer."""
        if self.kind != "pipe":
            return None
        return PipeFile(sys.stdin.buffer if self.address == "-" else open(self.address, "rb"))


def is_stream(text: str) -> bool:
    """Return whether a video argument is a stream: an address, a device, a named pipe or the standard input."""
    if text == "-" or re.match(r"(rtsps?|rtmps?|https?|udp|srt|rtp|mms|tcp)://", text, re.IGNORECASE):
        return True
    try:
        mode = os.stat(text).st_mode
    except (OSError, ValueError):
        return text.startswith("/dev/video")
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def parse_source(text: str, platform: str = sys.platform) -> Source:
    """Return what `text` names; UserError if it is not a stream. Nothing is opened."""
    if text == "-":
        return _pipe("-", "standard input")
    if "://" in text:
        return _network(text)
    if text.isdecimal():
        return _camera(text, platform)
    if os.path.isdir(text) or os.path.isfile(text):
        raise UserError(f"{text} is a file or folder, {EXPECTED}; predict a file without --stream, or use --timeline")
    try:
        mode = os.stat(text).st_mode
    except OSError as error:
        if platform.startswith("linux") and text.startswith("/dev/"):
            return _camera(text, platform)
        raise UserError(f"{text}: {error.strerror}; {EXPECTED}") from error
    return _pipe(text, text) if stat.S_ISFIFO(mode) else _camera(text, platform)


def _pipe(address: str, name: str) -> Source:
    return Source("pipe", address, name, options=_options(_CONTAINERS))


def _options(formats: list[str], **others: str) -> dict[str, str]:
    return {"max_pixels": str(MAX_PIXELS), "format_whitelist": ",".join(formats), **others}


def _camera(text: str, platform: str) -> Source:
    key = "linux" if platform.startswith("linux") else platform
    if key not in _CAMERA_FORMATS:
        raise UserError(f"{text}: cameras are supported on Linux, macOS and Windows, not on {platform}")
    options = {"max_pixels": str(MAX_PIXELS)}
    address = f"/dev/video{text}" if text.isdecimal() and key == "linux" else text
    if key == "darwin":
        address, options["framerate"] = f"{text}:none", "30"  # no sound; most cameras refuse 29.97, its default
    if key == "win32":
        address = f"video={_directshow_name(int(text)) if text.isdecimal() else text}"
    return Source("camera", address, f"camera {text}" if text.isdecimal() else text, _CAMERA_FORMATS[key], options)


def camera_names(form: str) -> list[str]:
    """Return the names of the cameras that FFmpeg finds with an input format, in order; [] if it cannot list them."""
    try:
        devices = av.enumerate_input_devices(form)
    except (av.FFmpegError, ValueError):
        return []
    return [device.name for device in devices if "video" in device.media_types]


def _directshow_name(number: int) -> str:
    """Return the name of a camera on Windows, where FFmpeg knows cameras by name only."""
    names = camera_names("dshow")
    if number >= len(names):
        raise UserError(f"camera {number}: found {len(names)} cameras ({', '.join(names) or 'none'}), numbered from 0")
    return names[number]


def _network(url: str) -> Source:
    name = public_name(url)
    scheme = url.partition("://")[0].lower()
    family = scheme.removesuffix("s") if scheme != "https" else "http"
    if family not in _PROTOCOLS or (family == "udp" and scheme != "udp"):
        raise UserError(f"{name}: {scheme}:// is not supported, {EXPECTED}")
    try:
        host, port = urlsplit(url).hostname, urlsplit(url).port
    except ValueError:  # its text may hold a part of a password
        expected = f"expected {scheme}://HOST:PORT/PATH; a password needs %2F for /, %3F for ?, %23 for #, %40 for @"
        raise UserError(f"{name}: host and port cannot be read, {expected}") from None
    if not host and not (family == "udp" and port):
        raise UserError(f"{name}: no host, expected {scheme}://HOST:PORT/PATH")
    allowed = {"protocol_whitelist": _PROTOCOLS[family]} | _NETWORK_OPTIONS.get(family, {})
    return Source("network", url, name, options=_options(_NETWORK_FORMATS[family], **allowed))


def public_name(url: str) -> str:
    """Return a URL without user name, password, query and fragment, any of which may hold a secret.

    A path with something like `password=` is left out too. If the port is not a number, so is all that comes before the
    last @, because it may be part of a password that is not percent-encoded.
    """
    scheme, separator, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in rest and "@" not in authority and re.search(r":(?!\d*$)", authority.rpartition("]")[2]):
        rest = rest.rpartition("@")[2]
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority, slash, path = rest.partition("/")
    path = "..." if re.search(r"(pass|pwd|token|key|secret)\w*[=:]", path, re.IGNORECASE) else path
    host = authority if authority.startswith("@:") else authority.rpartition("@")[2]  # udp://@:PORT has no user
    return f"{scheme}{separator}{host}{slash}{path}"
