"""Clips made for measuring: noise in motion, which takes the bits of filmed scenes, and a number in every frame."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

BITS = (2, 5)  # rows and columns of the squares that spell a frame's number


class Recipe(NamedTuple):
    """A clip to make. codec: of PyAV, or "jpeg" for a folder of frames; options: of the codec; bit_rate: per second."""

    title: str
    name: str
    frames: int
    width: int
    height: int
    codec: str
    options: Mapping[str, str] = {}
    bit_rate: int = 0


RECIPES = (
    Recipe("H.264 340x256, 10 s, key frame every 12", "gop12.mp4", 300, 340, 256, "libx264", {"g": "12", "crf": "22"}),
    Recipe(
        "H.264 340x256, 10 s, key frame every 250", "gop250.mp4", 300, 340, 256, "libx264", {"g": "250", "crf": "22"}
    ),
    Recipe("AVI (MPEG-4) 320x240, 3 s", "short.avi", 90, 320, 240, "mpeg4", bit_rate=1_000_000),
    Recipe("JPEG frames 340x256, 10 s", "frames", 300, 340, 256, "jpeg"),
)


def small_recipes(number: int) -> list[Recipe]:
    """Recipes of `number` short videos of differing length, AVI and MP4 in turn."""
    return [
        Recipe(f"small {i}", f"{i}.avi", 20 + i % 30, 160, 120, "mpeg4")
        if i % 2
        else Recipe(f"small {i}", f"{i}.mp4", 20 + i % 30, 160, 120, "libx264", {"preset": "veryfast"})
        for i in range(number)
    ]


def make_clip(folder: Path, recipe: Recipe, seed: int = 0) -> Path:
    """Make the video, or the folder of JPEG frames, of a recipe in `folder`, at 30 frames per second."""
    path = folder / recipe.name
    frames = scene(recipe.frames, recipe.width, recipe.height, seed)
    if recipe.codec == "jpeg":
        path.mkdir(parents=True)
        for number, frame in enumerate(frames):
            Image.fromarray(frame).save(path / f"{number:06d}.jpg", quality=90)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(recipe.codec, rate=30, options=dict(recipe.options))
        stream.width, stream.height, stream.pix_fmt = recipe.width, recipe.height, "yuv420p"
        if recipe.bit_rate:
            stream.bit_rate = recipe.bit_rate
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def scene(frames: int, width: int, height: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Frames, uint8 (height, width, 3): a textured plane that pans, squares of other texture in front, film grain."""
    rng = np.random.default_rng(seed)
    plane, paint = (_texture(2 * width, 2 * height, rng) for _ in range(2))
    speeds, phases = rng.uniform(0.3, 1.5, (6, 2)), rng.uniform(0, 6, (6, 2))  # down and right of each square
    side = height // 5
    for number in range(frames):
        seconds = number / 30
        top, left = _swing((0.8, 0.6), (0.0, 0.0), seconds, (height, width))
        frame = plane[top : top + height, left : left + width].copy()
        for speed, phase in zip(speeds, phases, strict=True):
            row, column = _swing(speed, phase, seconds, (height - side, width - side))
            frame[row : row + side, column : column + side] = paint[:side, :side]
        frame += rng.normal(0, 4, (height, width, 1)).astype(np.float32)
        _write_number(frame, number)
        yield frame.clip(0, 255).astype(np.uint8)


def number_in(frame: np.ndarray) -> int:
    """Number that a frame of `scene` carries, read from uint8 (height, width, 3) pixels after any compression."""
    bits = [frame[square].mean() > 127 for square in _squares(frame.shape[0])]
    return sum(1 << place for place, bit in enumerate(bits) if bit)


def _swing(speed: Sequence[float], phase: Sequence[float], seconds: float, room: tuple[int, int]) -> tuple[int, int]:
    """Row and column, each from 0 to its room, of something that swings to and fro in both."""
    row, column = (int(r * (1 + np.sin(s * seconds + p)) / 2) for s, p, r in zip(speed, phase, room, strict=True))
    return row, column


def _write_number(frame: np.ndarray, number: int) -> None:
    for place, square in enumerate(_squares(frame.shape[0])):
        frame[square] = 235 if number >> place & 1 else 20


def _squares(height: int) -> list[tuple[slice, slice]]:
    side = height // 12
    places = [(row * side, column * side) for row in range(BITS[0]) for column in range(BITS[1])]
    return [(slice(row, row + side), slice(column, column + side)) for row, column in places]


def _texture(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise of several grain sizes, float32 (height, width, 3), 15 to 240."""
    total = np.zeros((height, width, 3), np.float32)
    for size in (3, 6, 12, 24, 48, 96):
        for channel in range(3):
            grid = rng.normal(0, size**0.7, (height // size + 2, width // size + 2)).astype(np.float32)
            image = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
            total[..., channel] += np.asarray(image)
    lowest, highest = np.percentile(total, [1, 99])
    return ((total - lowest) / (highest - lowest)).clip(0, 1) * 225 + 15
