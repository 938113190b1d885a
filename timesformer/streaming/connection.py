"""One connection to a stream: its frames in order, with times, until it ends or breaks."""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from urllib.parse import urlsplit

import av
import numpy as np

from timesformer.datasets.decoding.base import MAX_PIXELS
from timesformer.datasets.decoding.frame_pixels import RgbConverter
from timesformer.errors import UserError, counted
from timesformer.streaming.sources import Source, camera_names

Clock = Callable[[], float]

UNDECODABLE = 250
"""Packets in a row without a frame after which a stream counts as broken: 10 seconds at 25 packets per second."""

_MOST_HELD = 64  # packets in a decoder, more than H.264 and H.265 allow
_POLL = 0.005  # seconds until a camera is asked for a picture again
# These containers hold no times: FFmpeg counts frames at a rate that it assumes.
_WITHOUT_TIMES = frozenset({"mpjpeg", "mjpeg", "jpeg_pipe", "h264", "hevc", "m4v", "mpegvideo"})
_ARRIVAL_TIME_BASE = Fraction(1, 1_000_000)
_ERRORS = (av.FFmpegError, OSError, ValueError, IndexError)
_UNAUTHORIZED = tuple(getattr(av.error, f"HTTP{kind}Error") for kind in ("Unauthorized", "Forbidden"))


class StreamError(UserError):
    """A stream that cannot be opened, or has broken; the message names it, without a password."""


@dataclass(frozen=True, eq=False)
class StreamFrame:
    """A received frame.

    Attributes:
        tick: when it is shown, in units of the connection's `time_base`; rising, except where the sender starts again.
        received: when it was received, in seconds on the receiver's clock; the decoder may hold it back after that.
        image: uint8 [height, width, 3], RGB; frames of a connection have one size.
    """

    tick: int
    received: float
    image: np.ndarray


