"""Which packet of a video stream holds which frame, and where decoding may begin, found without decoding."""

from array import array
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import av
import numpy as np

NO_TIME = -(2**63)
"""In arrays, a time that is unknown."""

# One packet is one frame in these (of MPEG-4, once packed B-frames are unpacked), and key packets are marked.
_CODECS = frozenset({"h264", "hevc", "mpeg4", "mjpeg", "vp8", "vp9", "av1"})
# Formats that store the time at which a frame is shown. Others, such as AVI, store the order of decoding alone, and
# the times that FFmpeg makes of it are wrong for these codecs as soon as frames are reordered.
FORMATS_WITH_TIMES = frozenset({"mov", "matroska", "webm", "mpegts", "flv"})
_REORDERING_CODECS = frozenset({"h264", "hevc"})
CODECS_WITH_HIDDEN_FRAMES = frozenset({"vp8", "vp9"})  # only the content of a packet shows whether its frame is hidden

_VOP_START = b"\x00\x00\x01\xb6"  # begins a picture of MPEG-4 part 2 (ISO/IEC 14496-2); two bits of type follow
_B_VOP = 2
_LONGEST_EMPTY_VOP = 19  # bytes: FFmpeg takes no longer packet for one that says "no picture"


class Packets(NamedTuple):
    """Properties of the packets of a stream in decoding order, in arrays with an element for each packet."""

    times: np.ndarray  # int64: when each frame is shown, in any unit; NO_TIME if unknown
    keys: np.ndarray  # bool: whether decoding may begin with it
    hidden: np.ndarray  # bool: whether it is never shown
    positions: np.ndarray  # int64: where it begins in the file, in bytes; -1 if unknown
    b_vops: Sequence[bool | None] = ()  # of MPEG-4 part 2, whether it is a B-frame; None if it may hold no frame
    broken: bool = False  # whether any packet is corrupt
    new_parameters: bool = False  # whether any packet changes the parameters of the codec

    @classmethod
    def scan(cls, packets: Iterable[av.Packet], codec: str) -> "Packets":
        """Read the properties of packets; they are not kept."""
        times, positions, keys, hidden, b_vops = array("q"), array("q"), bytearray(), bytearray(), []
        broken = new_parameters = False
        for packet in packets:
            time, position = packet.pts, packet.pos
            times.append(NO_TIME if time is None else time)
            positions.append(-1 if position is None else position)
            keys.append(packet.is_keyframe)
            is_hidden = packet.is_discard  # shown before the start that an edit list sets
            broken = broken or packet.is_corrupt
            new_parameters = new_parameters or packet.has_sidedata("new_extradata")
            if codec == "mpeg4":
                b_vops.append(_is_b_vop(bytes(packet)))
            elif codec in CODECS_WITH_HIDDEN_FRAMES:
                is_hidden = is_hidden or _is_hidden_vpx(codec, memoryview(packet))
            hidden.append(is_hidden)
        flags = (np.frombuffer(flag, bool) for flag in (keys, hidden))
        return cls(to_numpy(times), *flags, to_numpy(positions), b_vops, broken, new_parameters)

    @property
    def first_key(self) -> int:
        """Number of the first key packet, 0 where there is none."""
        return int(self.keys.argmax()) if len(self.keys) else 0

    def leading(self, codec: str, formats: str) -> list[int]:
        """Return packets of H.264 and HEVC that may refer to frames before the start of the stream.

        After a cut through an open group of pictures, they are stored before the first key frame, or after it but shown
        before it.
        """
        first = self.first_key
        if codec not in _REORDERING_CODECS or not FORMATS_WITH_TIMES.intersection(formats.split(",")):
            return []
        if not self.keys.any() or self.times[first] == NO_TIME:
            return []
        after = self.keys[first + 1 :]
        end = first + 1 + (int(after.argmax()) if after.any() else len(after))
        # Matroska has no time for what is shown before the start of the file; NO_TIME is before all times.
        early = np.flatnonzero(self.times[first + 1 : end] < self.times[first])
        return [*range(first), *(early + first + 1).tolist()]


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
        has_b_vops = any(packets.b_vops)
        order = _vop_order(packets.b_vops) if has_b_vops else np.arange(len(packets.times))
        shown = order[~packets.hidden[order]]
        times = packets.times[shown]
        # MPEG-4 part 2 is shown in an order that does not depend on times, other codecs in that of times.
        by_time = np.argsort(times, kind="stable")  # fast where times rise nearly everywhere
        self._rising = times[by_time]
        self.num_frames = len(packets.hidden) - int(packets.hidden.sum())
        self.sequential = self._why_sequential(packets, codec, set(formats.split(",")), reorders, times)
        self._number_by_time = by_time if codec == "mpeg4" else None
        if codec != "mpeg4" and not self.sequential:
            shown, times = shown[by_time], self._rising
        self._shown, self._shown_times, self._times = shown, times, packets.times
        # A hidden key frame never comes out, so that nothing proves it to be one; the first packet needs no proof.
        begins = packets.keys & ~packets.hidden
        begins[:1] = True
        self._begins = np.flatnonzero(begins)

    def _why_sequential(
        self, packets: Packets, codec: str, formats: set[str], reorders: bool, times: np.ndarray
    ) -> str:
        if codec not in _CODECS:
            return f"{codec} is not among {', '.join(sorted(_CODECS))}"
        if not packets.keys[:1].any():
            return "the first packet is no key frame"
        if NO_TIME in self._rising[:1] or not rises(self._rising):
            return "times are missing or not unique"
        if codec == "mpeg4":  # its order does not depend on times
            if None in packets.b_vops:
                return "a packet may hold no frame"
            return "" if len(times) else "the first B-frame lacks a frame that it refers to"
        if codec in _REORDERING_CODECS and not formats & FORMATS_WITH_TIMES:
            return f"{codec} in a format without times"
        if reorders and len(times) > 1 and rises(times):
            return "frames are said to be reordered, but their times are not"
        return ""

    @cached_property
    def times(self) -> array:
        """When each frame is shown, in the order of their numbers."""
        return array("q", self._shown_times.tobytes())

    @cached_property
    def times_rise(self) -> bool:
        """Whether each frame is shown after the one before it."""
        return rises(self._shown_times)

    def number_at(self, time: int | None) -> int | None:
        """Return the number of the frame shown at this time, None where there is none."""
        if time is None:
            return None
        place = int(np.searchsorted(self._rising, time))
        if place == len(self._rising) or self._rising[place] != time:
            return None
        return place if self._number_by_time is None else int(self._number_by_time[place])

    def number_in(self, packet: int) -> int | None:
        """Return the number of the frame that a packet holds, None where it holds none that is shown."""
        return self.number_at(int(self._times[packet]))

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
            packets = frozenset(self._shown[numbers].tolist())
            key = self.number_in(first)
            segments.append(Segment(first, max(packets), packets, frozenset(numbers), key))
        return segments

    def _begin(self, number: int) -> int:
        """Packet at which decoding has to begin for a frame."""
        position = int(np.searchsorted(self._begins, self._shown[number], side="right")) - 1
        # What is stored after a key frame, but shown before it, refers to frames before it.
        while position > 0 and self.number_in(self._begins[position]) > number:
            position -= 1
        return int(self._begins[position])


def rises(times: np.ndarray) -> bool:
    """Return whether each time is later than the one before it."""
    return bool((times[1:] > times[:-1]).all())


def to_numpy(numbers: array) -> np.ndarray:
    """Return an array of type "q" as int64, without copying it."""
    return np.frombuffer(numbers, np.int64)


def _vop_order(b_vops: Sequence[bool | None]) -> np.ndarray:
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
            return np.empty(0, int)
    return np.array(order + held)


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
