"""The demo dataset: short H.264 clips of one moving object, whose classes differ only in motion.

datasets/demo/README.md explains why a single frame does not show the class.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from timesformer.errors import UserError
from timesformer.preparation.demo_classes import AXES, CLASSES

VERSION = 1  # incremented when the same seed gives other clips
SIDE = 96  # pixels; clips are square
FRAMES = 20
FPS = 12
SPLITS = ("train", "val", "test")
SHAPES = ("disc", "square", "triangle", "plus", "star", "ring")


@dataclass(frozen=True)
class Scene:
    """The random part of a clip, drawn independently of its class.

    `paths` [axes, FRAMES] are the offsets along every axis, played or not: in sides of the picture for the first three,
    in octaves of the radius for "size". `rest` is the frame of each path whose offset is used while another axis is
    played.
    """

    shape: str
    angle: float  # radians
    radius: float  # sides of the picture, before the size path
    center: np.ndarray  # (2,) x, y in sides of the picture, before the paths
    paths: np.ndarray
    rest: np.ndarray
    tremble: np.ndarray  # (FRAMES, 2) pixels
    flicker: np.ndarray  # (FRAMES,) gain
    color: np.ndarray  # (3,) 0 to 255
    background: np.ndarray  # (SIDE, SIDE, 3) 0 to 255
    noise_level: float  # standard deviation, gray levels
    noise_seed: int


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene. Every axis gets a path and a resting position, so the scene fits every class."""
    spans = np.array([*rng.uniform(0.34, 0.56, size=3), rng.uniform(0.9, 1.4)])
    color = _vivid_color(rng, brightness=rng.uniform(165, 215))
    return Scene(
        shape=str(rng.choice(SHAPES)),
        angle=rng.uniform(0, 2 * np.pi),
        radius=rng.uniform(0.13, 0.17),
        center=rng.uniform(0.46, 0.54, size=2),
        paths=np.stack([span * (_progress(rng) - 0.5) for span in spans]),
        # A random frame of the path: a resting axis then looks like a random frame of a played axis.
        rest=rng.integers(FRAMES, size=len(AXES)),
        tremble=rng.normal(0, 0.4, size=(FRAMES, 2)),
        flicker=rng.normal(1, 0.02, size=FRAMES),
        color=color,
        background=_background(rng, distractor_brightness=color.mean() - 70),
        noise_level=rng.uniform(2, 7),
        noise_seed=int(rng.integers(2**32)),
    )


def _progress(rng: np.random.Generator) -> np.ndarray:
    """Progress along a path in each frame, 0 to 1, at an uneven speed; most clips have a pause."""
    time_axis = np.linspace(0, 1, FRAMES)
    speed = 1 + 0.6 * np.cos(2 * np.pi * (rng.uniform(0.3, 1) * time_axis + rng.uniform()))
    pause = rng.integers(0, 5)
    start = rng.integers(0, FRAMES - pause + 1)
    speed[start : start + pause] = 0.05
    path = np.concatenate([[0], np.cumsum((speed[1:] + speed[:-1]) / 2)])
    return path / path[-1]


def _vivid_color(rng: np.random.Generator, brightness: float) -> np.ndarray:
    hue = rng.uniform() + np.array([0, 1 / 3, 2 / 3])
    tint = np.cos(2 * np.pi * hue)  # sums to zero, so the mean of the channels is the brightness
    return np.clip(brightness + rng.uniform(30, 80) * tint, 0, 255)


def _background(rng: np.random.Generator, distractor_brightness: float) -> np.ndarray:
    brightness = rng.uniform(45, 85)
    picture = np.full((SIDE, SIDE, 3), brightness, dtype=np.float32)
    for cells, strength in ((3, 24), (6, 12), (16, 8)):
        picture += _enlarge(rng.normal(0, strength, size=(cells, cells, 3)))
    picture = np.clip(picture, 0, brightness + 40)
    for _ in range(rng.integers(0, 4)):
        where = rng.uniform(0, SIDE, size=(1, 2))
        radius = np.array([rng.uniform(0.04, 0.08) * SIDE])
        distance = _distance(str(rng.choice(SHAPES)), where, radius, rng.uniform(0, 2 * np.pi))[0]
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        color = _vivid_color(rng, rng.uniform(0.8, 1) * distractor_brightness)
        picture += cover * (color - picture)
    return picture


def _enlarge(coarse: np.ndarray) -> np.ndarray:
    """(n, n, channels) to (SIDE, SIDE, channels), with linear ramps between the given values."""
    n = len(coarse)
    position = np.linspace(0, n - 1, SIDE)
    ramp = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(n))).astype(np.float32)  # (SIDE, n)
    return np.einsum("yi,ijc,xj->yxc", ramp, coarse.astype(np.float32), ramp, optimize=True)


