"""Which packet of a video stream holds which frame, and where decoding may begin, found without decoding."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

import av

# One packet is one frame in these (of MPEG-4, once packed B-frames are unpacked), and key packets are marked.
_CODECS = frozenset({"h264", "hevc", "mpeg4", "mjpeg", "vp8", "vp9", "av1"})
# Formats that store the time at which a frame is shown. Others, such as AVI, store the order of decoding alone, and
# the times that FFmpeg makes of it are wrong for these codecs as soon as frames are reordered.
_FORMATS_WITH_TIMES = frozenset({"mov", "matroska", "webm", "mpegts", "flv"})
_REORDERING_CODECS = frozenset({"h264", "hevc"})

_VOP_START = b"\x00\x00\x01\xb6"  # begins a picture of MPEG-4 part 2 (ISO/IEC 14496-2); two bits of type follow
_B_VOP = 2
_LONGEST_EMPTY_VOP = 19  # bytes: FFmpeg takes no longer packet for one that says "no picture"


class Packets(NamedTuple):
    """Properties of the packets of a stream in decoding order."""

    times: list[int | None]  # when each frame is shown, in any unit; None if unknown
    keys: list[bool]  # whether decoding may begin with it
    hidden: list[bool]  # whether it is never shown
    b_vops: list[bool | None]  # of MPEG-4 part 2, whether it is a B-frame; None if it may hold no frame
    broken: bool  # whether any packet is corrupt
    new_parameters: bool  # whether any packet changes the parameters of the codec

    @classmethod
    def scan(cls, packets: Iterable[av.Packet], codec: str) -> "Packets":
        """Read the properties of packets; they are not kept."""
        times, keys, hidden, b_vops, broken, new_parameters = [], [], [], [], False, False
        for packet in packets:
            times.append(packet.pts)
            keys.append(packet.is_keyframe)
            hidden.append(packet.is_discard)  # shown before the start that an edit list sets
            broken = broken or packet.is_corrupt
            new_parameters = new_parameters or packet.has_sidedata("new_extradata")
            if codec == "mpeg4":
                b_vops.append(_is_b_vop(bytes(packet)))
            elif codec in ("vp8", "vp9") and _is_hidden_vpx(codec, memoryview(packet)):
                hidden[-1] = True
        return cls(times, keys, hidden, b_vops, broken, new_parameters)

    @property
    def first_key(self) -> int:
        """Number of the first key packet, 0 where there is none."""
        return self.keys.index(True) if True in self.keys else 0

    def leading(self, codec: str, formats: str) -> list[int]:
        """Return packets of H.264 and HEVC that may refer to frames before the start of the stream.

        After a cut through an open group of pictures, they are stored before the first key frame, or after it but shown
        before it.
        """
        first = self.first_key
        if codec not in _REORDERING_CODECS or not _FORMATS_WITH_TIMES.intersection(formats.split(",")):
            return []
        if not any(self.keys) or self.times[first] is None:
            return []
        end = next((n for n in range(first + 1, len(self.keys)) if self.keys[n]), len(self.keys))
        # Matroska has no time for what is shown before the start of the file.
        after = (n for n in range(first + 1, end) if self.times[n] is None or self.times[n] < self.times[first])
        return [*range(first), *after]


class Segment(NamedTuple):
    """Packets to decode, `first` to `last`, for the frames `numbers`, which are in `packets`."""

    first: int
    last: int
    packets: frozenset[int]
    numbers: frozenset[int]
    key: int | None  # number of the frame in the packet `first`


class FrameIndex:
    """Frames of a stream by number, in the order shown; `num_frames` as far as packets tell.

    `sequential` is why frames can only be found by decoding from the start and counting; empty where packets tell.
    """

    def __init__(self, packets: Packets, codec: str, formats: str, reorders: bool) -> None:
        """codec, formats: FFmpeg's names; reorders: whether the codec announces frames that are shown out of order."""
        self._times, self._keys = packets.times, packets.keys
        order: Sequence[int] = _vop_order(packets.b_vops) if any(packets.b_vops) else range(len(self._times))
        shown = [number for number in order if not packets.hidden[number]]
        self.num_frames = packets.hidden.count(False)
        self.sequential = self._why_sequential(shown, codec, set(formats.split(",")), reorders, packets.b_vops)
        if codec != "mpeg4" and not self.sequential:
            shown.sort(key=lambda number: self._times[number])
        self._shown = shown
        self._number = {self._times[packet]: number for number, packet in enumerate(shown)}
        # A hidden key frame never comes out, so that nothing proves it to be one; the first packet needs no proof.
        self._begins = [n for n, key in enumerate(packets.keys) if n == 0 or (key and not packets.hidden[n])]

    def _why_sequential(
        self, shown: Sequence[int], codec: str, formats: set[str], reorders: bool, b_vops: Sequence[bool | None]
    ) -> str:
        times = [self._times[number] for number in shown]
        if codec not in _CODECS:
            return f"{codec} is not among {', '.join(sorted(_CODECS))}"
        if not any(self._keys[:1]):
            return "the first packet is no key frame"
        if None in times or len(set(times)) < len(times):
            return "times are missing or not unique"
        if codec == "mpeg4":  # its order does not depend on times
            if None in b_vops:
                return "a packet may hold no frame"
            return "" if times else "the first B-frame lacks a frame that it refers to"
        if codec in _REORDERING_CODECS and not formats & _FORMATS_WITH_TIMES:
            return f"{codec} in a format without times"
        if reorders and len(times) > 1 and all(before < after for before, after in pairwise(times)):
            return "frames are said to be reordered, but their times are not"
        return ""

    @property
    def times(self) -> list[int | None]:
        """When each frame is shown, in the order of their numbers."""
        return [self._times[packet] for packet in self._shown]

    def number_at(self, time: int | None) -> int | None:
        """Return the number of the frame shown at this time, None where there is none."""
        return self._number.get(time)

    def segments(self, wanted: Sequence[int]) -> list[Segment]:
        """Return the runs of packets to decode for these frames (rising), each begun as late as possible."""
        runs: list[tuple[int, list[int]]] = []
        for first, group in groupby(sorted(wanted, key=self._begin), self._begin):
            numbers = list(group)
            # A frame that is shown before a key frame, but stored after it, is part of the run before.
            while runs and first <= max(self._shown[number] for number in runs[-1][1]):
                first, before = runs.pop()
                numbers = [*before, *numbers]
            runs.append((first, numbers))
        segments = []
        for first, numbers in runs:
            packets = frozenset(self._shown[number] for number in numbers)
            key = self.number_at(self._times[first])
            segments.append(Segment(first, max(packets), packets, frozenset(numbers), key))
        return segments

    def _begin(self, number: int) -> int:
        """Packet at which decoding has to begin for a frame."""
        position = bisect_right(self._begins, self._shown[number]) - 1
        # What is stored after a key frame, but shown before it, refers to frames before it.
        while position > 0 and self._number[self._times[self._begins[position]]] > number:
            position -= 1
        return self._begins[position]


