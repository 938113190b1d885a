"""Open a video file, a folder of frames, numbered frames, or a video in memory as a `VideoReader`."""

import errno
import os
import re
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image

from timesformer.datasets.decoding.base import VideoError, VideoReader
from timesformer.datasets.decoding.containers import VIDEO_EXTENSIONS
from timesformer.datasets.decoding.frame_series import FRAME_EXTENSIONS, is_image_name
from timesformer.datasets.decoding.images import FrameFiles, frame_files, numbered_frames
from timesformer.datasets.decoding.memory import EXPECTED, EncodedVideo, Frames, check_fps, is_array
from timesformer.datasets.decoding.packet_source import LARGEST_KEPT
from timesformer.datasets.decoding.pyav import VideoFile
from timesformer.datasets.decoding.shard_frames import ShardFrames
from timesformer.datasets.decoding.shards import ShardFile

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "FRAME_EXTENSIONS",
    "SHOWN",
    "Frames",
    "Source",
    "Video",
    "VideoError",
    "VideoReader",
    "frame_files",
    "is_image_name",
    "name_of",
    "open_video",
    "to_source",
]

Video: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | np.ndarray | Tensor | Sequence[Any] | Frames"
)
"""What `open_video` accepts: see there."""

Source: TypeAlias = str | EncodedVideo | Frames | FrameFiles
"""A video that can be handed to another process: a path, the content of a file, frames, or files of frames."""

SHOWN = 200  # characters, in a message, of text that is no path
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def open_video(
    video: "Video | Source",
    *,
    short_side: int = 0,
    num_frames: int = 0,
    fps: float | None = None,
    allow_cut_short: bool = False,
) -> VideoReader:
    """Open a video.

    Args:
        video: path of a video file, of a folder of frames, of numbered frames `DIR/NAME_%06d.jpg#FIRST-LAST`, or of a
            clip in a tar file `SHARD.tar/NAME#bytes=FIRST-LAST`;
            bytes of a video file; a binary file object, which is read from its start into memory; frames, uint8
            [frames, height, width, 3], RGB, as an array or tensor; a list of images or paths of images; `Frames`.
        short_side: larger frames may come scaled down to so many pixels; 0: as they are.
        num_frames: from an earlier look at the file, and trusted; 0: unknown.
        fps: frames per second of a video without its own: frames, images, folders; None or 0: unknown.
        allow_cut_short: whether a video file that is cut short has the frames up to there; `stream` raises VideoError
            after them. MPEG-TS and other files may be cut short unnoticed.

    Raises VideoError, naming the video and the reason, when there is nothing to read.
    """
    source = to_source(video, fps)
    if isinstance(source, EncodedVideo):
        return VideoFile(source.name, len(source.content), short_side, num_frames, fps or 0.0, source, allow_cut_short)
    if isinstance(source, FrameFiles):
        return FrameFiles(source.path, source.files, short_side, source.fps)
    if isinstance(source, Frames):
        return source
    return _open_path(source, short_side, num_frames, fps or 0.0, allow_cut_short)


def to_source(video: "Video | Source", fps: float | None = None) -> Source:
    """Return a video as something that another process can open; arguments and errors as in `open_video`.

    Paths are not opened. File objects are read.
    """
    is_path = isinstance(video, str | os.PathLike)
    if fps:
        check_fps(fps, os.fsdecode(video) if is_path else f"a video of type {type(video).__name__}")
    if is_path:
        if not os.fspath(video):
            raise VideoError("the path of the video is empty, expected that of a video file or a folder of frames")
        return os.fsdecode(video)
    if isinstance(video, Frames):
        return Frames(video.images, fps, video.path) if fps and not video.fps else video
    if isinstance(video, EncodedVideo | FrameFiles):
        return video
    if isinstance(video, bytes | bytearray | memoryview):
        return _encoded(bytes(video), "bytes")
    if callable(getattr(video, "read", None)):
        return _read_file(video)
    if isinstance(video, Image.Image):
        raise VideoError(f"an image of {video.width}x{video.height} pixels, expected a video: give a list of images")
    if isinstance(video, list | tuple) and video and all(isinstance(item, str | os.PathLike) for item in video):
        return _image_files([os.fsdecode(item) for item in video], fps)
    if isinstance(video, list | tuple) or is_array(video):
        return Frames(video, fps)
    expected = f"a path, the bytes of a video file, a binary file object, a list of images, or {EXPECTED}"
    raise VideoError(f"a video is of type {type(video).__name__}, expected {expected}")


