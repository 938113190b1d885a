"""The sample table of MP4 and QuickTime files: properties of all packets of a stream, without reading the packets.

Names of boxes are those of ISO/IEC 14496-12. FFmpeg reads the same table, but PyAV gives only a part of it, and each
entry as an object.
"""

import struct
from collections import defaultdict
from typing import BinaryIO, NamedTuple

import numpy as np
from av.video.stream import VideoStream

_LARGEST_MOOV = 2**28  # bytes, of more than 50 hours
_MORE_KEYS = frozenset({b"stps", b"sbgp"})  # may mark more key samples than `stss` does
_COMPARED = 16  # samples that are compared with the entries of FFmpeg


class SampleTable(NamedTuple):
    """Samples of a stream in decoding order: arrays with an element for each, int64 and bool."""

    decoded: np.ndarray  # time in ticks of the stream, from 0
    shown: np.ndarray  # the same plus the composition offset
    positions: np.ndarray  # bytes from the start of the file
    sizes: np.ndarray  # bytes, all above 0
    keys: np.ndarray
    hidden: np.ndarray  # not shown, because of an edit list


def read_sample_table(file: BinaryIO, stream: VideoStream) -> SampleTable | None:
    """Read the table of a stream; None if it does not describe all packets, or FFmpeg reads it in another way.

    The table is incomplete in fragmented files. Packets differ from it if an edit list repeats or leaves out samples.
    """
    try:
        movie = _boxes(_read_moov(file))
        boxes = _track_boxes(movie, stream.id)
        table = _read(boxes, len(stream.index_entries))
        shows_all = _shows_all(movie, boxes, table)
    except (ValueError, IndexError, KeyError, OverflowError, struct.error):  # there is none, or it is damaged
        return None
    if _MORE_KEYS & boxes.keys():
        _mark_keys(table, stream)
    if not shows_all:
        table.hidden[:] = [entry.is_discard for entry in stream.index_entries]
    return table if _agrees(table, stream) else None


def _mark_keys(table: SampleTable, stream: VideoStream) -> None:
    """Mark all key samples that FFmpeg has found."""
    entries, start = stream.index_entries, stream.index_entries[0].timestamp
    number = entries.search_timestamp(start, backward=False)
    while number >= 0:
        table.keys[number] = True
        number = entries.search_timestamp(start + int(table.decoded[number]) + 1, backward=False)


def _agrees(table: SampleTable, stream: VideoStream) -> bool:
    entries, start = stream.index_entries, stream.index_entries[0].timestamp
    for number in np.linspace(0, len(table.sizes) - 1, _COMPARED, dtype=int).tolist():
        entry = entries[number]
        found = entry.timestamp - start, entry.pos, entry.size, entry.is_keyframe
        if found != (table.decoded[number], table.positions[number], table.sizes[number], table.keys[number]):
            return False
    return True


def _track_boxes(movie: dict[bytes, list[memoryview]], track_id: int) -> dict[bytes, memoryview]:
    """Boxes of a track: of its sample table, and its `mdhd` and `elst`; KeyError if there is none."""
    if b"mvex" in movie:
        raise KeyError("sample table: the file is fragmented")
    for content in movie[b"trak"]:
        (header,) = (track := _boxes(content))[b"tkhd"]
        if struct.unpack_from(">I", header, 20 if header[0] == 1 else 12)[0] == track_id:
            media = _boxes(track[b"mdia"][0])
            table = _boxes(_boxes(media[b"minf"][0])[b"stbl"][0])
            edits = _boxes(track[b"edts"][0]) if b"edts" in track else {}
            return {kind: contents[0] for kind, contents in {**table, **edits, b"mdhd": media[b"mdhd"]}.items()}
    raise KeyError(track_id)


def _shows_all(movie: dict[bytes, list[memoryview]], boxes: dict[bytes, memoryview], table: SampleTable) -> bool:
    """Whether the edit list shows all samples, in one part."""
    if b"elst" not in boxes:
        return True
    box, wide = boxes[b"elst"], boxes[b"elst"][0] == 1
    entry = ">qqi" if wide else ">iii"  # duration, start, rate
    count, size = struct.unpack_from(">I", box, 4)[0], struct.calcsize(entry)
    edits = [struct.unpack_from(entry, box, 8 + number * size) for number in range(count)]
    edits = [(duration, start) for duration, start, _ in edits if start >= 0]  # others are pauses
    if len(edits) != 1:
        return False
    (duration, start), movie_scale, scale = edits[0], _timescale(movie[b"mvhd"][0]), _timescale(boxes[b"mdhd"])
    end = start + duration * scale // movie_scale - 1  # FFmpeg may round in another way
    return start <= table.shown.min() and (not duration or table.shown.max() < end)