def _distance(shape: str, centers: np.ndarray, radii: np.ndarray, angle: float) -> np.ndarray:
    """Signed distance in pixels of every pixel to the shape's outline, negative inside.

    centers (frames, 2) x, y and radii (frames,) in pixels; returns (frames, SIDE, SIDE) float32.
    """
    grid = np.arange(SIDE, dtype=np.float32) + 0.5
    dx = (grid[None, None, :] - centers[:, 0, None, None]).astype(np.float32)
    dy = (grid[None, :, None] - centers[:, 1, None, None]).astype(np.float32)
    scale = radii[:, None, None].astype(np.float32)
    u = (np.float32(np.cos(angle)) * dx + np.float32(np.sin(angle)) * dy) / scale
    v = (np.float32(np.cos(angle)) * dy - np.float32(np.sin(angle)) * dx) / scale
    # In units of the radius; every shape covers about the area of the disc.
    if shape == "disc":
        unit = np.hypot(u, v) - 1
    elif shape == "square":
        unit = np.maximum(np.abs(u), np.abs(v)) - 0.89
    elif shape == "triangle":
        unit = np.maximum(np.float32(3**0.5 / 2) * np.abs(u) + v / 2, -v) - 0.72
    elif shape == "plus":
        wide, narrow = np.maximum(np.abs(u), np.abs(v)), np.minimum(np.abs(u), np.abs(v))
        unit = np.maximum(wide - 1.15, narrow - 0.42)
    elif shape == "star":
        fifth = np.float32(2 * np.pi / 5)
        from_tip = np.abs((np.arctan2(u, v) + fifth / 2) % fifth - fifth / 2)
        unit = np.hypot(u, v) * np.cos(np.float32(0.95) - from_tip) - np.float32(1.3 * np.cos(0.95))
    else:  # ring
        unit = np.abs(np.hypot(u, v) - 0.87) - 0.3
    return unit * scale


class State(NamedTuple):
    """Where the object is in each frame: `centers` (FRAMES, 2) x, y and `radii` (FRAMES,), in sides of the picture."""

    centers: np.ndarray
    radii: np.ndarray


def motion(scene: Scene, class_name: str) -> State:
    """The path of the class along its axis, with the other axes at rest, in the order of the clip."""
    axis, backwards = CLASSES[class_name]
    played = AXES.index(axis)
    offsets = np.repeat(scene.paths[np.arange(len(AXES)), scene.rest][:, None], FRAMES, axis=1)
    offsets[played] = scene.paths[played]
    horizontal, vertical, diagonal, size = offsets[:, ::-1] if backwards else offsets
    centers = np.stack([horizontal, vertical], axis=1) + diagonal[:, None] / 2**0.5 + scene.center
    return State(centers, scene.radius * 2**size)


def render(scene: Scene, class_name: str) -> np.ndarray:
    """Frames of the scene for a class, uint8 [FRAMES, SIDE, SIDE, 3] RGB.

    The frames of the opposite class are exactly these in reverse order: noise, flicker and tremble follow the path.
    """
    backwards = CLASSES[class_name][1]
    order = slice(None, None, -1 if backwards else 1)
    centers, radii = motion(scene, class_name)
    distance = _distance(scene.shape, centers * SIDE + scene.tremble[order], radii * SIDE, scene.angle)
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    halo = 0.45 * np.exp(-np.maximum(distance, 0) / 3)[..., None]  # a dark rim separates the object from the background
    frames = scene.background * (1 - halo)
    frames += cover * (scene.color.astype(np.float32) - frames)
    frames *= scene.flicker[order, None, None, None].astype(np.float32)
    noise = np.random.default_rng(scene.noise_seed).standard_normal((FRAMES, SIDE, SIDE, 1), dtype=np.float32)
    frames += scene.noise_level * noise[order]
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def encode(frames: np.ndarray, path: Path) -> None:
    """Write uint8 (T, H, W, 3) RGB frames as an H.264 MP4 file. Equal frames give equal files."""
    # One thread, since there is a process per core. "cpu-independent" makes the output of x264 reproducible on all
    # processors; without it the output even depends on the memory alignment of frames.
    options = {"crf": "23", "preset": "veryfast", "threads": "1", "x264-params": "cpu-independent=1"}
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _make_clip(job: tuple[int, int, int, int, Path]) -> None:
    seed, split, label, number, path = job
    scene = draw_scene(np.random.default_rng([seed, split, label, number]))
    encode(render(scene, tuple(CLASSES)[label]), path)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which then ends the workers


def make(
    out_dir: Path, seed: int, clips_per_class: Sequence[int], workers: int, classes: Sequence[str] = tuple(CLASSES)
) -> bool:
    """Makes the set in a temporary folder and renames it; clips_per_class: for train, val and test.

    Writes out_dir/{train,val,test}/<class>/<class>_<number>.mp4, and the settings to out_dir/demo.json.

    Returns:
        False if this set exists already.

    Raises:
        UserError: if out_dir contains anything but a demo set.
    """
    out_dir = out_dir.resolve()
    settings = {
        "version": VERSION,
        "seed": seed,
        "clips_per_class": dict(zip(SPLITS, clips_per_class, strict=True)),
        "classes": [name for name in CLASSES if name in classes],
        "frames": FRAMES,
        "fps": FPS,
        "side": SIDE,
    }
    saved = out_dir / "demo.json"
    if saved.is_file():
        if json.loads(saved.read_text()) == settings:
            return False
    elif out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UserError(
            f"{out_dir} is not empty and has no demo.json, so it is no demo set: give another folder, or empty this one"
        )
    partial = out_dir.with_name(out_dir.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    jobs = []
    for split, count in enumerate(clips_per_class):
        for label, name in enumerate(CLASSES):
            if name not in classes:
                continue
            folder = partial / SPLITS[split] / name
            folder.mkdir(parents=True)
            jobs += [(seed, split, label, number, folder / f"{name}_{number:04d}.mp4") for number in range(count)]
    with ProcessPoolExecutor(workers, initializer=_ignore_interrupts) as pool:
        for _ in pool.map(_make_clip, jobs, chunksize=16):
            pass
    (partial / "demo.json").write_text(json.dumps(settings, indent=2) + "\n")
    if out_dir.exists():
        shutil.rmtree(out_dir)
    partial.rename(out_dir)
    return True
