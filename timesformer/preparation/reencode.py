"""One clip to a small H.264 file that is quick to read frames from: short side 256, a key frame every 12 frames."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from timesformer.datasets.decoding.open import VideoError, open_video
from timesformer.preparation.convert import Job

OPTIONS = {
    "preset": "fast",
    "tune": "fastdecode",  # halves the time of decoding for an eighth more bytes (docs/preparing.md)
    "crf": "20",
    "g": "12",  # frames from one key frame to the next: a frame wanted costs 12 decoded ones at most
    "bf": "0",  # no B-frames: nothing is decoded out of order, and frames have plain numbers
    "threads": "1",  # each clip has a process of its own
}
"""Of the encoder libx264."""
_TOLERANCE = 12.0
"""Grey levels of 255 by which a frame may differ on average from the one it was made of, after scaling to 16 x 16."""


def reencode(job: Job) -> None:
    """Write every frame of `job.source` once, in order, to the H.264 file `job.target`, of short side `job.short_side`.

    A smaller clip keeps its size. Rotation and flips are applied, sound is left out; frames that were shown for unequal
    times come at an even rate. The file appears under its name when it has been read back and every frame found in its
    place. Raises VideoError where the source cannot be read, or the copy is not equal to it.
    """
    target = Path(job.target)
    partial = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        thumbnails = _write(job, partial)
        _compare(job, partial, thumbnails)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _write(job: Job, partial: Path) -> list[np.ndarray]:
    thumbnails = []
    with open_video(job.source) as video, av.open(str(partial), "w", "mp4", {"movflags": "faststart"}) as container:
        # Rates like 29.97 are kept; a rate that is none, as of frames in a folder, becomes a plain one.
        rate = Fraction(video.fps).limit_denominator(1001) if 0.1 < video.fps < 1000 else Fraction(25)
        stream = None
        for frame in video.frames():
            picture = _picture(frame)
            if stream is None:
                stream = container.add_stream("libx264", rate, OPTIONS)
                stream.width, stream.height = even_size(picture.width, picture.height, job.short_side)
                stream.pix_fmt = "yuv420p"
            scaled = picture.reformat(stream.width, stream.height, "yuv420p", interpolation="BICUBIC", threads=1)
            scaled.pts, scaled.time_base = len(thumbnails), 1 / rate
            thumbnails.append(_thumbnail(picture))
            container.mux(stream.encode(scaled))
        container.mux(stream.encode())
    return thumbnails


def even_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height scaled down so that the shorter is `short_side`, never up, and even, as H.264 wants them."""
    scale = min(1.0, short_side / min(width, height)) if short_side else 1.0
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _picture(frame: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")  # a turned frame is a mere view


def _thumbnail(picture: av.VideoFrame) -> np.ndarray:
    small = picture.reformat(16, 16, "gray", interpolation="AREA", threads=1)
    return small.to_ndarray().astype(np.int16)


def _compare(job: Job, partial: Path, thumbnails: list[np.ndarray]) -> None:
    """Decodes the copy: it has as many frames, and each is closest to its own source among that and the neighbours."""
    number = -1
    with open_video(partial) as copy:
        for number, frame in enumerate(copy.frames()):
            if number >= len(thumbnails):
                break
            seen = _thumbnail(_picture(frame))
            error = np.abs(seen - thumbnails[number]).mean()
            others = [np.abs(seen - t).mean() for t in (*thumbnails[:number][-1:], *thumbnails[number + 1 :][:1])]
            if error > _TOLERANCE or error > min(others, default=error) + 1:
                raise VideoError(f"{job.source}: frame {number} of its copy is not what it should be")
    if number + 1 != len(thumbnails):
        raise VideoError(f"{job.source}: its copy has {number + 1} frames, expected {len(thumbnails)}")