class Connection:
    """An open stream; a context manager.

    Attributes:
        is_finite: whether its length is known, as that of a video file on a web server is.
        fps: nominal frames per second; 0 if unknown.
        time_base: duration of a tick in seconds.
    """

    def __init__(self, source: Source, timeout: float, short_side: int = 0, clock: Clock = time.monotonic) -> None:
        """Connect, which takes at most twice `timeout` seconds; StreamError if that fails.

        Larger frames are scaled down to `short_side` pixels (0: as they are).
        """
        self._source, self._timeout, self._clock = source, timeout, clock
        self._to_rgb = RgbConverter(short_side)
        self._file = file = None
        try:
            self._file = file = source.file()
            limits = None if file else (2 * timeout, timeout)
            address = file or source.address
            self._container = av.open(address, format=source.format, options=source.options, timeout=limits)
        except _ERRORS as error:
            if file and file.interrupt:
                raise file.interrupt from None
            reason = "it is empty" if file and file.is_empty else _why_not_opened(source, error, 2 * timeout)
            raise StreamError(f"{source.name}: {reason}") from None
        try:
            if file and file.interrupt:
                raise file.interrupt
            self._select_stream()
        except BaseException:
            self.close()
            raise

    def _select_stream(self) -> None:
        stream = self._container.streams.best("video")
        if stream is None or stream.codec_context is None:
            found = ", ".join(stream.type for stream in self._container.streams) or "no streams"
            problem = f"found {found}, expected a video that can be decoded"
            raise StreamError(f"{self._source.name}: {problem}; did the connection break?")
        self._stream, self._decoder = stream, stream.codec_context
        self._decoder.thread_count = 1  # the others are for the model; threads by frame would delay each frame
        self._decoder.options = {"max_pixels": str(MAX_PIXELS)}
        self.is_finite = bool(self._container.duration) and self._source.kind != "camera"
        rate = stream.average_rate or stream.guessed_rate or 0
        self._is_mpjpeg = self._container.format.name == "mpjpeg"
        self._has_times = self._container.format.name not in _WITHOUT_TIMES
        # Without times, frames of a pipe are counted; frames from a network are shown when they come.
        self._is_counted = not self._has_times and self._source.kind == "pipe" and rate > 0
        self.fps = float(rate) if self._has_times or self._is_counted else 0.0
        self.time_base = stream.time_base if self._has_times else 1 / rate if self._is_counted else _ARRIVAL_TIME_BASE

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the connection; not while another thread takes frames from it."""
        with suppress(*_ERRORS):
            self._container.close()

    def frames(self) -> Iterator[StreamFrame]:
        """Yield frames until the stream ends; StreamError if it breaks, or nothing comes for `timeout` seconds."""
        size, tick = (0, 0), 0
        self._number = 0
        step = round(1 / (self.fps * self.time_base)) if self.fps else 1
        arrivals: dict[int | None, float] = {}  # of the packets in the decoder, by the time their frame is shown
        for packet, arrival in self._packets():
            if len(arrivals) > _MOST_HELD:  # packets without a frame
                arrivals.clear()
            arrivals[packet.pts] = arrival
            for frame in self._decode(packet):
                received = arrivals.pop(frame.pts, arrival) if self._has_times else arrival
                size = size if self._number else (frame.width, frame.height)
                if not self._has_times:
                    tick = self._number if self._is_counted else round(received / self.time_base)
                else:
                    tick = tick + step if frame.pts is None else frame.pts
                self._number += 1
                yield StreamFrame(tick, received, self._to_rgb(frame, size))
        if not self._number:
            raise StreamError(f"{self._source.name}: {self._why_no_frame()}")

    def _packets(self) -> Iterator[tuple[av.Packet, float]]:
        fruitless, packets, last = 0, self._container.demux(self._stream), self._clock()
        while True:
            try:
                packet = next(packets, None)
            except (EOFError, IndexError):
                return
            except BlockingIOError:  # AVFoundation has no new picture
                if self._clock() > last + self._timeout:
                    raise StreamError(f"{self._source.name}: no data for {self._timeout:g} seconds") from None
                time.sleep(_POLL)
                packets = self._container.demux(self._stream)
                continue
            except _ERRORS as error:
                if self._is_end(error):
                    yield av.Packet(), self._clock()  # the decoder may hold frames back
                    return
                raise StreamError(f"{self._source.name}: {self._why_ended(error)}") from None
            if packet is None:
                return
            self._decoded, last = False, self._clock()
            yield packet, last
            fruitless = 0 if self._decoded else fruitless + 1
            if fruitless > UNDECODABLE:
                raise StreamError(f"{self._source.name}: {UNDECODABLE} packets in a row could not be decoded")

    def _why_no_frame(self) -> str:
        if self._file and not self._file.seekable() and "mov" in self._container.format.name.split(","):
            others = "or write it with `-movflags +faststart` or `-f matroska`"
            return (
                f"an MP4 file with its index at the end cannot be read from a pipe: use `--stream - < FILE`, {others}"
            )
        return "it ended before the first frame"

    def _why_ended(self, error: Exception) -> str:
        reason = _why_broken(error, self._timeout)
        if self._source.kind != "network" or not self.is_finite or getattr(error, "errno", None) != errno.EIO:
            return reason
        if self._number:
            frames = counted(self._number, "frame")
            return f"{reason}: the connection broke after {frames}, before the end of the file; download it"
        cause = "the server needs byte ranges, or the file `ffmpeg -movflags +faststart`; or the connection broke"
        return f"{reason} before the first frame: {cause}"

    def _is_end(self, error: Exception) -> bool:
        """Whether the sender has closed the connection: FFmpeg reports an error if no length was announced."""
        if self._source.kind == "pipe":
            return True
        is_closed = getattr(error, "errno", None) == errno.EIO and not self.is_finite
        return is_closed or (self._is_mpjpeg and isinstance(error, av.InvalidDataError))

    def _decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        # After a loss, and before the first key frame, some packets cannot be decoded.
        with suppress(*_ERRORS):
            frames = self._decoder.decode(packet if packet.size else None)
            self._decoded = bool(frames)
            return frames
        return []


def _why_broken(error: Exception, seconds: float) -> str:
    if isinstance(error, av.ExitError):
        return f"no data for {seconds:g} seconds"
    return getattr(error, "strerror", None) or type(error).__name__


def _why_not_opened(source: Source, error: Exception, seconds: float) -> str:
    """What was found, what was expected and what to do; `error` may hold the address, and is not quoted."""
    reason, code = _why_broken(error, seconds), getattr(error, "errno", None)
    if source.kind == "camera":
        return _why_no_camera(source, reason, code)
    if isinstance(error, av.error.ProtocolNotFoundError):
        kind = source.address.partition("://")[0]
        return f"this build of PyAV has no {kind}: pipe it in, `ffmpeg -i ADDRESS -c copy -f mpegts - | ... --stream -`"
    if isinstance(error, _UNAUTHORIZED):
        return f"{reason}: user name and password go into the address, {source.address.partition('://')[0]}://USER:PASSWORD@..."
    if isinstance(error, av.InvalidDataError):
        content = "MPEG-TS, Matroska, WebM, FLV, NUT, YUV4MPEG, ..."
        if source.kind == "pipe":
            return f"what came in is not a video that can be decoded while it is read, expected {content}"
        found = f"what it sends is not a video, or the connection broke: {reason}"
        return f"{found}; expected a complete MP4 file, {content}, Motion JPEG or HLS"
    if code == errno.ECONNREFUSED:
        return f"{reason}: nothing listens at this host and port; check the address, and that the server runs"
    if source.kind == "network" and not _resolves(source.address):
        return "the name of the host is unknown; check the address and the network"
    return f"cannot be opened: {reason}; check the address, and that it plays with `ffplay ADDRESS`"


def _resolves(url: str) -> bool:
    try:
        socket.getaddrinfo(urlsplit(url).hostname, None)
    except OSError:
        return False
    return True


def _why_no_camera(source: Source, reason: str, code: int | None) -> str:
    if code is None:  # not FFmpeg's error
        return f"this build of PyAV has no {source.format}, which cameras need: pip install --force-reinstall av"
    if source.format != "v4l2":
        advice = "check its number, that no other program uses it, and the privacy settings for cameras"
        found = ", ".join(f"{number} is {name}" for number, name in enumerate(camera_names(source.format))) or "none"
        return f"the camera cannot be opened: {reason}; found cameras: {found}; {advice}"
    path = source.address
    if code == errno.ENOENT:
        found = sorted(name for name in os.listdir("/dev") if name.startswith("video"))
        cameras = ", ".join(f"/dev/{name}" for name in found) or "no cameras"
        return f"there is no {path}; found {cameras}. A container needs --device {path}"
    if code in (errno.EACCES, errno.EPERM):
        return f"no permission to read {path}: `sudo usermod -aG video $USER`, then log in again"
    if code == errno.EBUSY:
        return f"{path} is in use by another program (`fuser {path}`)"
    if code in (errno.ENOTTY, errno.EINVAL, errno.ENODEV, errno.ENXIO):
        return f"{path} is not a camera that sends pictures; many cameras have two devices, try the other numbers"
    return f"the camera cannot be opened: {reason}"
