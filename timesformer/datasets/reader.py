"""One way to read frames from a video file (PyAV) and from a folder of frames (Pillow)."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from PIL import Image

from timesformer.errors import UserError

FRAME_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png"})


class VideoError(UserError):
    """A clip that cannot be read."""

    def __init__(self, message: str) -> None:
        # DataLoader puts the traceback of its worker process before the message of an error that comes from there.
        super().__init__(message.rpartition("VideoError: ")[2].strip())


class VideoReader(ABC):
    """Frames of one clip, by number in the order shown; use it as a context manager.

    num_frames: frames of the clip, at least 1; corrected by `read` when fewer can be decoded than the file promises.
    fps: frames per second, 0.0 where unknown (folders of frames).
    """

    num_frames: int
    fps: float

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Return the frames of these numbers as uint8 (T, H, W, 3) RGB; numbers may repeat and come in any order.

        Raises VideoError when one of them cannot be decoded, IndexError when one is outside 0..num_frames-1.
        """
        wanted = sorted({int(index) for index in indices})
        if not wanted or wanted[0] < 0 or wanted[-1] >= self.num_frames:
            raise IndexError(f"frames {list(indices)} of {self.path}: expected numbers from 0 to {self.num_frames - 1}")
        frames = dict(zip(wanted, self._frames(wanted), strict=True))
        shapes = sorted({frame.shape[1::-1] for frame in frames.values()})
        if len(shapes) > 1:
            raise self._error(f"its frames differ in size ({shapes[0]} and {shapes[-1]} pixels): expected one size")
        return np.stack([frames[int(index)] for index in indices])

    def frames(self) -> Iterator[np.ndarray]:
        """Yield every frame in order, uint8 (H, W, 3) RGB, one at a time; VideoError as `read` has it."""
        return self._frames(range(self.num_frames))

    def verify(self) -> None:
        """Decode every frame, keeping none; VideoError when one is missing or broken."""
        for _ in self._frames(range(self.num_frames), convert=False):
            pass

    def close(self) -> None:  # noqa: B027  # not abstract: the readers here have nothing to close
        """Let go of what the reader holds. The readers here hold no file open between two calls."""

    @abstractmethod
    def _frames(self, wanted: Sequence[int], convert: bool = True) -> Iterator[np.ndarray]:
        """Yield the frames of these numbers (rising, each once), (H, W, 3); anything at all if not `convert`."""

    def _error(self, reason: str) -> VideoError:
        return VideoError(f"{self.path}: {reason}")


def open_video(path: str | os.PathLike[str], *, num_frames: int = 0, fps: float = 0.0) -> VideoReader:
    """Open a video file or a folder of frames (.jpg, .png; in natural order: frame2 before frame10).

    num_frames, fps: of a video file, where they are known; its frames are then not counted.
    Raises VideoError, naming the file and the reason, when there is nothing to read.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        return FrameFolder(path)
    if not os.path.exists(path):
        raise VideoError(f"{path}: no such file or folder")
    if os.path.getsize(path) == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes): copy or download it again")
    return VideoFile(path, num_frames, fps)


def frame_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Frames in `folder`, in natural order; hidden files are left out."""
    files = (path for path in Path(folder).iterdir() if path.suffix.lower() in FRAME_EXTENSIONS)
    return sorted((path for path in files if not path.name.startswith(".")), key=_natural_key)


def _natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    # Every other part of the split is digits, so that numbers are only ever compared with numbers.
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if place % 2 else (0, part) for place, part in enumerate(parts)], path.name


class FrameFolder(VideoReader):
    """A clip stored as one image per frame."""

    fps = 0.0

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._files = frame_files(path)
        self.num_frames = len(self._files)
        if not self._files:
            raise self._error(f"no frames in this folder: expected {', '.join(sorted(FRAME_EXTENSIONS))} files")

    def _frames(self, wanted: Sequence[int], convert: bool = True) -> Iterator[np.ndarray]:
        for index in wanted:
            try:
                with Image.open(self._files[index]) as image:
                    yield np.asarray(image.convert("RGB"))
            # Pillow reports broken images by any of these.
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise self._error(f"frame {self._files[index].name} is unreadable ({error})") from error


class VideoFile(VideoReader):
    """A clip in a video container.

    Frames are counted by walking over the packets, which decodes nothing and does not trust the header. Frame number
    i is the i-th that the decoder puts out, so reordering (B-frames) and odd timestamps do not matter.
    """

    def __init__(self, path: str, num_frames: int = 0, fps: float = 0.0) -> None:
        super().__init__(path)
        self.num_frames, self.fps = num_frames, fps
        if not num_frames:
            self._count()

    def _count(self) -> None:
        try:
            with self._open() as container:
                stream = self._stream(container)
                packets = [packet for packet in container.demux(stream) if packet.size]
                # Packets before an edit list's start are decoded for reference, but not shown.
                self.num_frames = sum(not packet.is_discard for packet in packets)
                self.fps = float(stream.average_rate or 0)
                end = max((entry.pos + entry.size for entry in stream.index_entries), default=0)
                broken = any(packet.is_corrupt for packet in packets)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._error(f"not a video that can be decoded ({_reason(error)})") from error
        size = os.path.getsize(self.path)
        if broken or end > size:
            raise self._error(f"cut short: the file ends at byte {size} in the middle of its frames; copy it again")
        if not self.num_frames:
            raise self._error("no frames in the video stream: the file is cut short or broken; copy it again")

    def _open(self) -> "av.container.InputContainer":
        # An absolute path: FFmpeg would take "a:b.mp4" for a protocol.
        return av.open(os.path.abspath(self.path))

    def _stream(self, container: "av.container.InputContainer") -> "av.video.stream.VideoStream":
        if container.format.name == "tty":  # FFmpeg draws text files whose name ends in .txt
            raise self._error("text, not a video")
        pictures = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
        if not streams:
            raise self._error(f"no video stream, only {', '.join(s.type for s in container.streams) or 'nothing'}")
        streams[0].codec_context.thread_count = 1  # every loading process is a thread already
        return streams[0]

    def _frames(self, wanted: Sequence[int], convert: bool = True) -> Iterator[np.ndarray]:
        decoded = 0
        remaining = iter(wanted)
        target = next(remaining)
        try:
            with self._open() as container:
                for frame in container.decode(self._stream(container)):
                    if decoded == target:
                        yield _to_rgb(frame) if convert else frame
                        target = next(remaining, None)
                        if target is None:
                            return
                    decoded += 1
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._error(
                f"decoding stops after frame {decoded} of {self.num_frames} ({_reason(error)})"
            ) from error
        promised, self.num_frames = self.num_frames, decoded
        raise self._error(f"frame {target} is missing: the file promises {promised} frames, but {decoded} decode")


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    # threads=1: by default the colour conversion starts a thread for every core, and for every frame.
    image = frame.to_ndarray(format="rgb24", threads=1)
    return np.rot90(image, round(frame.rotation / 90)) if frame.rotation else image  # both turn counter-clockwise


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