def _timescale(header: memoryview) -> int:
    """Ticks per second of a media or movie header."""
    return struct.unpack_from(">I", header, 20 if header[0] == 1 else 12)[0]


def _read_moov(file: BinaryIO) -> memoryview:
    """Content of the first `moov` box; empty if there is none."""
    position = 0
    while True:
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            return memoryview(b"")
        size, kind = struct.unpack_from(">I4s", header)
        start = 8
        if size == 1:
            size, start = struct.unpack_from(">Q", header, 8)[0], 16
        if kind == b"moov":
            file.seek(position + start)
            return memoryview(file.read(size - start if start <= size <= _LARGEST_MOOV else 0))
        if size < start:  # 0: up to the end of the file
            return memoryview(b"")
        position += size


def _boxes(content: memoryview) -> dict[bytes, list[memoryview]]:
    """Contents of the boxes in a box, by type."""
    found, position = defaultdict(list), 0
    while position + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, position)
        if size < 8:
            break
        found[kind].append(content[position + 8 : position + size])
        position += size
    return dict(found)


def _read(boxes: dict[bytes, memoryview], expected: int) -> SampleTable:
    if struct.unpack_from(">I", boxes[b"stsd"], 4)[0] != 1:
        raise ValueError("the parameters of the codec change")
    same_size, count = struct.unpack_from(">II", boxes[b"stsz"], 4)
    if count != expected or not count:  # before memory for a false number is allocated
        raise ValueError("another number of samples")
    sizes = np.full(count, same_size, np.int64) if same_size else _numbers(boxes[b"stsz"], count, ">u4", 12)
    durations = _repeated(boxes[b"stts"], ">u4", count)
    offsets = _repeated(boxes[b"ctts"], ">i4", count) if b"ctts" in boxes else 0
    keys = np.full(count, b"stss" not in boxes)
    if b"stss" in boxes:
        keys[_entries(boxes[b"stss"], ">u4") - 1] = True
    if not keys.any() or not sizes.all():
        raise ValueError("no key samples, or samples of no size")
    decoded = np.cumsum(durations) - durations
    return SampleTable(decoded, decoded + offsets, _positions(boxes, sizes), sizes, keys, np.zeros(count, bool))


def _positions(boxes: dict[bytes, memoryview], sizes: np.ndarray) -> np.ndarray:
    """Where samples begin: chunks begin at given positions, and the samples of a chunk follow each other."""
    chunks = _entries(boxes[b"stco"], ">u4") if b"stco" in boxes else _entries(boxes[b"co64"], ">u8")
    first, samples, _ = _entries(boxes[b"stsc"], ">u4", 3).T
    in_chunk = np.repeat(samples, np.diff([*first, len(chunks) + 1]))  # number of samples
    begins = np.cumsum(in_chunk) - in_chunk  # the first sample of each chunk
    before = np.cumsum(sizes) - sizes
    if in_chunk.sum() != len(sizes):
        raise ValueError("samples without a chunk")
    return before + np.repeat(chunks - before[begins], in_chunk)


def _entries(box: memoryview, kind: str, columns: int = 1) -> np.ndarray:
    """Entries of a box that has their number before them: int64 [entries] or [entries, columns]."""
    entries = _numbers(box, struct.unpack_from(">I", box, 4)[0] * columns, kind, 8)
    return entries if columns == 1 else entries.reshape(-1, columns)


def _repeated(box: memoryview, kind: str, count: int) -> np.ndarray:
    """Values of `count` samples from runs of samples with one value: int64."""
    times = _entries(box, ">u4", 2)[:, 0]
    values = _numbers(box, 2 * len(times), kind, 8)[1::2]
    if times.sum() != count:
        raise ValueError("runs of another number of samples")
    return np.repeat(values, times)


def _numbers(box: memoryview, count: int, kind: str, start: int) -> np.ndarray:
    return np.frombuffer(box, kind, count, start).astype(np.int64)
