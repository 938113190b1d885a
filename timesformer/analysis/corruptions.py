"""The corruptions that a model is tested under, each with five severities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from timesformer.analysis import frame_corruptions, pixel_corruptions
from timesformer.datasets.decoding.base import VideoReader
from timesformer.errors import UserError

SEVERITIES = (1, 2, 3, 4, 5)

Pixels = Callable[[np.ndarray, float, Generator], np.ndarray]
"""Frames, uint8 [frames, height, width, 3], RGB, and a parameter to frames; draws random numbers from the generator."""
Order = Callable[[int, float, Sequence[int]], np.ndarray]
"""Number of frames, parameter and (seed, video, view) to the numbers of the frames of a clip, int64 (frames,)."""
Timing = Callable[[VideoReader, float], VideoReader]
"""Reader of a video and parameter to the reader that the clip is sampled from."""


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption; exactly one of `pixels`, `order` and `timing` does it.

    Attributes:
        group: heading under which it is listed.
        parameter: what `values` are, in words.
        values: of the parameter, for severities 1 to 5.
    """

    name: str
    group: str
    parameter: str
    values: tuple[float, ...]
    pixels: Pixels | None = None
    order: Order | None = None
    timing: Timing | None = None

    @property
    def title(self) -> str:
        return self.name.replace("_", " ")


CORRUPTIONS: dict[str, Corruption] = {}
"""All corruptions by name, in the order of the report."""


def register_corruption(name: str, group: str, parameter: str, values: Sequence[float], **how: Any) -> None:
    """Adds a corruption; `how` is pixels=, order= or timing=, see `Corruption`.

    Raises ValueError for a name that exists, another number of values than 5, or not exactly one function.
    """
    if name in CORRUPTIONS or len(values) != len(SEVERITIES) or len(how) != 1:
        raise ValueError(f"corruption {name!r}: expected a new name, 5 values, and one of pixels, order and timing")
    CORRUPTIONS[name] = Corruption(name, group, parameter, tuple(values), **how)


def select_corruptions(names: Sequence[str], severities: Sequence[str]) -> tuple[list[Corruption], list[int]]:
    """Corruptions by their names or the names of their groups, and severities, all if empty; UserError if unknown."""
    groups = {corruption.group for corruption in CORRUPTIONS.values()}
    if unknown := [name for name in names if name not in CORRUPTIONS and name not in groups]:
        known = f"{', '.join(sorted(groups))} (groups), {', '.join(CORRUPTIONS)}"
        raise UserError(f"--corruptions: {unknown[0]!r} is unknown, expected some of {known}")
    if wrong := [severity for severity in severities if severity not in map(str, SEVERITIES)]:
        raise UserError(f"--severities: {wrong[0]!r}, expected some of 1 to 5")
    wanted = [c for c in CORRUPTIONS.values() if not names or c.name in names or c.group in names]
    return wanted, sorted({int(severity) for severity in severities}) or list(SEVERITIES)


for _name, _parameter, _values, _pixels in (
    (
        "gaussian_noise",
        "standard deviation (white is 1)",
        (0.04, 0.08, 0.13, 0.2, 0.3),
        pixel_corruptions.gaussian_noise,
    ),
    ("shot_noise", "photons for white", (80, 30, 12, 6, 3), pixel_corruptions.shot_noise),
):
    register_corruption(_name, "noise", _parameter, _values, pixels=_pixels)
for _name, _parameter, _values, _pixels in (
    ("gaussian_blur", "standard deviation (pixels of 224)", (1, 2, 3.5, 5, 7), pixel_corruptions.gaussian_blur),
    ("defocus_blur", "radius (pixels of 224)", (2, 3.5, 5, 7, 10), pixel_corruptions.defocus_blur),
    ("motion_blur", "length (pixels of 224)", (8, 14, 20, 28, 40), pixel_corruptions.motion_blur),
):
    register_corruption(_name, "blur", _parameter, _values, pixels=_pixels)
for _name, _values, _pixels in (
    ("brighter", (1.25, 1.6, 2, 2.5, 3.2), pixel_corruptions.gain),
    ("darker", (0.7, 0.5, 0.35, 0.22, 0.12), pixel_corruptions.gain),
    ("low_contrast", (0.7, 0.5, 0.33, 0.2, 0.1), pixel_corruptions.contrast),
):
    register_corruption(_name, "brightness", "factor", _values, pixels=_pixels)
register_corruption("jpeg", "compression", "JPEG quality", (50, 30, 18, 10, 5), pixels=pixel_corruptions.jpeg)
register_corruption("h264", "compression", "H.264 crf", (28, 33, 38, 43, 48), pixels=pixel_corruptions.h264)
for _name, _parameter, _values, _order in (
    ("dropped_frames", "share of lost frames", (0.15, 0.3, 0.5, 0.7, 0.9), frame_corruptions.dropped),
    ("shuffled_frames", "share of shuffled frames", (0.2, 0.4, 0.6, 0.8, 1), frame_corruptions.shuffled),
    ("reversed_frames", "share of reversed frames", (0.2, 0.4, 0.6, 0.8, 1), frame_corruptions.backwards),
):
    register_corruption(_name, "frames", _parameter, _values, order=_order)
for _name, _parameter, _values, _timing in (
    ("low_frame_rate", "one frame of N", (2, 3, 4, 6, 8), frame_corruptions.low_frame_rate),
    ("faster", "speed factor", (1.25, 1.5, 2, 3, 4), frame_corruptions.faster),
    ("slower", "duration factor", (1.25, 1.5, 2, 3, 4), frame_corruptions.slower),
):
    register_corruption(_name, "frame rate", _parameter, _values, timing=_timing)
