"""Frames with labels."""

import numpy as np
import pytest

from timesformer.visualization.video_overlay import draw_labels, format_clock

CLASSES = [("walk", 0.75), ("wave both hands at someone far away", 0.2), ("歩く", 0.05)]


@pytest.mark.parametrize(("height", "width"), [(120, 160), (1080, 1920), (426, 240)])
def test_bars_have_the_length_of_probabilities(height: int, width: int) -> None:
    frame = np.full((height, width, 3), 250, np.uint8)
    drawn = draw_labels(frame, CLASSES).astype(int)
    assert np.array_equal(frame, np.full_like(frame, 250))
    panel = (drawn[..., 1] < 125).any(axis=0).nonzero()[0]
    blue = (drawn[..., 2] > drawn[..., 0] + 100).any(axis=0).nonzero()[0]
    assert np.ptp(blue) + 1 == pytest.approx(0.75 * (np.ptp(panel) + 1), abs=1)
    assert np.array_equal(drawn[: height // 2], frame[: height // 2])  # the time is unknown


def test_label_and_time_are_at_the_top() -> None:
    frame = np.full((240, 320, 3), 90, np.uint8)
    plain, changed = draw_labels(frame, CLASSES, 61.25), draw_labels(frame, CLASSES, 61.25, "walk")
    assert np.array_equal(plain[:, 160:], changed[:, 160:])  # the time
    assert np.array_equal(plain[100:], changed[100:])
    assert (changed[:30, :100] > 200).any()
    assert not (plain[:30, :100] > 200).any()
    assert not np.array_equal(draw_labels(frame, CLASSES, 62), plain)
    assert [format_clock(time) for time in (0.0, 61.25, 59.94, 3599.99, 3600.3)] == [
        "0:00.0",
        "1:01.3",
        "0:59.9",
        "1:00:00.0",
        "1:00:00.3",
    ]


@pytest.mark.parametrize("shape", [(1, 1, 3), (17, 31, 3), (40, 12, 3)])
def test_tiny_frames_keep_their_size(shape: tuple[int, int, int]) -> None:
    assert draw_labels(np.zeros(shape, np.uint8), CLASSES, 5.0, "walk").shape == shape
