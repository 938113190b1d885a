"""Frames of a video file by PyAV; only the requested frames and those they depend on are decoded."""

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import partial
from itertools import chain, islice, pairwise

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.stream import VideoStream

from timesformer.datasets.decoding.base import MAX_PIXELS, StreamedFrame, StreamTiming, VideoError, VideoReader, scaled
from timesformer.datasets.decoding.containers import EXTENSIONS_OF, describe_format
from timesformer.datasets.decoding.frame_pixels import RgbConverter, orientation
from timesformer.datasets.decoding.packet_index import FrameIndex, Packets, Segment

LARGEST_KEPT = 2**26  # bytes; the packets of larger files are read again when they are needed
_LIMITS = {"max_pixels": str(MAX_PIXELS)}
_ALLOWED = {"format_whitelist": ",".join(EXTENSIONS_OF), "protocol_whitelist": "file"}
_ERRORS = (av.FFmpegError, OSError, ValueError)
_MPEG_TS = "mpegts"  # lost packets and interlaced frames are common in it
_INTERLACED = 2  # of FFmpeg's AVFieldOrder, this and all above


class UnexpectedFrame(Exception):
    """What comes out of the decoder differs from what the packets say."""


class _Content(io.BytesIO):
    """A file in memory; FFmpeg gets its name, as the extension may decide which of two formats it is."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


class VideoFile(VideoReader):
    """A clip in a video container.

    Frame i is the i-th that comes out when everything is decoded from the start. The packets are read when the file is
    opened. Where they tell which of them holds which frame (FrameIndex), decoding begins at the last possible key
    frame, and every decoded frame is compared with what they tell. At the first difference, and where packets do not
    tell, everything is decoded from the start.

    The video stream is FFmpeg's choice (av_find_best_stream), never a cover picture. The display matrix is applied.
    Frames of another size than the first are scaled to its size. The sample aspect ratio is ignored. MPEG-TS with lost
    packets is read as far as frames decode.
    """

    def __init__(
        self,
        path: str,
        size: int,
        short_side: int = 0,
        num_frames: int = 0,
        fps: float = 0.0,
        content: bytes | None = None,
    ) -> None:
        """Open a file of `size` bytes; VideoError where it is not a video or is cut short.

        Larger frames are scaled down to `short_side` pixels (0: as they are). `num_frames` is the known number of
        frames (0: as the file has it), `fps` the rate if the file has none (0: the mean of the times of its frames).
        `content` is that of a file in memory, which is not read from `path`.
        """
        super().__init__(path)
        self._content = content
        self._short_side = short_side
        self._to_rgb = RgbConverter(short_side)
        self._kept: list[av.Packet] = []
        self._reread: Iterator[av.Packet] = iter(())
        self._position = 0  # of the next packet that is read again
        self._decoded_times: list[int | None] = []  # of frames decoded from the start
        try:
            with self._open() as container:
                stream = self._select_stream(container)
                self._stream_index, self._time_base = stream.index, stream.time_base
                self.fps = float(stream.average_rate or fps)
                if stream.start_time is not None and container.start_time is not None:
                    self.delay = max(0.0, float(stream.start_time * stream.time_base) - container.start_time / 1e6)
                self._decoder = decoder = _decoder_of(stream)
                self._coded_size = decoder.width, decoder.height
                demuxed = _demux(container, stream)
                if size <= LARGEST_KEPT:
                    demuxed = self._kept = list(demuxed)
                codec, formats = decoder.codec.canonical_name, container.format.name
                packets = Packets.scan(demuxed, codec)
                self._num_packets = len(packets.times)
                reorders = bool(decoder.has_b_frames)
                interlaced = formats == _MPEG_TS and getattr(decoder, "field_order", 0) >= _INTERLACED
                header = stream.frames, float(stream.average_rate or 0), stream.duration or 0
                cut_short = packets.broken
                if len(stream.index_entries) > self._num_packets:
                    cut_short = cut_short or max(entry.pos + entry.size for entry in stream.index_entries) > size
        except _ERRORS as error:
            reason = describe_format(path, content) or f"{_reason(error)}; copy it again, or convert it to MP4"
            raise self._error(f"not a video that can be decoded: {reason}") from error
        self._lossy = packets.broken and formats == _MPEG_TS
        if cut_short and not self._lossy:
            raise self._error(f"cut short: the file ends at byte {size} in the middle of its frames; copy it again")
        if self._decoder.width * self._decoder.height > MAX_PIXELS:
            claimed = f"{self._decoder.width}x{self._decoder.height}"
            raise self._error(f"its frames claim to be {claimed}, more than {MAX_PIXELS} pixels: copy it again")
        self._first_key, self._new_parameters = packets.first_key, packets.new_parameters
        self._skips = _can_skip_others(decoder, packets)
        self._index = FrameIndex(self._hide_undecodable(packets, codec, formats), codec, formats, reorders)
        if self._lossy or interlaced or self._new_parameters:
            self._index.sequential = "packets are lost, hold half a frame, or change the parameters of the codec"
        self.num_frames = num_frames or self._index.num_frames
        if self._index.sequential and self._kept and not num_frames:
            with suppress(VideoError):
                self.num_frames = sum(1 for _ in self._decode_all())
        if not self.num_frames:
            raise self._error("no frames in the video stream: the file is cut short or broken; copy it again")
        if not self.fps and (seconds := self.seconds):
            self.fps = self.num_frames / seconds
        times = [] if self._index.sequential else self._shown_at()
        self.timing = _timing(*header, self._index.num_frames, times)

    def close(self) -> None:
        self._kept, self._reread = [], iter(())

    @property
    def size(self) -> tuple[int, int]:
        _, frame = next(self._from_start([0]))
        width, height = scaled(*self._coded_size, self._short_side)
        return (height, width) if orientation(frame)[0] else (width, height)

    def times(self, numbers: Sequence[int]) -> tuple[float, ...]:
        if self._index.sequential and max(numbers) >= len(self._decoded_times):
            for _ in self._from_start([max(numbers)]):
                pass
        times = self._shown_at()
        if not times:
            return super().times(numbers)
        return tuple(float((times[number] - times[0]) * self._time_base) for number in numbers)

    @property
    def seconds(self) -> float:
        times = self._shown_at()
        if len(times) < max(self.num_frames, 2):
            return super().seconds
        # The last frame is taken to be shown for as long as the others are on average.
        return float((times[-1] - times[0]) * self._time_base) * len(times) / (len(times) - 1)

    @property
    def time_base(self) -> Fraction:
        has_ticks = self._index.sequential or self._shown_at()
        return self._time_base if has_ticks else super().time_base

    def known_ticks(self) -> Sequence[int] | None:
        if self._index.sequential:
            return None
        return self._shown_at() or super().known_ticks()

    def stream(self) -> Iterator[StreamedFrame]:
        known: Sequence[int] | None = None
        last, by_time = -1, False
        for number, frame in enumerate(self._every_frame()):
            if not number:  # decoding the first frame may show that packets do not tell
                known, by_time = self.known_ticks(), bool(self._shown_at()) and not self._index.sequential
                step = round(1 / (Fraction(self.fps) * self._time_base)) if self.fps else 0
            if known is None:  # frames without a time, or with that of an earlier frame, follow at the mean rate
                in_order = frame.pts is not None and (frame.pts > last or not number)
                tick = frame.pts if in_order else last + max(step, 1)
            elif by_time and frame.pts != known[number]:
                raise self._error(f"frame {number} is not shown when the file says; convert it to MP4")
            else:
                tick = known[number]
            last = tick
            yield StreamedFrame(tick, partial(self._to_rgb, frame, self._coded_size))

    def verify(self) -> None:
        for _ in self._every_frame():
            pass

    def _shown_at(self) -> Sequence[int]:
        """Times of frames in the stream's time base, as far as known; empty where they do not rise."""
        times = self._decoded_times if self._index.sequential else self._index.times
        return [] if None in times or any(before >= after for before, after in pairwise(times)) else times

    def _open(self) -> InputContainer:
        # FFmpeg takes large frames of raw Motion JPEG for one JPEG image, and "a:b.mp4" for a protocol.
        is_mjpeg = os.path.splitext(self.path)[1].lower() in EXTENSIONS_OF["mjpeg"]
        options = {**_LIMITS, **_ALLOWED}
        file = os.path.abspath(self.path) if self._content is None else _Content(self._content, self.path)
        return av.open(file, format="mjpeg" if is_mjpeg else None, options=options)

    def _select_stream(self, container: InputContainer) -> VideoStream:
        covers = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & covers]
        if not streams:
            raise self._error(f"no video stream, only {', '.join(s.type for s in container.streams) or 'nothing'}")
        best = container.streams.best("video")
        stream = best if best in streams else streams[0]
        if stream.codec_context is None:
            raise self._error("the codec of its video is unknown here: re-encode it")
        return stream

    def _hide_undecodable(self, packets: Packets, codec: str, formats: str) -> Packets:
        """Hide frames that cannot be decoded because the stream begins after what they refer to."""
        leading = packets.leading(codec, formats)
        if not leading:
            return packets
        try:
            times = {frame.pts for frame in self._decode(0, max(leading))}
        except _ERRORS:
            return packets
        if None in times:
            return packets
        hidden = list(packets.hidden)
        for number in leading:
            hidden[number] = hidden[number] or packets.times[number] not in times
        return packets._replace(hidden=hidden)

    def _frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        if not self._index.sequential and wanted[-1] < self._index.num_frames:
            try:
                for segment in self._index.segments(wanted):
                    for number, frame in self._decode_segment(segment):
                        yield number, self._to_rgb(frame, self._coded_size)
                return
            except (*_ERRORS, UnexpectedFrame) as error:
                self._index.sequential = str(error)
        for number, frame in self._from_start(wanted):
            yield number, self._to_rgb(frame, self._coded_size)

    def _decode_segment(self, segment: Segment) -> Iterator[tuple[int, av.VideoFrame]]:
        missing, last = set(segment.numbers), -1
        begun = not segment.first  # the start of the stream needs no key frame
        for frame in self._decode(segment.first, segment.last, segment.packets):
            number = self._index.number_at(frame.pts)
            if number is None or number <= last:
                raise UnexpectedFrame(f"a frame of time {frame.pts} comes after frame {last}")
            if frame.interlaced_frame:
                raise UnexpectedFrame("interlaced: a packet may hold half a frame")
            if (frame.width, frame.height) != self._coded_size:
                raise UnexpectedFrame("its size is not that of the first frame")
            last = number
            if number == segment.key and segment.first:
                begun = frame.key_frame and frame.pict_type == PictureType.I
            if number in missing:
                if not begun:
                    raise UnexpectedFrame(f"packet {segment.first} holds no key frame")
                missing.remove(number)
                yield number, frame
        if missing:
            raise UnexpectedFrame(f"packets {segment.first} to {segment.last} do not give frame {min(missing)}")

    def _every_frame(self) -> Iterator[av.VideoFrame]:
        """Every frame; afterwards, `num_frames` is their number."""
        decoded = 0
        for frame in islice(self._decode_all(), self.num_frames):
            decoded += 1
            yield frame
        # Where packets tell which frames there are, one that does not come out is damaged.
        if decoded < self.num_frames and not (self._index.sequential and decoded):
            raise self._missing(decoded, decoded)
        self.num_frames = decoded

    def _every_image(self) -> Iterator[np.ndarray]:
        return (self._to_rgb(frame, self._coded_size) for frame in self._every_frame())

    def _from_start(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode everything up to the last of these frames."""
        decoded, targets = 0, set(wanted)
        for frame in self._decode_all():
            if decoded in targets:
                yield decoded, frame
                if decoded == wanted[-1]:
                    return
            decoded += 1
        raise self._missing(next(number for number in wanted if number >= decoded), decoded)

    def _missing(self, number: int, decoded: int) -> VideoError:
        promised, self.num_frames = self.num_frames, decoded
        return self._error(f"frame {number} is missing: the file promises {promised} frames, but {decoded} decode")

    def _decode_all(self) -> Iterator[av.VideoFrame]:
        """All frames that come out, from the start; VideoError where decoding stops."""
        decoded = 0
        try:
            for frame in self._decode(0, self._num_packets - 1):
                if not decoded:
                    self._coded_size = frame.width, frame.height
                if decoded == len(self._decoded_times):
                    self._decoded_times.append(frame.pts)
                if frame.interlaced_frame:
                    self._index.sequential = "interlaced: a packet may hold half a frame"
                decoded += 1
                yield frame
        except _ERRORS as error:
            sized = self._decoder.width and self._decoder.height
            reason = _reason(error) if sized else f"its frames have no size, or claim more than {MAX_PIXELS} pixels"
            raise self._error(f"decoding stops after frame {decoded} of {self.num_frames} ({reason})") from error

    def _decode(self, first: int, last: int, only: frozenset[int] | None = None) -> Iterator[av.VideoFrame]:
        """Frames of the packets `first` to `last`; packets not in `only` are decoded only if others refer to them."""
        # A decoder would keep the parameters that it got last, and conceal losses by frames that it decoded before.
        if self._new_parameters or self._lossy:
            with self._open() as container:
                self._decoder = _decoder_of(container.streams[self._stream_index])
        decoder = self._decoder
        decoder.flush_buffers()
        skipping = ""
        for number, packet in enumerate(self._packets(first, last), first):
            skip = "NONREF" if self._skips and only is not None and number not in only else "DEFAULT"
            if skip != skipping:
                decoder.skip_frame = skipping = skip
            # Before the first key frame, packets refer to what came before the start of the stream.
            yield from self._decode_packet(packet, tolerant=self._lossy or number < self._first_key)
        yield from self._decode_packet(None, tolerant=self._lossy)

    def _decode_packet(self, packet: av.Packet | None, tolerant: bool) -> list[av.VideoFrame]:
        with suppress(*_ERRORS if tolerant else ()):
            return self._decoder.decode(packet)
        return []

    def _packets(self, first: int, last: int) -> Iterable[av.Packet]:
        if self._kept:
            return self._kept[first : last + 1]
        if not self._position or first < self._position:
            self._reread, self._position = self._read_again(), 0
        packets = islice(self._reread, first - self._position, last + 1 - self._position)
        self._position = last + 1
        return packets

    def _read_again(self) -> Iterator[av.Packet]:
        with self._open() as container:
            yield from _demux(container, container.streams[self._stream_index])


def _timing(num_frames: int, fps: float, duration: int, shown: int, times: Sequence[int]) -> StreamTiming | None:
    """What the header says of a stream (0: nothing), with the number and the times of the frames shown, if known."""
    if duration <= 0 or not fps or not (num_frames or shown):
        return None
    # The original compares times as they are with a clip's start, which it counts from 0. It cannot read formats whose
    # header has no number of frames, such as MPEG-TS; their times start anywhere.
    if times and (not num_frames or times[0] >= duration):
        times = [time - times[0] for time in times]
    return StreamTiming(num_frames or shown, fps, duration, times)


def _decoder_of(stream: VideoStream) -> VideoCodecContext:
    decoder = stream.codec_context
    decoder.thread_count = 1  # there is a DataLoader worker for every core
    decoder.options = _LIMITS
    return decoder


def _demux(container: InputContainer, stream: VideoStream) -> Iterable[av.Packet]:
    packets = _nonempty_packets(container, stream)
    if stream.codec_context.codec.canonical_name != "mpeg4":
        return packets
    first = list(islice(packets, 1))
    packets = chain(first, packets)
    # Old encoders may put a B-frame into the packet of the frame before it, and leave the next packet empty.
    if not any(b"DivX" in data for data in (stream.codec_context.extradata or b"", *map(bytes, first))):
        return packets
    unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
    return (unpacked for packet in packets for unpacked in unpack.filter(packet))


def _nonempty_packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    # PyAV may raise IndexError after the last packet of a file in which other streams began after it was opened.
    with suppress(IndexError):
        yield from (packet for packet in container.demux(stream) if packet.size)


def _can_skip_others(decoder: VideoCodecContext, packets: Packets) -> bool:
    """Whether there are frames that no other frame refers to, and the decoder can leave out exactly those."""
    codec = decoder.codec.canonical_name
    if codec == "hevc":
        # "Not referred to" holds within one temporal layer. ISO/IEC 14496-15, 8.3.3.1: numTemporalLayers, 0 if unknown.
        extra = decoder.extradata or b""
        return len(extra) > 21 and extra[0] == 1 and extra[21] >> 3 & 7 == 1
    return codec == "h264" or any(packets.b_vops)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
