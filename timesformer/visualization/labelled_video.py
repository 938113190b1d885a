"""Writes a copy of a video with class labels and the time in its frames."""

import math
import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from timesformer.atomic import report_write_errors, write_atomically
from timesformer.datasets.decoding.base import StreamedFrame
from timesformer.datasets.decoding.open import VideoError, VideoReader, open_video
from timesformer.datasets.decoding.packet_source import open_container
from timesformer.errors import UserError
from timesformer.localization.segments import Segment
from timesformer.localization.windows import WindowScores
from timesformer.progress import Progress
from timesformer.runtime.signals import raise_if_interrupted
from timesformer.visualization.video_overlay import draw_labels

COPIED_SOUND = ("aac", "mp3", "opus", "flac", "ac3")
"""Codecs of sound that are copied into the MP4 file."""

_OPTIONS = {"crf": "20", "preset": "veryfast"}  # of the encoder libx264
_BT709 = 1  # FFmpeg's number of these colors, which players assume
_TICK = Fraction(1, 90000)  # seconds, where that of the source is not usable


class Labels:
    """Label and bars at each time of a video."""

    def __init__(
        self,
        windows: Sequence[WindowScores],
        segments: Sequence[Segment],
        class_names: Sequence[str],
        num_bars: int = 3,
    ) -> None:
        """Args:
        windows: in the order of time; bars show the window whose middle is closest.
        segments: in the order of time, without overlap.
        class_names: in the order of `WindowScores.probabilities`.
        """
        self._windows, self._segments = windows, segments
        self._names, self._num_bars = class_names, num_bars
        self._middles = [(window.start + window.end) / 2 for window in windows]
        self._starts = [segment.start for segment in segments]

    def draw(self, frame: np.ndarray, time: float) -> np.ndarray:
        """A copy of a frame, uint8 [height, width, 3], with what belongs to its time in seconds."""
        return draw_labels(frame, self._classes(time), time, self._segment_at(time))

    def _segment_at(self, time: float) -> str:
        segment = self._segments[number] if (number := bisect_right(self._starts, time) - 1) >= 0 else None
        return segment.class_name if segment and time < segment.end else ""

    def _classes(self, time: float) -> list[tuple[str, float]]:
        after = bisect_left(self._middles, time)
        near = range(max(0, after - 1), min(after + 1, len(self._middles)))
        if not near:
            return []
        scores = self._windows[min(near, key=lambda number: abs(self._middles[number] - time))].probabilities
        best = np.argsort(-scores, kind="stable")[: self._num_bars]
        return [(self._names[number], float(scores[number])) for number in best]


def write_overlay(
    video: str | os.PathLike[str], labels: Labels, output: Path, fps: float | None = None, quiet: bool = False
) -> list[str]:
    """Writes a copy of a video with the label of the segment, bars of the classes, and the time in every frame.

    The copy is an MP4 file with H.264, which browsers play. Its frames are upright and shown at the same times; an odd
    last row or column is repeated. Sound with one of the codecs COPIED_SOUND is copied as it is. The copy of a damaged
    video ends at the damage.

    Args:
        video: file or folder of frames.
        output: path that ends in .mp4.
        fps: frame rate of videos without one.
        quiet: whether to show no progress.

    Returns:
        Notes for the user, such as sound that is left out.

    Raises:
        UserError: for another extension, or the path of the video itself.
        VideoError: if nothing of the video can be read, or its frame rate is unknown.
        WriteError: if the copy cannot be written.
    """
    if output.suffix.lower() != ".mp4":
        raise UserError(f"{output}: the video with labels is an MP4 file; choose a name that ends in .mp4")
    if output.exists() and os.path.exists(video) and output.samefile(video):
        raise UserError(f"{output} is the video itself; choose another name for the copy with labels")
    notes: list[str] = []

    def write(file: BinaryIO) -> None:
        with av.open(file.name, "w", format="mp4", options={"movflags": "faststart"}) as target:
            copy = _Copy(reader, source, target)
            with nullcontext() if quiet else Progress(f"writing {output.name}", reader.num_frames, "frame") as progress:
                for _ in copy.frames(labels):
                    raise_if_interrupted()
                    if progress:
                        progress.advance()
            notes.extend(copy.notes)

    with open_video(video, allow_cut_short=True) as reader, _container(reader.path) as source:
        reader.fps = reader.fps or fps or 0.0
        with report_write_errors(output, "choose another folder for the video with labels"):
            write_atomically(output, write)
    return notes


