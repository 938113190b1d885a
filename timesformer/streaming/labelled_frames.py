"""Frames of a stream with the newest answer drawn into them: in a video file, or in a window."""

import threading
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from timesformer.atomic import report_write_errors
from timesformer.errors import UserError
from timesformer.streaming.live import StreamAnswer

Draw = Callable[[np.ndarray, StreamAnswer | None, float], np.ndarray]
"""Returns a copy of a frame, uint8 [height, width, 3], RGB, with an answer (None before the first) and the time."""

_WAITING = 16  # frames that wait to be drawn
_TICK = Fraction(1, 90000)  # seconds
_BT709 = 1  # FFmpeg's number of these colors, which players assume
_FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}  # playable even if the program is killed
_OPTIONS = {"crf": "23", "preset": "veryfast", "g": "50", "bf": "0"}


class LabelledFrames:
    """Draws answers into frames in a thread of its own, so that the stream need not wait; a context manager.

    The stream waits for frames to be drawn, until `leave_out` is called: then the oldest are left out if frames come
    faster, and counted in `left_out`.
    """

    def __init__(self, draw: Draw, show: Callable[[np.ndarray, float], object]) -> None:
        """Args:
        draw: see `Draw`.
        show: called in the thread with every drawn frame and its time in seconds.
        """
        self._draw, self._show = draw, show
        self._frames: deque[tuple[float, np.ndarray]] = deque()
        self._changed = threading.Condition()
        self._ended, self._failure = False, None
        self.answer: StreamAnswer | None = None  # drawn into the next frames
        self._waits = True
        self.left_out = 0
        self._thread = threading.Thread(target=self._run, name="labelled frames", daemon=True)

    def add(self, seconds: float, image: np.ndarray) -> None:
        """Take a frame; `on_frame` of a `Stream`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waits or len(self._frames) < _WAITING or self._failure)
            self._frames.append((seconds, image))
            if len(self._frames) > _WAITING:
                self._frames.popleft()
                self.left_out += 1
            self._changed.notify_all()

    def leave_out(self) -> None:
        """Do not let the stream wait: its newest frames win."""
        with self._changed:
            self._waits = False
            self._changed.notify_all()

    def check(self) -> None:
        """Raise what stopped the thread, if anything has."""
        if self._failure:
            raise self._failure

    def __enter__(self) -> "LabelledFrames":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended, self._waits = True, False
            self._changed.notify_all()
        self._thread.join()
        self.check()

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._frames or self._ended)
                    if not self._frames:
                        return
                    seconds, image = self._frames.popleft()
                    self._changed.notify_all()
                self._show(self._draw(image, self.answer, seconds), seconds)
        except Exception as error:  # raised again by `check`
            with self._changed:
                self._failure = error
                self._changed.notify_all()


class VideoFileWriter:
    """Writes frames to an MP4 file that players can read at any moment; a context manager.

    The file is created with the first frame.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        """Raise UserError if the file exists, or has another extension."""
        if path.suffix.lower() != ".mp4":
            raise UserError(f"{path}: the video with labels is an MP4 file; choose a name that ends in .mp4")
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists: choose another name, or replace it with --overwrite")
        self._path, self._container, self._last = path, None, -1

    def write(self, image: np.ndarray, seconds: float) -> None:
        """Append a frame, uint8 [height, width, 3], RGB; frames of another size are scaled to that of the first.

        Raises WriteError if the file cannot be written.
        """
        with report_write_errors(self._path, "choose another folder"):
            if self._container is None:
                self._open(*image.shape[:2])
            stream = self._stream
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(stream.width, stream.height, "yuv420p", dst_colorspace="ITU709", threads=1)
            self._last = frame.pts = max(self._last + 1, round(seconds / _TICK))
            frame.time_base = _TICK
            self._container.mux(stream.encode(frame))

    def _open(self, height: int, width: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._path), "w", format="mp4", options=_FRAGMENTS)
        self._stream = stream = self._container.add_stream("libx264", rate=25, options=_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context = stream.codec_context
        context.time_base, context.colorspace = _TICK, _BT709
        context.color_primaries = context.color_trc = _BT709

    def __enter__(self) -> "VideoFileWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._container:
            with report_write_errors(self._path, "choose another folder"):
                try:
                    self._container.mux(self._stream.encode())
                finally:
                    self._container.close()
