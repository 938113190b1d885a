"""Open a video file, a folder of frames, or numbered frames as a `VideoReader`."""

import os
import stat

from timesformer.datasets.decoding.base import VideoError, VideoReader
from timesformer.datasets.decoding.frame_series import FRAME_EXTENSIONS, is_image_name
from timesformer.datasets.decoding.images import FrameFiles, frame_files, numbered_frames
from timesformer.datasets.decoding.pyav import VideoFile

__all__ = ["FRAME_EXTENSIONS", "VideoError", "VideoReader", "frame_files", "is_image_name", "open_video"]


def open_video(
    path: str | os.PathLike[str], *, short_side: int = 0, num_frames: int = 0, fps: float = 0.0
) -> VideoReader:
    """Open a video file, a folder of frames, or numbered frames `DIR/NAME_%06d.jpg#FIRST-LAST`.

    Frames larger than `short_side` pixels may come scaled down to it; 0: as they are. `num_frames` and `fps` are known
    from an earlier look at the file, and trusted; 0: unknown.

    Raises VideoError, naming the file and the reason, when there is nothing to read.
    """
    path = os.fspath(path)
    files = numbered_frames(path)
    if files is not None:
        if not files:
            raise VideoError(f"{path}: no frames, as its last number is below its first")
        return FrameFiles(path, files, short_side, fps)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise VideoError(f"{path}: no such file or folder ({getattr(error, 'strerror', None) or error})") from error
    if stat.S_ISDIR(status.st_mode):
        files = frame_files(path)
        if not files:
            expected = ", ".join(FRAME_EXTENSIONS)
            raise VideoError(f"{path}: no frames in this folder: expected {expected} files; of videos in it, name one")
        return FrameFiles(path, files, short_side, fps)
    if status.st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes): copy or download it again")
    return VideoFile(path, status.st_size, short_side, num_frames, fps)