def _container(path: str) -> InputContainer | nullcontext[None]:
    return open_container(path) if os.path.isfile(path) else nullcontext()


class _Copy:
    """Encodes the frames of a video and copies its sound, in the order of time."""

    def __init__(self, reader: VideoReader, source: InputContainer | None, target: OutputContainer) -> None:
        self._reader, self._target = reader, target
        self.notes: list[str] = []
        self._is_damaged = False
        is_short = reader.time_base.denominator < 2**31  # as files need it
        self._tick = reader.time_base if is_short else _TICK
        self._stream = self._add_pictures()
        sound = source.streams.best("audio") if source else None
        context = sound.codec_context if sound else None
        self._sound: Iterator[av.Packet] = iter(())
        self._waiting: av.Packet | None = None  # of the sound
        if sound and (name := context.codec.canonical_name if context else "unknown codec") not in COPIED_SOUND:
            self.notes.append(f"the sound ({name}) is left out: only {', '.join(COPIED_SOUND)} can be copied")
        elif source and sound:
            self._sound = self._sound_packets(source, sound, target.add_stream_from_template(sound))

    def frames(self, labels: Labels) -> Iterator[int]:
        """Writes frame after frame, and yields their numbers."""
        reader, first, last, end = self._reader, None, None, math.inf
        for number, frame in enumerate(self._readable_frames()):
            first = frame.tick if first is None else first
            time = reader.delay + float((frame.tick - first) * reader.time_base)
            picture = self._picture(labels.draw(frame.image(), time))
            picture.pts, picture.time_base = round(Fraction(time) / self._tick), self._tick
            if last:
                last.duration = picture.pts - last.pts
                self._encode(last)
            last = picture
            yield number
        if last:
            last.duration = round(1 / (reader.fps * self._tick)) if reader.fps else 0
            self._encode(last)
            if self._is_damaged:
                end = float((last.pts + last.duration) * self._tick)
        self._target.mux(self._stream.encode())
        self._copy_sound(end)

    def _readable_frames(self) -> Iterator[StreamedFrame]:
        number = 0
        try:
            for number, frame in enumerate(self._reader.stream(), start=1):  # noqa: B007
                yield frame
        except VideoError as error:
            if not number:
                raise
            self._is_damaged = True
            self.notes.append(f"the copy ends where the video is damaged: {error}")

    def _add_pictures(self) -> VideoStream:
        width, height = self._reader.size
        rate = Fraction(min(max(self._reader.fps, 0.1), 1000.0)).limit_denominator(1001)
        stream = self._target.add_stream("libx264", rate=rate, options=_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context = stream.codec_context
        context.time_base = self._tick
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        return stream

    def _picture(self, drawn: np.ndarray) -> av.VideoFrame:
        height, width, _ = drawn.shape
        if height % 2 or width % 2:
            drawn = np.pad(drawn, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(drawn, format="rgb24")
        return picture.reformat(format="yuv420p", dst_colorspace="ITU709", threads=1)

    def _encode(self, picture: av.VideoFrame) -> None:
        self._copy_sound(float(picture.pts * self._tick))
        self._target.mux(self._stream.encode(picture))

    def _copy_sound(self, until: float) -> None:
        """Copies the sound up to a time in seconds, so that the file is in the order of time."""
        while (packet := self._waiting or next(self._sound, None)) is not None:
            self._waiting = packet
            if float(packet.pts * packet.time_base) > until:
                return
            self._target.mux(packet)
            self._waiting = None

    def _sound_packets(self, source: InputContainer, sound: AudioStream, target: AudioStream) -> Iterator[av.Packet]:
        """Packets of the sound, from the time 0 of a player."""
        start = round(Fraction(source.start_time or 0, av.time_base) / sound.time_base)
        try:
            for packet in source.demux(sound):
                if packet.size and packet.dts is not None and packet.pts is not None:
                    packet.pts, packet.dts = packet.pts - start, packet.dts - start
                    packet.stream = target
                    yield packet
        except av.FFmpegError as error:
            self.notes.append(f"the sound ends where the file is damaged ({error.strerror})")
