"""Stretching of short clips: descriptions of frames, and the pixels of stretching decoded frames."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from timesformer.datasets.transforms.timeline import Gain, Mean, Timeline, render

pytestmark = pytest.mark.numerical
STUDY = {"methods": ["interpolate", "reverse", "brightness"], "factors": [0.6, 0.8, 1.2, 1.4]}


def stretch(frames: list[np.ndarray], length: int, methods: list[str], factors: list[float]) -> list[np.ndarray]:
    """The same stretching done to pixels: all frames are made, as float32."""
    frames, before = [frame.astype(np.float32) for frame in frames], 0
    while before < len(frames) < length:
        before = len(frames)
        for method in methods:
            if len(frames) >= length:
                break
            if method == "interpolate":
                between = [(a + b) / 2 for a, b in itertools.pairwise(frames)]
                frames = [f for pair in zip(frames, [*between, None], strict=True) for f in pair if f is not None]
            elif method == "reverse":
                frames = frames + frames[-2::-1]
            else:
                frames = frames + [np.clip(f * np.float32(g), 0, 255) for g in factors for f in frames]
    return frames if before == 0 else frames[:length]


def source(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 2, 3, 3), dtype=np.uint8)


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


@settings(max_examples=25)
@given(
    n=st.integers(1, 12),
    length=st.integers(1, 260),
    methods=st.permutations(["interpolate", "reverse", "brightness"]).flatmap(
        lambda names: st.integers(1, 3).map(lambda k: names[:k])
    ),
)
def test_pixels_equal_those_of_stretching_all_frames(n, length, methods):
    frames = source(n)
    timeline = Timeline(n, length, methods, STUDY["factors"])
    expected = np.rint(np.stack(stretch(list(frames), length, methods, STUDY["factors"]))).astype(np.uint8)
    assert np.array_equal(render(list(timeline), lambda numbers: frames[list(numbers)]), expected)


def test_only_needed_frames_are_read_once():
    frames, asked = source(40), []
    timeline = Timeline(40, 256, **STUDY)
    # 40 -> 79 -> 157 -> 785, cut to 256: the first copy (gain 0.6) starts at 157.
    assert (len(timeline), timeline[156], timeline[157]) == (256, 0, Gain(0, 0.6))
    clip = render(
        [timeline[i] for i in range(0, 256, 32)], lambda numbers: asked.append(list(numbers)) or frames[asked[0]]
    )
    assert clip.shape == (8, 2, 3, 3)
    # Positions 0, 32, 64 are frames 0, 16, 32; 96, 128 run backwards: 30, 14; 160, 192, 224 lie in the darker copy.
    assert asked == [[0, 1, 2, 14, 16, 17, 18, 30, 32, 33, 34]]
