"""Clips made for measuring: a test pattern in motion with film grain, at the bit rates of filmed scenes."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image


class Recipe(NamedTuple):
    """A clip to make. codec: of PyAV, or "jpeg" for a folder of frames; options: of the codec."""

    title: str
    name: str
    frames: int
    width: int
    height: int
    codec: str
    options: Mapping[str, str] = {}


_H264 = {"crf": "22"}
RECIPES = (
    Recipe("H.264 340x256, 10 s, key frame every 12", "gop12.mp4", 300, 340, 256, "libx264", _H264 | {"g": "12"}),
    Recipe("H.264 340x256, 10 s, key frame every 250", "gop250.mp4", 300, 340, 256, "libx264", _H264 | {"g": "250"}),
    Recipe("AVI (MPEG-4) 320x240, 3 s", "short.avi", 90, 320, 240, "mpeg4", {"b": "1M"}),
    Recipe("JPEG frames 340x256, 10 s", "frames", 300, 340, 256, "jpeg"),
)


def small_recipes(number: int) -> list[Recipe]:
    """Recipes of `number` short videos of different lengths, alternately MP4 and AVI."""
    kinds = (("mp4", "libx264"), ("avi", "mpeg4"))
    return [Recipe("", f"{n}.{kinds[n % 2][0]}", 20 + n % 30, 160, 120, kinds[n % 2][1]) for n in range(number)]


def make_clip(folder: Path, recipe: Recipe, seed: int = 0) -> Path:
    """Makes the video (30 frames per second) or the folder of JPEG frames of a recipe."""
    path = folder / recipe.name
    frames = moving_scene(recipe.frames, recipe.width, recipe.height, seed)
    if recipe.codec == "jpeg":
        path.mkdir()
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(path / f"{number:06d}.jpg", quality=90)
        return path
    with av.open(str(path), "w") as container:
        stream = container.add_stream(recipe.codec, rate=30, options=dict(recipe.options))
        stream.width, stream.height, stream.pix_fmt = recipe.width, recipe.height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def moving_scene(frames: int, width: int, height: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Frames, uint8 [height, width, 3]: FFmpeg's moving test pattern with film grain, no two of them equal."""
    graph = f"testsrc2=size={width}x{height}:rate=30,noise=alls=8:allf=t:all_seed={seed}"
    with av.open(graph, format="lavfi") as container:
        for frame in islice(container.decode(video=0), frames):
            yield frame.to_ndarray(format="rgb24")
