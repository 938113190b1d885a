"""Packets of the video stream of a file, in decoding order: in memory if the file is small, else found by seeking."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from itertools import chain, islice

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from timesformer.datasets.decoding.base import MAX_PIXELS, Content, VideoError
from timesformer.datasets.decoding.containers import EXTENSIONS_OF, describe_format, promised_size
from timesformer.datasets.decoding.packet_index import CODECS_WITH_HIDDEN_FRAMES, NO_TIME, Packets, rises
from timesformer.datasets.decoding.sample_table import read_sample_table

LARGEST_KEPT = 2**23  # bytes; the packets of larger files are not kept, and only read when they are needed
DECODE_ERRORS = (av.FFmpegError, OSError, ValueError)
MPEG_TS = "mpegts"  # lost packets and interlaced frames are common in it
_LIMITS = {"max_pixels": str(MAX_PIXELS)}
_ALLOWED = {"format_whitelist": ",".join(EXTENSIONS_OF), "protocol_whitelist": "file"}
_INTERLACED = 2  # of FFmpeg's AVFieldOrder, this and all above
NEAR = 64  # packets, which are read faster than a seek
_UNKNOWN = sys.maxsize
_FOUND_WITHIN = 2**12  # packets after seeking
_DURATION_IN_HEADER = frozenset({"mov", "matroska", "webm", "flv"})  # of other formats, FFmpeg computes it
_MATROSKA = "matroska,webm"
_SHORTEST_LOSS = 1.0, 0.01  # seconds and part of the duration; headers are not exact


class Demuxer:
    """An open file: its video stream, the decoder, and an iterator of packets.

    The stream is FFmpeg's choice (av_find_best_stream), never a cover picture.
    """

    def __init__(self, path: str, content: Content | None = None) -> None:
        """Open a file, or the content of a file that is not at `path`.

        Raises VideoError or one of DECODE_ERRORS if there is no video that can be decoded.
        """
        self.container = open_container(path, content)
        try:
            self.stream = _select_stream(path, self.container)
            self.decoder = _decoder_of(self.stream)
            self.packets, self.is_filtered = _demux(self.container, self.stream)
        except BaseException:
            self.container.close()
            raise

    def __enter__(self) -> "Demuxer":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def seek(self, time: int) -> None:
        """Continue at the last packet before `time`, in ticks, at which the container's index lets decoding begin."""
        self.container.seek(time, stream=self.stream)
        self.packets = _nonempty_packets(self.container, self.stream)


