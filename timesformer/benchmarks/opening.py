"""Time to open long videos and to read a clip from their middle, compared with reading all packets."""

import statistics
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import av
from av.video.frame import PictureType

from timesformer.benchmarks.tables import header, row
from timesformer.benchmarks.timing import describe_machine, one_core, run_in_subprocess, time_in_turn
from timesformer.datasets.decoding.open import open_video
from timesformer.errors import counted

CODECS = {".mp4": "libx264", ".mkv": "libx264", ".ts": "libx264", ".avi": "mpeg4"}
_OPTIONS = {
    # B-frames everywhere: a stream that announces B-frames and has none is decoded from the start.
    "libx264": {"preset": "veryfast", "x264-params": "keyint=100:bframes=2:b-adapt=0"},
    "mpeg4": {"g": "100", "bf": "2"},
}
_TITLES = {"libx264": "H.264", "mpeg4": "MPEG-4"}
_SIZE, _RATE, _PART = "320x240", 25, 1500  # width and height, frames per second, frames that are encoded


def make_long_videos(folder: Path, hours: float) -> dict[str, Path]:
    """Make videos whose packets repeat, one for each kind of container; returns their files by title."""
    files = {}
    for suffix, codec in CODECS.items():
        part, path = folder / f"{codec}.{'avi' if codec == 'mpeg4' else 'mp4'}", folder / f"long{suffix}"
        if not part.exists():
            _encode_part(part, codec)
        _repeat(part, path, round(hours * 3600 * _RATE / _PART))
        files[f"{hours:g} h, {_TITLES[codec]} {_SIZE}, {suffix}"] = path
    return files


def _encode_part(path: Path, codec: str) -> None:
    graph = f"testsrc=size={_SIZE}:rate={_RATE}"
    with av.open(graph, format="lavfi") as scene, av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=_RATE, options=_OPTIONS[codec])
        stream.width, stream.height, stream.pix_fmt = *map(int, _SIZE.split("x")), "yuv420p"
        for frame in islice(scene.decode(video=0), _PART):
            frame = frame.reformat(format="yuv420p")
            frame.pict_type = PictureType.NONE  # the encoder chooses; that of generated frames is a key frame
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _repeat(part: Path, path: Path, times: int) -> None:
    with av.open(str(path), "w") as container:
        for number in range(times):
            with av.open(str(part)) as source:
                template = source.streams.video[0]
                stream = container.streams.video[0] if number else container.add_stream_from_template(template)
                shift = round(number * _PART / _RATE / template.time_base)
                for packet in source.demux(template):
                    if packet.size:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                        container.mux(packet)


def opening_table(files: Mapping[str, Path], rounds: int) -> Iterator[str]:
    """Table with a row for each file: medians of `rounds` rounds, on one core."""
    columns = {"open": _open, "first frame": _first, "number of frames": _count, "clip from the middle": _clip}
    caption = (
        f"{describe_machine()}, one core; PyAV {av.__version__}. Milliseconds of processor time, opening the file "
        f"included: medians of {counted(rounds, 'round')}. A clip has 8 frames, 32 apart. The index is what is kept in "
        "memory of all packets."
    )
    yield from header(caption, ["file", "MB", "frames", *columns, "all packets", "index (MB)"])
    for title, path in files.items():
        runs = {name: lambda run=run, path=path: run(path) for name, run in {**columns, "": _all_packets}.items()}
        with one_core():
            seconds = time_in_turn(runs, rounds, clock=time.process_time)
        cells = [f"{1e3 * statistics.median(times):.1f}" for times in seconds.values()]
        index = run_in_subprocess(_index_size, path)
        yield row([title, f"{path.stat().st_size / 1e6:.0f}", _count(path), *cells, f"{index / 1e6:.1f}"])


def _open(path: Path) -> None:
    open_video(path).close()


def _first(path: Path) -> None:
    with open_video(path) as video:
        next(video.stream()).image()


def _count(path: Path) -> int:
    with open_video(path) as video:
        return video.num_frames


def _clip(path: Path) -> None:
    with open_video(path) as video:
        middle = video.num_frames // 2
        video.read(range(middle, min(middle + 8 * 32, video.num_frames), 32))


def _all_packets(path: Path) -> None:
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            _ = packet.pts


def _index_size(path: Path) -> int:
    """Bytes that Python and NumPy allocate for the number and times of all frames."""
    with open_video(path) as video:
        tracemalloc.start()
        _ = video.num_frames, video.timing
        return tracemalloc.get_traced_memory()[0]
