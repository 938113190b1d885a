"""Which packet of a video stream holds which frame, and where decoding may begin: found without decoding anything."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

# One packet is one frame in these (of MPEG-4, once packed B-frames are unpacked), and key packets are marked.
_CODECS = frozenset({"h264", "hevc", "mpeg4", "mjpeg", "vp8", "vp9", "av1"})
# Formats that store the time at which a frame is shown. Others, such as AVI, store the order of decoding alone, and
# the times that FFmpeg makes of it are wrong for these codecs as soon as frames are reordered.
_FORMATS_WITH_TIMES = frozenset({"mov", "matroska", "webm", "mpegts", "flv"})
_REORDERING_CODECS = frozenset({"h264", "hevc"})

_VOP_START = b"\x00\x00\x01\xb6"  # begins a picture of MPEG-4 part 2 (ISO/IEC 14496-2); two bits of type follow
_B_VOP = 2
_LONGEST_EMPTY_VOP = 19  # bytes: FFmpeg takes no longer packet for one that says "no picture"


class PacketFacts(NamedTuple):
    """What a packet says of itself, nothing of which needs decoding.

    time: when its frame is shown, in any unit; hidden: its frame is decoded, but never shown; b_vop: its frame is a
    B-frame of MPEG-4 part 2; doubt: why it may be no frame, or more than one.
    """

    time: int | None
    key: bool
    hidden: bool = False
    b_vop: bool = False
    doubt: str = ""


class Segment(NamedTuple):
    """A run of packets to decode, `first` to `last`, for the frames of these numbers, which are in these packets.

    key: number of the frame in the packet `first`, with which decoding begins.
    """

    first: int
    last: int
    packets: frozenset[int]
    numbers: frozenset[int]
    key: int | None


class FrameTable:
    """Frames of a stream by number, in the order shown.

    num_frames: frames that are shown, as far as packets tell.
    sequential: why frames can only be found by decoding from the start and counting; empty where packets tell.
    """

    def __init__(self, packets: Sequence[PacketFacts], codec: str, formats: str, reorders: bool, doubt: str) -> None:
        """codec, formats: names that FFmpeg gives them; reorders: frames are announced to be shown out of order.

        doubt: a reason known beforehand to decode from the start.
        """
        self._packets = packets
        self._shown = [number for number, packet in enumerate(packets) if not packet.hidden]
        self.num_frames = len(self._shown)
        order = _vop_order(packets) if codec == "mpeg4" else range(len(packets))
        self.sequential = doubt or self._why_sequential(codec, set(formats.split(",")), reorders, order)
        if codec == "mpeg4":
            self._shown = [number for number in order if not packets[number].hidden]
        elif not self.sequential:
            self._shown.sort(key=lambda number: packets[number].time)
        self._number = {packets[packet].time: number for number, packet in enumerate(self._shown)}
        # A hidden key frame never comes out, so that nothing proves it to be one; the first packet needs no proof.
        self._keys = [n for n, packet in enumerate(packets) if n == 0 or (packet.key and not packet.hidden)]

    def _why_sequential(self, codec: str, formats: set[str], reorders: bool, order: Sequence[int]) -> str:
        times = [self._packets[number].time for number in self._shown]
        if codec not in _CODECS:
            return f"{codec} is not among {', '.join(sorted(_CODECS))}"
        if doubts := [packet.doubt for packet in self._packets if packet.doubt]:
            return doubts[0]
        if not (self._packets and self._packets[0].key):
            return "the first packet is no key frame"
        if None in times or len(set(times)) < len(times):
            return "times are missing or not unique"
        if codec == "mpeg4":  # its order does not depend on times
            return "" if order else "the first B-frame lacks a frame that it refers to"
        if codec in _REORDERING_CODECS and not formats & _FORMATS_WITH_TIMES:
            return f"{codec} in a format without times"
        if reorders and len(times) > 1 and all(before < after for before, after in pairwise(times)):
            return "frames are said to be reordered, but their times are not"
        return ""

    def number_at(self, time: int | None) -> int | None:
        """Number of the frame shown at this time, None where there is none."""
        return self._number.get(time)

    def time_of(self, number: int) -> int | None:
        """When the frame of this number is shown."""
        return self._packets[self._shown[number]].time

    def is_key(self, number: int) -> bool:
        """Whether decoding may begin with the frame of this number."""
        packet = self._shown[number]
        return packet == self._begin(number)

    def segments(self, wanted: Sequence[int]) -> list[Segment]:
        """Cut the way to the frames of these numbers (rising) into runs of packets, each begun as late as possible."""
        runs: list[tuple[int, list[int]]] = []
        for first, group in groupby(sorted(wanted, key=self._begin), self._begin):
            numbers = list(group)
            # A frame that is shown before a key frame, but stored after it, is part of the run before.
            while runs and first <= max(self._shown[number] for number in runs[-1][1]):
                first, before = runs.pop()
                numbers = [*before, *numbers]
            runs.append((first, numbers))
        return [self._segment(first, numbers) for first, numbers in runs]

    def _segment(self, first: int, numbers: Sequence[int]) -> Segment:
        packets = frozenset(self._shown[number] for number in numbers)
        return Segment(first, max(packets), packets, frozenset(numbers), self.number_at(self._packets[first].time))

    def _begin(self, number: int) -> int:
        """Packet at which decoding has to begin for the frame of this number."""
        packet = self._shown[number]
        place = bisect_right(self._keys, packet) - 1
        # What is stored after a key frame, but shown before it, refers to frames before it.
        while place > 0 and self.number_at(self._packets[self._keys[place]].time) > number:
            place -= 1
        return self._keys[place]


def _vop_order(packets: Sequence[PacketFacts]) -> Sequence[int]:
    """Packets of MPEG-4 part 2 in the order shown; none if a B-frame comes before the two frames that it refers to.

    A B-frame is shown at once, any other frame when the next such frame has come.
    """
    if not any(packet.b_vop for packet in packets):
        return range(len(packets))
    order: list[int] = []
    held: list[int] = []
    for number, packet in enumerate(packets):
        if not packet.b_vop:
            order += held
            held = [number]
        elif order:
            order.append(number)
        else:
            return []
    return order + held


def vop_facts(data: bytes) -> tuple[bool, str]:
    """Of a packet of MPEG-4 part 2: whether its frame is a B-frame, and why it may be no frame, or more than one."""
    at = data.find(_VOP_START)
    if at < 0 or len(data) <= _LONGEST_EMPTY_VOP:
        return False, "a packet may hold no frame"
    if data.find(_VOP_START, at + 4) >= 0:
        return False, "a packet holds several frames"
    return data[at + 4] >> 6 == _B_VOP, ""


def vpx_hidden(codec: str, data: memoryview) -> bool:
    """Whether a packet of VP8 or VP9 holds nothing but a frame for reference, which is never shown."""
    if codec == "vp8":  # RFC 6386, section 9.1
        return not data[0] >> 4 & 1
    if data[-1] & 0xE0 == 0xC0:  # VP9 bitstream specification, annex B: a superframe, whose last frame is shown
        return False
    bits = data[0] >> (data[0] >> 4 & 3 != 3)  # section 6.2; profile 3 has one more bit before these two
    show_existing_frame, show_frame = bits >> 2 & 1, bits & 1
    return not (show_existing_frame or show_frame)