class PacketSource:
    """The packets of a file by number, from 0 in decoding order; they are read by one iterator at a time.

    `codec` and `formats` are FFmpeg's names.
    """

    def __init__(self, path: str, size: int, content: Content | None = None, allow_cut_short: bool = False) -> None:
        """Open a file of `size` bytes, or the content of a file that is not at `path`.

        Raises VideoError if it has no video that can be decoded, or is cut short. Some large files are found to be cut
        short only when their `packets` are needed. With `allow_cut_short`, a file that is cut short has the packets up
        to there, and `loss` is its error.
        """
        self._path, self._size, self._content = path, size, content
        self._allow_cut_short, self._is_cut_short = allow_cut_short, False
        self._kept: list[av.Packet] | None = None
        self._position = 0  # number of the next packet of the demuxer
        try:
            self._demuxer = demuxer = self.reopen()
        except DECODE_ERRORS as error:
            raise self._unreadable(error) from error
        stream, self.decoder = demuxer.stream, demuxer.decoder
        self.codec, self.formats = self.decoder.codec.canonical_name, demuxer.container.format.name
        self.time_base, self.rate = stream.time_base, float(stream.average_rate or 0)
        start, first = demuxer.container.start_time, stream.start_time
        self.delay = 0.0 if None in (start, first) else max(0.0, float(first * self.time_base) - start / 1e6)
        self.promised_frames, self.duration = stream.frames, stream.duration or 0  # 0: the header has none
        self.reorders = bool(self.decoder.has_b_frames)  # decoding may change it
        self.is_interlaced = getattr(self.decoder, "field_order", 0) >= _INTERLACED
        has_duration = not _DURATION_IN_HEADER.isdisjoint(self.formats.split(","))
        self._promised_seconds = (demuxer.container.duration or 0) / av.time_base if has_duration else 0.0
        if self.formats == "avi" and self.rate:
            self._promised_seconds = self.promised_frames / self.rate
        try:
            if self.formats == _MATROSKA and (promised_size(path, content) or 0) > size:
                self._note_cut_short()
            if size <= LARGEST_KEPT:
                with demuxer:
                    self._kept = list(self._whole(demuxer.packets))
                    self.packets = self._scan(self._kept, stream)
            else:
                first = list(islice(demuxer.packets, 1))
                demuxer.packets = chain(first, demuxer.packets)
                self._first_time = first[0].pts if first else None
                last = stream.index_entries[-1] if len(stream.index_entries) else None
                if last and last.pos + last.size > size:
                    self._note_cut_short()
        except DECODE_ERRORS as error:
            raise self._unreadable(error) from error

    @property
    def is_kept(self) -> bool:
        """Whether all packets are in memory."""
        return self._kept is not None

    @property
    def is_indexed(self) -> bool:
        """Whether `packets` are known."""
        return "packets" in vars(self)

    @cached_property
    def packets(self) -> Packets:
        """Properties of all packets; VideoError if the file is cut short.

        In MP4 and QuickTime files, they are in the sample table. The indexes of other formats lack times (AVI, MXF) or
        have key frames only (Matroska, FLV), if there is one at all, so that all packets are read. They are also read
        where a frame may be hidden (VP8, VP9) or be a packed B-frame (MPEG-4 part 2), as only their content tells.
        """
        needs_content = self.codec in CODECS_WITH_HIDDEN_FRAMES or self.codec == "mpeg4"
        if "mov" in self.formats.split(",") and not needs_content:
            packets = self._from_sample_table()
            if packets:
                return packets
        try:
            with self.reopen() as demuxer:  # iterators of packets may be in use
                for other in demuxer.container.streams:
                    other.discard = av.stream.Discard.default if other == demuxer.stream else av.stream.Discard.all
                return self._scan(self._whole(demuxer.packets), demuxer.stream)
        except DECODE_ERRORS as error:
            raise self._unreadable(error) from error

    @property
    def is_lossy(self) -> bool:
        """Whether packets are lost, and frames after them may be decodable."""
        return self.formats == MPEG_TS and self.packets.broken

    def read(self, first: int, last: int | None = None) -> Iterator[av.Packet]:
        """Yield the packets `first` to `last`, or all from `first` on."""
        if self._kept is not None:
            yield from self._kept[first : None if last is None else last + 1]
            return
        number = first
        while last is None or number <= last:
            if self._position != number:
                self._go_to(number)
            packet = next(self._whole(self._demuxer.packets), None)
            if packet is None:
                return
            number = self._position = self._position + 1
            yield packet

    def reopen(self) -> Demuxer:
        """Open the file again, with a decoder that has not seen any packet."""
        return Demuxer(self._path, self._content)

    def close(self) -> None:
        """Release the file and its packets."""
        self._kept = []
        self._demuxer.container.close()

    def cut_short(self) -> VideoError:
        """Return the error of a file that ends too early."""
        return VideoError(
            f"{self._path}: cut short: the file ends at byte {self._size} in the middle of its frames; copy it again"
        )

    def loss(self, end: float) -> VideoError | None:
        """Return the error of a file whose last frame ends at `end` seconds, long before its header says; else None.

        It is found with `allow_cut_short` only.
        """
        if not self._is_cut_short:
            return None
        seconds, (least, part) = self._promised_seconds, _SHORTEST_LOSS
        if end >= seconds - least - part * seconds:
            return self.cut_short()
        found = f"its frames end at {end:.1f} of {seconds:.1f} seconds"
        return VideoError(f"{self._path}: cut short: {found}; copy it again")

    def _whole(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """Yield the packets up to the first one that is cut off, if the file may be."""
        for packet in packets:
            if self._allow_cut_short and packet.is_corrupt and self.formats != MPEG_TS:
                self._is_cut_short = True
                return
            yield packet

    def _note_cut_short(self) -> None:
        if not self._allow_cut_short:
            raise self.cut_short()
        self._is_cut_short = True

    def _unreadable(self, error: Exception) -> VideoError:
        reason = describe_format(self._path, self._content)
        if not reason:
            found = "" if isinstance(error, av.InvalidDataError) else f"{reason_of(error)}; "
            reason = f"{found}copy it again, or convert it to MP4"
        return VideoError(f"{self._path}: not a video that can be decoded: {reason}")

    def _scan(self, packets: Iterable[av.Packet], stream: VideoStream) -> Packets:
        found = Packets.scan(packets, self.codec)
        cut_short, entries = found.broken, stream.index_entries
        if len(entries) > len(found.times):
            cut_short = cut_short or max(entry.pos + entry.size for entry in entries) > self._size
        if cut_short and not (found.broken and self.formats == MPEG_TS):
            self._note_cut_short()
        return found

    def _from_sample_table(self) -> Packets | None:
        with open(self._path, "rb") if self._content is None else self._content.open() as file:
            table = read_sample_table(file, self._demuxer.stream)
        if table is None or self._first_time is None:
            return None
        count = len(table.sizes)
        if (missing := table.positions + table.sizes > self._size).any():
            self._note_cut_short()
            count = int(missing.argmax())
        # An edit list also shifts all times.
        times = table.shown + (self._first_time - table.shown[0])
        return Packets(*(values[:count] for values in (times, table.keys, table.hidden, table.positions)))

    def _go_to(self, number: int) -> None:
        """Make a packet the next one."""
        is_near = self._position <= number <= self._position + NEAR
        if not is_near and not (self.is_indexed and self._seek(number)) and number < self._position:
            self._demuxer.container.close()
            self._demuxer, self._position = self.reopen(), 0
        for _ in islice(self._demuxer.packets, number - self._position):
            self._position += 1

    def _seek(self, number: int) -> bool:
        """Make a packet the next one by a seek to a key packet at or before it; return whether that was possible."""
        packets, demuxer = self.packets, self._demuxer
        if demuxer.is_filtered or not self._can_seek:
            return False
        # MPEG-TS is searched by the time of decoding, which is less than a second before a frame is shown.
        early = round(1 / self.time_base) if self.formats == MPEG_TS else 0
        with suppress(*DECODE_ERRORS):
            for key in np.flatnonzero(packets.keys[: number + 1])[:-4:-1].tolist():
                demuxer.seek(int(packets.times[key]) - early)
                for packet in islice(demuxer.packets, _FOUND_WITHIN):
                    if packet.pos == packets.positions[number]:
                        demuxer.packets, self._position = chain([packet], demuxer.packets), number
                        return True
                    if packet.pos > packets.positions[number]:
                        break
        self._position = _UNKNOWN
        return False

    @cached_property
    def _can_seek(self) -> bool:
        """Whether packets can be recognized by their positions in the file."""
        return rises(self.packets.positions) and bool((self.packets.times != NO_TIME).all())


def open_container(path: str | os.PathLike[str], content: Content | None = None) -> InputContainer:
    """Open a file, or `content`, with the formats EXTENSIONS_OF alone, which open no other files.

    Raises one of DECODE_ERRORS if it cannot be opened.
    """
    # FFmpeg takes large frames of raw Motion JPEG for one JPEG image, and "a:b.mp4" for a protocol.
    file = os.path.abspath(path) if content is None else content.open()
    name = file if isinstance(file, str) else file.name
    is_mjpeg = os.path.splitext(name)[1].lower() in EXTENSIONS_OF["mjpeg"]
    return av.open(file, format="mjpeg" if is_mjpeg else None, options={**_LIMITS, **_ALLOWED})


def reason_of(error: Exception) -> str:
    """Return what an error of FFmpeg or the file system says."""
    return getattr(error, "strerror", None) or str(error)


def _select_stream(path: str, container: InputContainer) -> VideoStream:
    covers = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        found = ", ".join(stream.type for stream in container.streams) or "nothing"
        raise VideoError(f"{path}: no video stream, only {found}")
    best = container.streams.best("video")
    stream = best if best in streams else streams[0]
    if stream.codec_context is None:
        raise VideoError(f"{path}: the codec of its video is unknown here: re-encode it")
    return stream


def _decoder_of(stream: VideoStream) -> VideoCodecContext:
    decoder = stream.codec_context
    decoder.thread_count = 1  # there is a DataLoader worker for every core
    decoder.options = _LIMITS
    return decoder


def _demux(container: InputContainer, stream: VideoStream) -> tuple[Iterator[av.Packet], bool]:
    """Packets of a stream, and whether they differ from those in the file."""
    packets = _nonempty_packets(container, stream)
    if stream.codec_context.codec.canonical_name != "mpeg4":
        return packets, False
    first = list(islice(packets, 1))
    packets = chain(first, packets)
    # Old encoders may put a B-frame into the packet of the frame before it, and leave the next packet empty.
    if not any(b"DivX" in data for data in (stream.codec_context.extradata or b"", *map(bytes, first))):
        return packets, False
    unpack = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
    return (unpacked for packet in packets for unpacked in unpack.filter(packet)), True


def _nonempty_packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    # PyAV may raise IndexError after the last packet of a file in which other streams began after it was opened.
    with suppress(IndexError):
        yield from (packet for packet in container.demux(stream) if packet.size)