def name_of(source: Source) -> str:
    """Return the name of a video in messages: its path, or a description."""
    if isinstance(source, VideoReader):
        return source.path
    return source.name if isinstance(source, EncodedVideo) else source


def _encoded(content: bytes, name: str) -> EncodedVideo:
    if not content:
        raise VideoError(f"{name}: empty (0 bytes), expected the content of a video file")
    if len(content) < 4096 and b"\0" not in content and os.path.exists(content):
        raise VideoError(f"{name}: the name of a file, expected its content: give the path as str")
    return EncodedVideo(content, name if name != "bytes" else f"bytes ({len(content)})")


def _read_file(file: Any) -> EncodedVideo:
    name = getattr(file, "name", None)
    name = name if isinstance(name, str) and name else f"file object ({type(file).__name__})"
    try:
        if getattr(file, "seekable", bool)():
            file.seek(0)
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise VideoError(f"{name}: reading the file object failed ({error})") from error
    if not isinstance(content, bytes | bytearray | memoryview):
        kind = "text" if isinstance(content, str) else f"{type(content).__name__}"
        raise VideoError(f"{name}: its read() returns {kind}, expected bytes: open the file with mode 'rb'")
    return _encoded(bytes(content), name)


def _image_files(paths: list[str], fps: float | None) -> FrameFiles:
    name = f"list of {len(paths)} paths"
    for path in paths:
        if path.lower().endswith(VIDEO_EXTENSIONS) or os.path.isdir(path):
            raise VideoError(f"{name}: {path} is a video, expected images of one video: give videos to predict_many")
    return FrameFiles(name, paths, fps=check_fps(fps, name))


def _open_path(path: str, short_side: int, num_frames: int, fps: float, allow_cut_short: bool) -> VideoReader:
    files = numbered_frames(path)
    if files is not None:
        if not files:
            raise VideoError(f"{path}: no frames, as its last number is below its first")
        return FrameFiles(path, files, short_side, fps)
    if part := ShardFile.parse(path):
        return _open_shard_file(part, short_side, num_frames, fps)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        is_long = getattr(error, "errno", 0) == errno.ENAMETOOLONG
        shown = f"{path[:SHOWN]}... ({len(path)} characters)" if is_long else path
        reason = f"cannot be opened: {getattr(error, 'strerror', None) or error}"
        if getattr(error, "errno", 0) == errno.ENOENT:
            reason = "no such file or folder"
        if _URL.match(path):
            reason = "an address, expected a file or folder: download it first, or predict it live (predict --stream)"
        elif path == "-":
            reason = "no such file: give sys.stdin.buffer in Python, or predict it live (predict --stream -)"
        raise VideoError(f"{shown}: {reason}") from error
    if stat.S_ISDIR(status.st_mode):
        files = frame_files(path)
        if not files:
            expected = ", ".join(FRAME_EXTENSIONS)
            raise VideoError(f"{path}: no frames in this folder: expected {expected} files; of videos in it, name one")
        return FrameFiles(path, files, short_side, fps)
    if status.st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes): copy or download it again")
    return VideoFile(path, status.st_size, short_side, num_frames, fps, allow_cut_short=allow_cut_short)


def _open_shard_file(part: ShardFile, short_side: int, num_frames: int, fps: float) -> VideoReader:
    if not part.is_video:
        return ShardFrames(part, short_side, fps)
    if not part.size:
        raise VideoError(f"{part.path}: the file is empty (0 bytes): write the shard again with the whole file")
    content = EncodedVideo(part.read(), part.name) if part.size <= LARGEST_KEPT else part
    return VideoFile(part.path, part.size, short_side, num_frames, fps, content)
