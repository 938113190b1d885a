"""Attention overlays match the patches of the frames."""

import numpy as np
import pytest

from tests.visualization.conftest import MakeCheckpoint, MakeVideo
from timesformer.inference.classifier import load_model
from timesformer.visualization.attention import METHODS, attention_of, overlay

CELLS = [(0, 2), (1, 3), (3, 4), (2, 5)]  # in a grid of 4 x 8; the middle of the frame


def tinted(pictures: np.ndarray) -> np.ndarray:
    """Where gray pictures have a color of high attention, bool [frames, height, width]."""
    return pictures[..., 0].astype(int) - pictures[..., 2] > 30


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["DATA.SPATIAL_MODE", "resize", "DATA.REVERSE_INPUT_CHANNEL", True],
        ["TEST.NUM_SPATIAL_CROPS", 3],
        ["TIMESFORMER.ATTENTION_TYPE", "joint_space_time"],
    ],
)
def test_attention_follows_the_bright_patch(
    options: list[object], method: str, moving_patch: MakeVideo, bright_seeker: MakeCheckpoint
) -> None:
    is_resized = "DATA.SPATIAL_MODE" in options  # else the center is cropped
    expected = [(row, column // 2 if is_resized else column - 2) for row, column in CELLS]
    classifier = load_model(bright_seeker(*options), device="cpu")
    clip, maps = attention_of(classifier, moving_patch(CELLS), method)
    assert maps.shape == (4, 4, 4)
    assert [np.unravel_index(frame.argmax(), frame.shape) for frame in maps] == expected
    seen = tinted(overlay(clip.frames, maps))
    for frame, (row, column) in enumerate(expected):
        patch = np.zeros((32, 32), bool)
        patch[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = True
        assert np.array_equal(seen[frame], patch)
        bright = clip.frames[frame].mean(axis=2) > 200
        assert patch[bright].all()


def test_uniform_maps_have_one_color() -> None:
    maps = np.full((2, 3, 3), 0.125, np.float32) * (1 + 1e-7 * np.arange(18, dtype=np.float32).reshape(2, 3, 3))
    pictures = overlay(np.full((2, 9, 9, 3), 100, np.uint8), maps)
    assert np.ptp(pictures.astype(int), axis=(0, 1, 2)).max() <= 3
    assert not tinted(pictures).any()
