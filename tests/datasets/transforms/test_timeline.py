"""Stretching of short clips: descriptions of frames, and the pixels of stretching decoded frames."""

import numpy as np
import pytest

from timesformer.datasets.transforms.timeline import Gain, Mean, Timeline, render

pytestmark = pytest.mark.numerical
STUDY = {"methods": ["interpolate", "reverse", "brightness"], "factors": [0.6, 0.8, 1.2, 1.4]}


@pytest.mark.parametrize(
    ("num_frames", "length", "methods", "expected"),
    [
        (3, 5, ["interpolate"], [0, Mean(0, 1), 1, Mean(1, 2), 2]),
        (3, 5, ["reverse"], [0, 1, 2, 1, 0]),
        (2, 10, ["brightness"], [0, 1, *(Gain(i, g) for g in STUDY["factors"] for i in (0, 1))]),
        # 2 -> 3 by interpolation -> 5 by reversal, of which 4 are wanted; brightness is not needed.
        (2, 4, STUDY["methods"], [0, Mean(0, 1), 1, Mean(0, 1)]),
        (1, 4, STUDY["methods"], [0, Gain(0, 0.6), Gain(0, 0.8), Gain(0, 1.2)]),
        (300, 256, STUDY["methods"], list(range(300))),
        *((1, 8, methods, [0]) for methods in (["interpolate"], ["reverse"], [])),
    ],
)
def test_descriptions(num_frames, length, methods, expected):
    assert list(Timeline(num_frames, length, methods, STUDY["factors"])) == expected


def test_only_needed_frames_are_read_once():
    frames, asked = np.random.default_rng(0).integers(0, 256, (40, 2, 3, 3), dtype=np.uint8), []
    timeline = Timeline(40, 256, **STUDY)
    # 40 -> 79 -> 157 -> 785, cut to 256: the first copy (gain 0.6) starts at 157.
    assert (len(timeline), timeline[156], timeline[157]) == (256, 0, Gain(0, 0.6))
    clip = render(
        [timeline[i] for i in range(0, 256, 32)], lambda numbers: asked.append(list(numbers)) or frames[asked[0]]
    )
    assert clip.shape == (8, 2, 3, 3)
    # Positions 0, 32, 64 are frames 0, 16, 32; 96, 128 run backwards: 30, 14; 160, 192, 224 lie in the darker copy.
    assert asked == [[0, 1, 2, 14, 16, 17, 18, 30, 32, 33, 34]]