def _vop_order(b_vops: Sequence[bool | None]) -> list[int]:
    """Packets of MPEG-4 part 2 in the order shown; none if a B-frame comes before the two frames that it refers to.

    A B-frame is shown at once, any other frame when the next such frame has come.
    """
    order: list[int] = []
    held: list[int] = []
    for number, b_vop in enumerate(b_vops):
        if not b_vop:
            order += held
            held = [number]
        elif order:
            order.append(number)
        else:
            return []
    return order + held


def _is_b_vop(data: bytes) -> bool | None:
    at = data.find(_VOP_START)
    if at < 0 or len(data) <= _LONGEST_EMPTY_VOP:
        return None
    return data[at + 4] >> 6 == _B_VOP


def _is_hidden_vpx(codec: str, data: memoryview) -> bool:
    """Whether a packet of VP8 or VP9 holds nothing but a frame for reference, which is never shown."""
    if codec == "vp8":  # RFC 6386, section 9.1
        return not data[0] >> 4 & 1
    if data[-1] & 0xE0 == 0xC0:  # VP9 bitstream specification, annex B: a superframe, whose last frame is shown
        return False
    bits = data[0] >> (data[0] >> 4 & 3 != 3)  # section 6.2; profile 3 has one more bit before these two
    return not bits & 0b101  # neither show_existing_frame nor show_frame
