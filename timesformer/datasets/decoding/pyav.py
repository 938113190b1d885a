"""Frames of a video file by PyAV: what the frames asked for depend on is decoded, and they alone are converted."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice, pairwise
from math import cos, radians, sin

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from timesformer.datasets.decoding.base import MAX_PIXELS, StreamTiming, VideoError, VideoReader, scaled
from timesformer.datasets.decoding.containers import EXTENSIONS_OF
from timesformer.datasets.decoding.orientation import UPRIGHT, Orientation, from_display_matrix
from timesformer.datasets.decoding.packet_index import (
    FrameTable,
    PacketFacts,
    Segment,
    first_key,
    is_b_vop,
    leading,
    vpx_hidden,
)
from timesformer.datasets.decoding.unsupported import describe_format

LARGEST_KEPT = 2**26  # bytes; of a larger file the packets are read again when they are needed
_LIMITS = {"max_pixels": str(MAX_PIXELS)}
_ALLOWED = {"format_whitelist": ",".join(EXTENSIONS_OF), "protocol_whitelist": "file"}
_ERRORS = (av.FFmpegError, OSError, ValueError)
BROADCAST = "mpegts"  # format of streams in which lost packets and interlaced frames are common
INTERLACED = 2  # of FFmpeg's AVFieldOrder, this and all above


class UnexpectedFrame(Exception):
    """What comes out of the decoder is not what the packets say."""


class VideoFile(VideoReader):
    """A clip in a video container.

    Frame number i is the i-th that comes out when everything is decoded from the start. The packets are read when the
    file is opened, and kept, as a clip is small while it is compressed. Where they tell which of them holds which frame
    (FrameTable), decoding begins at the last key frame that will do, and every frame that comes out is compared with
    what they tell. At the first difference, and where they do not tell, everything is decoded from the start.

    Of several video streams, the one that FFmpeg selects is read (av_find_best_stream: one flagged as default before
    the others, then the one of the highest bit rate, then the first); cover pictures never are. Frames are turned and
    flipped as the display matrix says. Those of another size than the first one are scaled to its size. The sample
    aspect ratio is ignored. MPEG-TS with lost packets is read as far as frames decode.

    short_side: larger frames are scaled down to it while they are converted; 0: never.
    num_frames: as known beforehand; 0: as the file has it.
    fps: for a file that does not say; 0: unknown, and then the mean of the times of its frames.
    """

    def __init__(self, path: str, size: int, short_side: int = 0, num_frames: int = 0, fps: float = 0.0) -> None:
        """size: bytes of the file. Raises VideoError where it is no video, or is cut short."""
        super().__init__(path)
        self._short_side = short_side
        self._scaler, self._converter = VideoReformatter(), VideoReformatter()
        self._kept: list[av.Packet] = []
        self._again: Iterator[av.Packet] | None = None
        self._position = 0
        self._decoded_times: list[int | None] = []  # of the frames, as far as they were decoded from the start
        try:
            with self._open() as container:
                stream = self._stream(container)
                self._stream_index, self._time_base = stream.index, stream.time_base
                self.fps = float(stream.average_rate or fps)
                self._decoder = decoder = _decoder_of(stream)
                self._coded_size = decoder.width, decoder.height
                packets = self._demux(container, stream)
                if size <= LARGEST_KEPT:
                    packets = self._kept = list(packets)
                codec, self._format = decoder.codec.canonical_name, container.format.name
                facts, broken, self._changes = _facts_of(packets, codec)
                self._num_packets = len(facts.times)
                self._first_key = first_key(facts)
                self._lossy = broken and self._format == BROADCAST
                self._skips = _can_skip_others(decoder, facts)
                reorders = bool(decoder.has_b_frames)
                interlaced = self._format == BROADCAST and getattr(decoder, "field_order", 0) >= INTERLACED
                header = stream.frames, float(stream.average_rate or 0), stream.duration or 0
                if len(stream.index_entries) > self._num_packets:
                    broken = broken or max(entry.pos + entry.size for entry in stream.index_entries) > size
        except _ERRORS as error:
            reason = describe_format(path) or f"{_reason(error)}; copy it again, or convert it to MP4"
            raise self._error(f"not a video that can be decoded: {reason}") from error
        if broken and not self._lossy:
            raise self._error(f"cut short: the file ends at byte {size} in the middle of its frames; copy it again")
        if (width := self._decoder.width) * (height := self._decoder.height) > MAX_PIXELS:
            raise self._error(f"its frames claim to be {width}x{height}, more than {MAX_PIXELS} pixels: copy it again")
        facts = self._without_lost(facts, codec)
        self._table = FrameTable(facts, codec, self._format, reorders)
        if self._lossy or interlaced or self._changes:
            self._table.sequential = "packets are lost, hold half a frame, or change the parameters of the codec"
        self.num_frames = num_frames or self._table.num_frames
        if self._table.sequential and self._kept and not num_frames:
            self._count()
        if not self.num_frames:
            raise self._error("no frames in the video stream: the file is cut short or broken; copy it again")
        if not self.fps and (seconds := self.seconds):
            self.fps = self.num_frames / seconds
        times = [] if self._table.sequential else self._shown_at()
        self.timing = _timing(*header, self._table.num_frames, times)

    def close(self) -> None:
        self._kept, self._again = [], None

    @property
    def size(self) -> tuple[int, int]:
        _, frame = next(self._from_start([0]))
        return orientation_of(frame).size(*scaled(*self._coded_size, self._short_side))

    def times(self, numbers: Sequence[int]) -> tuple[float, ...]:
        if self._table.sequential and max(numbers) >= len(self._decoded_times):
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

    def _shown_at(self) -> Sequence[int]:
        """When frames are shown, in the stream's time base, as far as that is known; empty where times do not rise."""
        times = self._decoded_times if self._table.sequential else self._table.times
        return [] if None in times or any(before >= after for before, after in pairwise(times)) else times

    def verify(self) -> None:
        for _ in self._every_frame():
            pass

    def _open(self) -> "av.container.InputContainer":
        # An absolute path: FFmpeg would take "a:b.mp4" for a protocol.
        # FFmpeg takes large frames of raw Motion JPEG for one JPEG image.
        is_mjpeg = os.path.splitext(self.path)[1].lower() in EXTENSIONS_OF["mjpeg"]
        return av.open(
            os.path.abspath(self.path), format="mjpeg" if is_mjpeg else None, options={**_LIMITS, **_ALLOWED}
        )

    def _stream(self, container: "av.container.InputContainer") -> "av.video.stream.VideoStream":
        pictures = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
        if not streams:
            raise self._error(f"no video stream, only {', '.join(s.type for s in container.streams) or 'nothing'}")
        best = container.streams.best("video")
        stream = best if best in streams else streams[0]
        if stream.codec_context is None:
            raise self._error("the codec of its video is unknown here: re-encode it")
        return stream

    def _demux(
        self, container: "av.container.InputContainer", stream: "av.video.stream.VideoStream"
    ) -> Iterable[av.Packet]:
        packets = _packets_of(container, stream)
        if stream.codec_context.codec.canonical_name != "mpeg4":
            return packets
        first = list(islice(packets, 1))
        packets = chain(first, packets)
        # Old encoders may put a B-frame into the packet of the frame before it, and leave the next packet empty.
        if not any(b"DivX" in data for data in (stream.codec_context.extradata or b"", *map(bytes, first))):
            return packets
        unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
        return (unpacked for packet in packets for unpacked in unpack.filter(packet))

    def _frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        if not self._table.sequential and wanted[-1] < self._table.num_frames:
            try:
                yield from self._jump(wanted)
                return
            except (*_ERRORS, UnexpectedFrame) as error:
                self._table.sequential = str(error)
        for number, frame in self._from_start(wanted):
            yield number, self._rgb(frame)

    def _jump(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Decode from the key frames before these frames."""
        for segment in self._table.segments(wanted):
            for number, frame in self._decode_segment(segment):
                yield number, self._rgb(frame)

    def _decode_segment(self, segment: Segment) -> Iterator[tuple[int, av.VideoFrame]]:
        missing = set(segment.numbers)
        begun = not segment.first  # what stands at the start of the stream is what decoding begins with
        last = -1
        for frame in self._decode(segment.first, segment.last, segment.packets):
            number = self._table.number_at(frame.pts)
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

    def _without_lost(self, facts: PacketFacts, codec: str) -> PacketFacts:
        """The facts with those frames hidden that cannot be decoded as the stream begins after what they refer to."""
        doubtful = leading(facts, codec, self._format)
        if not doubtful:
            return facts
        try:
            times = {frame.pts for frame in self._decode(0, max(doubtful))}
        except _ERRORS:
            return facts
        if None in times:  # what came out is not known
            return facts
        hidden = list(facts.hidden)
        for number in doubtful:
            hidden[number] = hidden[number] or facts.times[number] not in times
        return facts._replace(hidden=hidden)

    def _count(self) -> None:
        """Set `num_frames` to the number of frames that come out; as it is where decoding stops at one of them."""
        with suppress(VideoError):
            self.num_frames = sum(1 for _ in self._decode_all())

    def _every_frame(self) -> Iterator[av.VideoFrame]:
        """Every frame; afterwards, `num_frames` is their number."""
        decoded = 0
        for frame in islice(self._decode_all(), self.num_frames):
            decoded += 1
            yield frame
        # Where packets tell which frames there are, one that does not come out is damaged.
        if decoded < self.num_frames and not (self._table.sequential and decoded):
            raise self._missing(decoded, decoded)
        self.num_frames = decoded

    def _every_image(self) -> Iterator[np.ndarray]:
        for frame in self._every_frame():
            yield self._rgb(frame)

    def _from_start(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode everything up to the last of these frames, and count."""
        decoded = 0
        remaining = iter(wanted)
        target = next(remaining)
        for frame in self._decode_all():
            if decoded == target:
                yield target, frame
                target = next(remaining, None)
                if target is None:
                    return
            decoded += 1
        raise self._missing(target, decoded)

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
                    self._table.sequential = "interlaced: a packet may hold half a frame"
                decoded += 1
                yield frame
        except _ERRORS as error:
            sized = self._decoder.width and self._decoder.height
            reason = _reason(error) if sized else f"its frames have no size, or claim more than {MAX_PIXELS} pixels"
            raise self._error(f"decoding stops after frame {decoded} of {self.num_frames} ({reason})") from error

    def _decode(self, first: int, last: int, only: frozenset[int] | None = None) -> Iterator[av.VideoFrame]:
        """Frames that come out of the packets `first` to `last`.

        only: other packets than these are decoded only if their frames are referred to.
        """
        # A decoder would keep the parameters that it got last, and conceal losses by frames that it decoded before.
        if self._changes or self._lossy:
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
        """Frames that come out after this packet; none where it is broken and may be."""
        try:
            return self._decoder.decode(packet)
        except _ERRORS:
            if tolerant:
                return []
            raise

    def _packets(self, first: int, last: int) -> Iterable[av.Packet]:
        if self._kept:
            return self._kept[first : last + 1]
        if self._again is None or first < self._position:
            self._again, self._position = self._reread(), 0
        packets = islice(self._again, first - self._position, last + 1 - self._position)
        self._position = last + 1
        return packets

    def _reread(self) -> Iterator[av.Packet]:
        with self._open() as container:
            yield from self._demux(container, container.streams[self._stream_index])

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        orientation, size = orientation_of(frame), scaled(*self._coded_size, self._short_side)
        # threads=1: by default the colour conversion starts a thread for every core, and for every frame.
        if (frame.width, frame.height) != self._coded_size:  # as the program `ffmpeg` does it
            frame = self._converter.reformat(frame, *size, "rgb24", interpolation="BICUBIC", threads=1)
        elif size != self._coded_size:
            # First the size, in the colours the frame has: both at once take swscale several times as long.
            frame = self._scaler.reformat(frame, *size, interpolation="AREA", threads=1)
        image = self._converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return orientation.apply(image)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """How the decoded frame is to be shown."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # side data of a type that PyAV has no name for, such as EXIF data of Motion JPEG
        angle = radians(frame.rotation)  # counter-clockwise
        return from_display_matrix([round(2**16 * n) for n in (cos(angle), -sin(angle), 0, sin(angle), cos(angle))])
    return UPRIGHT if matrix is None else from_display_matrix(np.frombuffer(matrix, np.int32))


def _timing(num_frames: int, fps: float, duration: int, shown: int, times: Sequence[int]) -> StreamTiming | None:
    """What the header says of a stream (0: nothing), with the number of frames shown and their times, if known."""
    if duration <= 0 or not fps or not (num_frames or shown):
        return None
    # The original compares times as they are with a clip's start, which it counts from 0. It cannot read formats whose
    # header has no number of frames, such as MPEG-TS; their times start anywhere.
    if times and (not num_frames or times[0] >= duration):
        times = [time - times[0] for time in times]
    return StreamTiming(num_frames or shown, fps, duration, times)


def _decoder_of(stream: "av.video.stream.VideoStream") -> "av.VideoCodecContext":
    decoder = stream.codec_context
    decoder.thread_count = 1  # every DataLoader worker is a thread already
    decoder.options = _LIMITS
    return decoder


def _packets_of(container: "av.container.InputContainer", stream: "av.video.stream.VideoStream") -> Iterator[av.Packet]:
    # PyAV may raise IndexError after the last packet of a file in which other streams began after it was opened.
    with suppress(IndexError):
        yield from (packet for packet in container.demux(stream) if packet.size)


def _facts_of(packets: Iterable[av.Packet], codec: str) -> tuple[PacketFacts, bool, bool]:
    """What packets say of themselves, whether one is broken off, and whether one has other parameters of the codec."""
    times, keys, hidden, b_vops, broken, changes = [], [], [], [], False, False
    for packet in packets:
        times.append(packet.pts)
        keys.append(packet.is_keyframe)
        hidden.append(packet.is_discard)  # shown before the start that an edit list sets
        broken = broken or packet.is_corrupt
        changes = changes or packet.has_sidedata("new_extradata")
        if codec == "mpeg4":
            b_vops.append(is_b_vop(bytes(packet)))
        elif codec in ("vp8", "vp9") and vpx_hidden(codec, memoryview(packet)):
            hidden[-1] = True
    return PacketFacts(times, keys, hidden, b_vops), broken, changes


def _can_skip_others(decoder: "av.VideoCodecContext", facts: PacketFacts) -> bool:
    """Whether there are frames that no other frame refers to, and the decoder can leave out exactly those."""
    codec = decoder.codec.canonical_name
    if codec == "hevc":
        # "Not referred to" holds within one temporal layer. ISO/IEC 14496-15, 8.3.3.1: numTemporalLayers, 0 if unknown.
        extra = decoder.extradata or b""
        return len(extra) > 21 and extra[0] == 1 and extra[21] >> 3 & 7 == 1
    return codec == "h264" or any(facts.b_vops)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
