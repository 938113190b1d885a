"""Encodes frames as a GIF or an MP4 file."""

import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image

FORMATS = (".gif", ".mp4")


def animate(frames: np.ndarray, suffix: str, fps: float = 4.0) -> bytes:
    """A GIF that repeats forever, or an H.264 MP4.

    Args:
        frames: uint8 [frames, height, width, 3], RGB. In an MP4, an odd last row or column is repeated.
        suffix: one of FORMATS.
    """
    file = io.BytesIO()
    if suffix == ".gif":
        first, *others = [Image.fromarray(frame) for frame in frames]
        duration = max(round(100 / fps), 2) * 10  # ms; viewers slow down GIFs below 20 ms
        first.save(file, "GIF", save_all=True, append_images=others, duration=duration, loop=0, disposal=1)
        return file.getvalue()
    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = even.shape[1], even.shape[2], "yuv420p"
        for frame in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
