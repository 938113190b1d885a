"""Frames of a video file by PyAV: what the frames asked for depend on is decoded, and they alone are converted."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from timesformer.datasets.reading.base import MAX_PIXELS, VideoReader, scaled
from timesformer.datasets.reading.containers import EXTENSIONS_OF
from timesformer.datasets.reading.frame_table import FrameTable, PacketFacts, Segment, is_b_vop, vpx_hidden

LARGEST_KEPT = 2**26  # bytes; of a larger file the packets are read again when they are needed
_LIMITS = {"max_pixels": str(MAX_PIXELS)}
_ALLOWED = {"format_whitelist": ",".join(EXTENSIONS_OF), "protocol_whitelist": "file"}
_ERRORS = (av.FFmpegError, OSError, ValueError)


class UnexpectedFrame(Exception):
    """What comes out of the decoder is not what the packets say."""


class VideoFile(VideoReader):
    """A clip in a video container.

    Frame number i is the i-th that comes out when everything is decoded from the start. The packets are read when the
    file is opened, and kept, as a clip is small while it is compressed. Where they tell which of them holds which frame
    (FrameTable), decoding begins at the last key frame that will do, and every frame that comes out is compared with
    what they tell. At the first difference, and where they do not tell, everything is decoded from the start.

    short_side: larger frames are scaled down to it while they are converted; 0: never.
    num_frames, fps: as known beforehand; 0: as the file has it.
    """

    def __init__(self, path: str, size: int, short_side: int = 0, num_frames: int = 0, fps: float = 0.0) -> None:
        """size: bytes of the file. Raises VideoError where it is no video, or is cut short."""
        super().__init__(path)
        self._short_side = short_side
        self._scaler, self._converter = VideoReformatter(), VideoReformatter()
        self._kept: list[av.Packet] = []
        self._again: Iterator[av.Packet] | None = None
        self._position = 0
        try:
            with self._open() as container:
                stream = self._stream(container)
                self._stream_index, self._time_base = stream.index, stream.time_base
                self.fps = fps or float(stream.average_rate or 0)
                self._decoder = decoder = stream.codec_context
                decoder.thread_count = 1  # every loading process is a thread already
                decoder.options = _LIMITS
                packets = self._demux(container)
                if size <= LARGEST_KEPT:
                    packets = self._kept = list(packets)
                codec = decoder.codec.canonical_name
                facts, broken = _facts_of(packets, codec)
                self._num_packets = len(facts.times)
                self._table = FrameTable(facts, codec, container.format.name, decoder.has_b_frames)
                self._skips = _can_skip_others(decoder, facts)
                if len(stream.index_entries) > self._num_packets:
                    broken = broken or max(entry.pos + entry.size for entry in stream.index_entries) > size
        except _ERRORS as error:
            raise self._error(f"not a video that can be decoded ({_reason(error)})") from error
        if broken:
            raise self._error(f"cut short: the file ends at byte {size} in the middle of its frames; copy it again")
        if (width := self._decoder.width) * (height := self._decoder.height) > MAX_PIXELS:
            raise self._error(f"its frames claim to be {width}x{height}, more than {MAX_PIXELS} pixels: copy it again")
        if not self._table.num_frames:
            raise self._error("no frames in the video stream: the file is cut short or broken; copy it again")
        self.num_frames = num_frames or self._table.num_frames

    def close(self) -> None:
        self._kept, self._again = [], None

    @property
    def size(self) -> tuple[int, int]:
        return self._decoder.width, self._decoder.height

    def frames(self) -> Iterator[np.ndarray]:
        for _, frame in self._from_start(range(self.num_frames)):
            yield self._rgb(frame)

    def verify(self) -> None:
        for _ in self._from_start(range(self.num_frames)):
            pass

    def _open(self) -> "av.container.InputContainer":
        # An absolute path: FFmpeg would take "a:b.mp4" for a protocol.
        return av.open(os.path.abspath(self.path), options={**_LIMITS, **_ALLOWED})

    def _stream(self, container: "av.container.InputContainer") -> "av.video.stream.VideoStream":
        pictures = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
        if not streams:
            raise self._error(f"no video stream, only {', '.join(s.type for s in container.streams) or 'nothing'}")
        if streams[0].codec_context is None:
            raise self._error("the codec of its video is unknown here: re-encode it")
        return streams[0]

    def _demux(self, container: "av.container.InputContainer") -> Iterable[av.Packet]:
        stream = self._stream(container)
        packets = (packet for packet in container.demux(stream) if packet.size)
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

    def _from_start(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decode everything up to the last of these frames, and count."""
        decoded = 0
        remaining = iter(wanted)
        target = next(remaining)
        try:
            for frame in self._decode(0, self._num_packets - 1):
                if decoded == target:
                    yield target, frame
                    target = next(remaining, None)
                    if target is None:
                        return
                decoded += 1
        except _ERRORS as error:
            sized = self._decoder.width and self._decoder.height
            reason = _reason(error) if sized else f"its frames have no size, or claim more than {MAX_PIXELS} pixels"
            raise self._error(f"decoding stops after frame {decoded} of {self.num_frames} ({reason})") from error
        promised, self.num_frames = self.num_frames, decoded
        raise self._error(f"frame {target} is missing: the file promises {promised} frames, but {decoded} decode")

    def _decode(self, first: int, last: int, only: frozenset[int] | None = None) -> Iterator[av.VideoFrame]:
        """Frames that come out of the packets `first` to `last`.

        only: other packets than these are decoded only if their frames are referred to.
        """
        decoder = self._decoder
        decoder.flush_buffers()
        skipping = ""
        for number, packet in enumerate(self._packets(first, last), first):
            skip = "NONREF" if self._skips and only is not None and number not in only else "DEFAULT"
            if skip != skipping:
                decoder.skip_frame = skipping = skip
            yield from decoder.decode(packet)
        yield from decoder.decode(None)

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
            yield from self._demux(container)

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        size = scaled(frame.width, frame.height, self._short_side)
        # threads=1: by default the colour conversion starts a thread for every core, and for every frame.
        if size != (frame.width, frame.height):
            # First the size, in the colours the frame has: both at once take swscale several times as long.
            frame = self._scaler.reformat(frame, *size, interpolation="AREA", threads=1)
        image = self._converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        return np.rot90(image, round(frame.rotation / 90)) if frame.rotation else image  # both turn counter-clockwise


def _facts_of(packets: Iterable[av.Packet], codec: str) -> tuple[PacketFacts, bool]:
    """What packets say of themselves, and whether one is broken off."""
    times, keys, hidden, b_vops, broken = [], [], [], [], False
    for packet in packets:
        times.append(packet.pts)
        keys.append(packet.is_keyframe)
        hidden.append(packet.is_discard)  # shown before the start that an edit list sets
        broken = broken or packet.is_corrupt
        if codec == "mpeg4":
            b_vops.append(is_b_vop(bytes(packet)))
        elif codec in ("vp8", "vp9") and vpx_hidden(codec, memoryview(packet)):
            hidden[-1] = True
    return PacketFacts(times, keys, hidden, b_vops), broken


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
