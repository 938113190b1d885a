"""Re-encoding one clip: to an H.264 file that is fast to read frames from, or to a folder of JPEG frames."""

import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from timesformer.datasets.decoding.open import VideoError, frame_files, open_video

OPTIONS = {
    "preset": "fast",
    "tune": "fastdecode",  # halves the time of decoding for an eighth more bytes (docs/preparing.md)
    "crf": "20",
    "g": "12",  # distance of key frames: any frame costs 12 decoded ones at most
    "bf": "0",  # no B-frames: nothing is decoded out of order
    "threads": "1",  # each clip has a process of its own
}
"""Options of the encoder libx264."""
_TOLERANCE = 12.0
"""Mean difference, in gray levels of 255, that a frame may have from its source after scaling to 16 x 16."""


def encode_video(source: str, target: str, short_side: int) -> None:
    """Write every frame of `source` once, in order, to the H.264 file `target`.

    The short side is scaled down to `short_side` pixels, never up (0: kept). Rotation and flips are applied, sound is
    dropped, and the frame rate is constant. The file is compared with the source before it gets its name. Raises
    VideoError if the source cannot be read or the copy differs.
    """

    def write(partial: Path) -> None:
        thumbnails = _encode(source, partial, short_side)
        _compare(source, partial, thumbnails)
        with partial.open("rb") as file:
            os.fsync(file.fileno())

    _write_atomically(Path(target), write)


def encode_frames(source: str, target: str, short_side: int, quality: int) -> None:
    """Write every frame of `source`, scaled down to `short_side` (0: kept), to `target`/000001.jpg, 000002.jpg, ...

    The folder gets its name when it is complete. Raises VideoError if the source cannot be read.
    """

    def write(partial: Path) -> None:
        partial.mkdir()
        with open_video(source) as video:
            for number, frame in enumerate(video.frames(), start=1):
                image = Image.fromarray(frame)
                short = min(image.size)
                if short_side and short > short_side:
                    width, height = (round(side * short_side / short) for side in image.size)
                    image = image.resize((width, height), Image.Resampling.BICUBIC)
                image.save(partial / f"{number:06d}.jpg", quality=quality)
            if (written := len(frame_files(partial))) != video.num_frames:
                raise VideoError(f"{source}: {written} of {video.num_frames} frames were written")

    _write_atomically(Path(target), write)


def _write_atomically(target: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a hidden path, and rename what it wrote to `target`."""
    partial = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)
    try:
        write(partial)
        remove(target)
        partial.replace(target)
    finally:
        remove(partial)


def remove(path: Path) -> None:
    """Remove a file or folder, if it exists."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _encode(source: str, partial: Path, short_side: int) -> list[np.ndarray]:
    thumbnails = []
    with open_video(source) as video, av.open(str(partial), "w", "mp4", {"movflags": "faststart"}) as container:
        # Rates like 29.97 are kept; folders of frames have none.
        rate = Fraction(video.fps).limit_denominator(1001) if 0.1 < video.fps < 1000 else Fraction(25)
        stream = None
        for frame in video.frames():
            picture = _picture(frame)
            if stream is None:
                stream = container.add_stream("libx264", rate, OPTIONS)
                stream.width, stream.height = even_size(picture.width, picture.height, short_side)
                stream.pix_fmt = "yuv420p"
            scaled = picture.reformat(stream.width, stream.height, "yuv420p", interpolation="BICUBIC", threads=1)
            scaled.pts, scaled.time_base = len(thumbnails), 1 / rate
            thumbnails.append(_thumbnail(picture))
            container.mux(stream.encode(scaled))
        container.mux(stream.encode())
    return thumbnails


def even_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height scaled down to `short_side` (0: kept), and even, as H.264 needs."""
    scale = min(1.0, short_side / min(width, height)) if short_side else 1.0
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _picture(frame: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")  # a rotated frame is a view


def _thumbnail(picture: av.VideoFrame) -> np.ndarray:
    small = picture.reformat(16, 16, "gray", interpolation="AREA", threads=1)
    return small.to_ndarray().astype(np.int16)


def _compare(source: str, partial: Path, thumbnails: list[np.ndarray]) -> None:
    """Check that the copy has all frames, each closest to its own source among that and its neighbours."""
    count = 0
    with open_video(partial) as video:
        for number, frame in enumerate(video.frames()):
            count += 1
            if count > len(thumbnails):
                break
            errors = np.abs(_thumbnail(_picture(frame)) - np.stack(thumbnails[max(0, number - 1) : number + 2]))
            errors = errors.mean(axis=(1, 2))
            own = errors[min(number, 1)]
            if own > _TOLERANCE or own > errors.min() + 1:
                raise VideoError(f"{source}: frame {number} of its copy differs")
    if count != len(thumbnails):
        raise VideoError(f"{source}: its copy has {count} frames, expected {len(thumbnails)}")
