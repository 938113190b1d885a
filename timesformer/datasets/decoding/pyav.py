"""Frames of a video file by PyAV; only the requested frames and those they depend on are decoded."""

import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fractions import Fraction
from functools import cached_property, partial
from itertools import islice

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from timesformer.datasets.decoding.base import (
    MAX_PIXELS,
    Content,
    StreamedFrame,
    StreamTiming,
    VideoError,
    VideoReader,
    scaled,
)
from timesformer.datasets.decoding.frame_pixels import RgbConverter, orientation
from timesformer.datasets.decoding.packet_index import NO_TIME, FrameIndex, Packets, Segment, rises, to_numpy
from timesformer.datasets.decoding.packet_source import DECODE_ERRORS, MPEG_TS, PacketSource, reason_of

LARGEST_COUNTED = 2**26  # bytes; frames of larger files are not counted by decoding them
_HALF_FRAMES = "interlaced: a packet may hold half a frame"


class UnexpectedFrame(Exception):
    """What comes out of the decoder differs from what the packets say."""


class VideoFile(VideoReader):
    """A clip in a video container.

    Frame i is the i-th that comes out when everything is decoded from the start. Where properties of packets tell which
    of them holds which frame (FrameIndex), decoding begins at the last possible key frame, and every decoded frame is
    compared with what they tell. At the first difference, and where packets do not tell, everything is decoded from the
    start. The packets of large files are not looked at before a number or time of a frame is needed: `frames` begins at
    once, and compares the number of frames with that of packets at the end.

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
        content: Content | None = None,
        allow_cut_short: bool = False,
    ) -> None:
        """Open a file of `size` bytes; VideoError where it is not a video or is cut short.

        Larger frames are scaled down to `short_side` pixels (0: as they are). `num_frames` is the known number of
        frames (0: as the file has it), `fps` the rate if the file has none (0: the mean of the times of its frames).
        `content` is that of a file that is not at `path`. With `allow_cut_short`, a file that is cut short has the
        frames up to there, and `stream` raises VideoError after them.
        """
        super().__init__(path)
        self._short_side = short_side
        self._to_rgb = RgbConverter(short_side)
        self._decoded_times = array("q")  # of frames decoded from the start
        self._interlaced = False  # whether such a frame has been decoded
        self._allow_cut_short = allow_cut_short
        self._source = source = PacketSource(path, size, content, allow_cut_short)
        self._decoder = source.decoder
        self._time_base, self.fps, self.delay = source.time_base, source.rate or fps, source.delay
        self._coded_size = width, height = self._decoder.width, self._decoder.height
        if width * height > MAX_PIXELS:
            raise self._error(f"its frames claim to be {width}x{height}, more than {MAX_PIXELS} pixels: copy it again")
        self._count = num_frames or None
        self._is_large = size > LARGEST_COUNTED
        if source.is_kept:
            self._index, self.num_frames, self.timing  # noqa: B018  # errors of short clips are found at once
        if not self.fps and (seconds := self.seconds):
            self.fps = self.num_frames / seconds

    @property
    def num_frames(self) -> int:
        if self._count is None:
            self._count = self._index.num_frames
            if self._index.sequential and not self._is_large:
                with suppress(VideoError):
                    self._count = sum(1 for _ in self._decode_all())
            if not self._count:
                raise self._error("no frames in the video stream: the file is cut short or broken; copy it again")
        return self._count

    @num_frames.setter
    def num_frames(self, count: int) -> None:
        self._count = count

    @cached_property
    def timing(self) -> StreamTiming | None:
        source = self._source
        if source.duration <= 0 or not source.rate:
            return None
        times = () if self._index.sequential else self._shown_at()
        return _timing(source.promised_frames, source.rate, source.duration, self._index.num_frames, times)

    @cached_property
    def _index(self) -> FrameIndex:
        """Which packet holds which frame; VideoError if the file is cut short."""
        source = self._source
        packets = self._hide_undecodable(source.packets)
        index = FrameIndex(packets, source.codec, source.formats, source.reorders)
        interlaced = source.formats == MPEG_TS and source.is_interlaced
        if source.is_lossy or interlaced or packets.new_parameters:
            index.sequential = "packets are lost, hold half a frame, or change the parameters of the codec"
        if self._interlaced:
            index.sequential = _HALF_FRAMES
        return index

    @property
    def _is_indexed(self) -> bool:
        return "_index" in vars(self)

    @cached_property
    def _skips(self) -> bool:
        return _can_skip_others(self._decoder, self._source.packets)

    def close(self) -> None:
        self._source.close()

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
        has_ticks = not self._is_indexed or self._index.sequential or self._shown_at()
        return self._time_base if has_ticks else super().time_base

    def known_ticks(self) -> Sequence[int] | None:
        if self._index.sequential:
            return None
        return self._shown_at() or super().known_ticks()

    def stream(self, needs: Callable[[int], bool] | None = None) -> Iterator[StreamedFrame]:
        stream = self._stream_needed(needs) if needs and self._can_leave_out else self._stream_all()
        first = last = None
        for frame in stream:
            first, last = frame.tick if first is None else first, frame.tick
            yield frame
        if self._allow_cut_short and first is not None:
            end = self.delay + float((last - first) * self.time_base) + (1 / self.fps if self.fps else 0.0)
            if loss := self._source.loss(end):
                raise loss

    def _stream_all(self) -> Iterator[StreamedFrame]:
        known: Sequence[int] | None = None
        last, by_time = -1, False
        step = max(1, round(1 / (Fraction(self.fps) * self._time_base))) if self.fps else 1
        for number, frame in enumerate(self._every_frame()):
            if not number and self._is_indexed:  # decoding the first frame may show that packets do not tell
                known, by_time = self.known_ticks(), bool(self._shown_at()) and not self._index.sequential
            if known is None:  # frames without a time, or with that of an earlier frame, follow at the mean rate
                in_order = frame.pts is not None and (frame.pts > last or not number)
                tick = frame.pts if in_order else last + step
            elif by_time and frame.pts != known[number]:
                raise self._unexpected_time(number)
            else:
                tick = known[number]
            last = tick
            yield StreamedFrame(number, tick, partial(self._to_rgb, frame, self._coded_size))

    @property
    def _can_leave_out(self) -> bool:
        """Whether packets tell which frames no other refers to, and when they are shown."""
        return self._is_indexed and not self._index.sequential and bool(self._shown_at()) and self._skips

    def _stream_needed(self, needs: Callable[[int], bool]) -> Iterator[StreamedFrame]:
        """Frames up to the last one; frames that are neither needed nor referred to are left out."""
        index, expected, last = self._index, set[int](), -1

        def is_needed(packet: int) -> bool:
            number = index.number_in(packet)
            if number is None:
                return True
            needed = last < 0 or number == self.num_frames - 1 or needs(number)
            if needed:
                expected.add(number)
            return needed

        for frame in self._decode_all(is_needed):
            if last < 0 and index.sequential:  # as decoding the first frame showed
                yield from self._stream_all()
                return
            number = index.number_at(frame.pts)
            if number is None or number <= last:
                raise self._unexpected_time(last + 1)
            expected.discard(number)
            if expected and min(expected) < number:
                break
            last = number
            yield StreamedFrame(number, frame.pts, partial(self._to_rgb, frame, self._coded_size))
        if expected:
            raise self._error(f"frame {min(expected)} is missing: it does not decode; copy the file again")

    def _unexpected_time(self, number: int) -> VideoError:
        return self._error(f"frame {number} is not shown when the file says; convert it to MP4")

    def verify(self) -> None:
        _ = self._index  # the number of frames that packets tell
        for _ in self._every_frame():
            pass

    def _shown_at(self) -> Sequence[int]:
        """Times of frames in the stream's time base, as far as known; empty where they do not rise."""
        if not self._index.sequential:
            return self._index.times if self._index.times_rise else ()
        times = self._decoded_times
        return times if NO_TIME not in times[:1] and rises(to_numpy(times)) else ()

    def _hide_undecodable(self, packets: Packets) -> Packets:
        """Hide frames that cannot be decoded because the stream begins after what they refer to."""
        leading = packets.leading(self._source.codec, self._source.formats)
        if not leading:
            return packets
        try:
            times = {frame.pts for frame in self._decode(0, max(leading))}
        except DECODE_ERRORS:
            return packets
        if None in times:
            return packets
        hidden = packets.hidden.copy()
        for number in leading:
            hidden[number] |= packets.times[number] not in times
        return packets._replace(hidden=hidden)

    def _frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        if not self._index.sequential and wanted[-1] < self._index.num_frames:
            try:
                for segment in self._index.segments(wanted):
                    for number, frame in self._decode_segment(segment):
                        yield number, self._to_rgb(frame, self._coded_size)
                return
            except (*DECODE_ERRORS, UnexpectedFrame) as error:
                self._index.sequential = str(error)
        for number, frame in self._from_start(wanted):
            yield number, self._to_rgb(frame, self._coded_size)

    def _decode_segment(self, segment: Segment) -> Iterator[tuple[int, av.VideoFrame]]:
        missing, last = set(segment.numbers), -1
        begun = not segment.first  # the start of the stream needs no key frame
        for frame in self._decode(segment.first, segment.last, segment.packets.__contains__):
            number = self._index.number_at(frame.pts)
            if number is None or number <= last:
                raise UnexpectedFrame(f"a frame of time {frame.pts} comes after frame {last}")
            if frame.interlaced_frame:
                raise UnexpectedFrame(_HALF_FRAMES)
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
        """Every frame; afterwards, `num_frames` is their number. A large file is read while it is decoded."""
        decoded = 0
        for frame in islice(self._decode_all(), self.num_frames if self._is_indexed else self._count):
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

    def _decode_all(self, needs: Callable[[int], bool] | None = None) -> Iterator[av.VideoFrame]:
        """All frames that come out, from the start; VideoError where decoding stops. `needs` as of `_decode`."""
        decoded = 0
        try:
            for frame in self._decode(0, needs=needs):
                if not decoded:
                    self._coded_size = frame.width, frame.height
                if decoded == len(self._decoded_times) and not needs:
                    self._decoded_times.append(NO_TIME if frame.pts is None else frame.pts)
                if frame.interlaced_frame:
                    self._interlaced = True
                    if self._is_indexed:
                        self._index.sequential = _HALF_FRAMES
                decoded += 1
                yield frame
        except DECODE_ERRORS as error:
            sized = self._decoder.width and self._decoder.height
            reason = reason_of(error) if sized else f"its frames have no size, or claim more than {MAX_PIXELS} pixels"
            raise self._error(f"decoding stops after frame {decoded} of {self.num_frames} ({reason})") from error

    def _decode(
        self, first: int, last: int | None = None, needs: Callable[[int], bool] | None = None
    ) -> Iterator[av.VideoFrame]:
        """Frames of the packets `first` to `last`; packets that are not needed are decoded only for others."""
        source = self._source
        packets = source.packets if source.is_indexed else None
        lossy = packets is not None and source.is_lossy
        # A decoder would keep the parameters that it got last, and conceal losses by frames that it decoded before.
        if lossy or (packets is not None and packets.new_parameters):
            with source.reopen() as demuxer:
                self._decoder = demuxer.decoder
        decoder = self._decoder
        decoder.flush_buffers()
        first_key = packets.first_key if packets else sys.maxsize
        skipping = ""
        for number, packet in enumerate(source.read(first, last), first):
            if packets is None:
                lossy = lossy or (packet.is_corrupt and source.formats == MPEG_TS)
                if packet.is_corrupt and not lossy:
                    raise source.cut_short()
                first_key = min(first_key, number) if packet.is_keyframe else first_key
            skip = "DEFAULT" if needs is None or not self._skips or needs(number) else "NONREF"
            if skip != skipping:
                decoder.skip_frame = skipping = skip
            # Before the first key frame, packets refer to what came before the start of the stream.
            yield from self._decode_packet(packet, tolerant=lossy or number < first_key)
        yield from self._decode_packet(None, tolerant=lossy)

    def _decode_packet(self, packet: av.Packet | None, tolerant: bool) -> list[av.VideoFrame]:
        with suppress(*DECODE_ERRORS if tolerant else ()):
            return self._decoder.decode(packet)
        return []


def _timing(num_frames: int, fps: float, duration: int, shown: int, times: Sequence[int]) -> StreamTiming | None:
    """What the header says of a stream (0: nothing), with the number and the times of the frames shown, if known."""
    if duration <= 0 or not fps or not (num_frames or shown):
        return None
    # The original compares times as they are with a clip's start, which it counts from 0. It cannot read formats whose
    # header has no number of frames, such as MPEG-TS; their times start anywhere.
    if times and (not num_frames or times[0] >= duration):
        times = array("q", (to_numpy(times) - times[0]).tobytes())
    return StreamTiming(num_frames or shown, fps, duration, times)


def _can_skip_others(decoder: VideoCodecContext, packets: Packets) -> bool:
    """Whether there are frames that no other frame refers to, and the decoder can leave out exactly those."""
    codec = decoder.codec.canonical_name
    if codec == "hevc":
        # "Not referred to" holds within one temporal layer. ISO/IEC 14496-15, 8.3.3.1: numTemporalLayers, 0 if unknown.
        extra = decoder.extradata or b""
        return len(extra) > 21 and extra[0] == 1 and extra[21] >> 3 & 7 == 1
    return codec == "h264" or any(packets.b_vops)
