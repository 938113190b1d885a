"""Moving pictures: frames into the bytes of a GIF or an MP4 file."""

import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from timesformer.errors import UserError

FORMATS = (".gif", ".mp4")


def animation(frames: np.ndarray, suffix: str, fps: float = 4.0) -> bytes:
    """A GIF that repeats for ever, or an H.264 MP4.

    Args:
        frames: uint8 [frames, height, width, 3], RGB; of an MP4, an odd last row or column is repeated.
        suffix: ".gif" or ".mp4".
        fps: frames in a second, above 0. A GIF has whole hundredths of a second.

    Raises:
        UserError: if the suffix is another one.
    """
    if suffix not in FORMATS:
        raise UserError(f"a moving picture is written as {' or '.join(FORMATS)}, not as {suffix or 'a file without'}")
    file = io.BytesIO()
    if suffix == ".gif":
        pictures = [Image.fromarray(frame) for frame in frames]
        duration = max(round(100 / fps), 2) * 10  # below 20 ms, viewers take 100
        pictures[0].save(
            file, format="gif", save_all=True, append_images=pictures[1:], duration=duration, loop=0, disposal=1
        )
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
