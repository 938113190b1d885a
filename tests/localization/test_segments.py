"""From window scores to segments."""

import numpy as np
import pytest

from timesformer.errors import UserError
from timesformer.localization.segments import Segment, find_segments
from timesformer.localization.windows import WindowScores

NAMES = ["run", "jump", "none"]


def windows(rows: list[list[float]], length: float = 2.0, stride: float = 1.0) -> list[WindowScores]:
    """Windows from 0 on with these probabilities of `run` and `jump`."""
    scores = [np.array([*row, 1 - sum(row)], np.float32) for row in rows]
    return [WindowScores(n * stride, n * stride + length, row) for n, row in enumerate(scores)]


def found(rows: list[list[float]], **options: object) -> list[tuple[float, float, str]]:
    return [(s.start, s.end, s.class_name) for s in find_segments(windows(rows, 1.0), NAMES, **options)]


def test_a_moment_has_the_mean_of_its_windows():
    (segment,) = find_segments(windows([[0.9, 0.0], [0.7, 0.1], [0.1, 0.45]]), NAMES, leave=0.3)
    # 0 to 1: 0.9; 1 to 2: (0.9 + 0.7) / 2; 2 to 3: (0.7 + 0.1) / 2; 3 to 4: 0.1
    assert segment == Segment(0.0, 3.0, "run", pytest.approx((0.9 + 0.8 + 0.4) / 3))


def test_a_segment_ends_below_the_lower_threshold():
    rows = [[0.45, 0.4], [0.6, 0.2], [0.45, 0.4], [0.3, 0.45], [0.45, 0.3]]
    assert found(rows, threshold=0.5, leave=0.4) == [(1.0, 3.0, "run")]
    assert found(rows, threshold=0.5, leave=0.5) == [(1.0, 2.0, "run")]
    assert found(rows, threshold=0.4, leave=0.2) == [(0.0, 3.0, "run"), (3.0, 4.0, "jump"), (4.0, 5.0, "run")]


def test_short_segments_and_background_are_left_out():
    rows = [[0.9, 0.0], [0.9, 0.0], [0.0, 0.9], [0.0, 0.0], [0.0, 0.9]]
    assert found(rows, min_length=1.5) == [(0.0, 2.0, "run")]
    everything = [(0.0, 2.0, "run"), (2.0, 3.0, "jump"), (3.0, 4.0, "none"), (4.0, 5.0, "jump")]
    assert found(rows) == everything
    gap = (3.0, 4.0, "")
    assert found(rows, background=["none"], gaps=True) == [*everything[:2], gap, everything[3]]


def test_smoothing_averages_over_time():
    rows = [[0.9, 0.0], [0.9, 0.0], [0.0, 0.9], [0.9, 0.0], [0.9, 0.0]]
    assert [segment[2] for segment in found(rows)] == ["run", "jump", "run"]
    (segment,) = find_segments(windows(rows, 1.0), NAMES, smooth=3.0)
    # Three seconds around the middle of each: 0.9, 0.6, 0.6, 0.6, 0.9; fewer at the ends.
    assert segment == Segment(0.0, 5.0, "run", pytest.approx((0.9 + 0.6 + 0.6 + 0.6 + 0.9) / 5))


def test_time_between_windows_is_no_action():
    rows = windows([[0.9, 0.0], [0.8, 0.0]], length=1.0, stride=3.0)
    expected = [Segment(0.0, 1.0, "run", pytest.approx(0.9)), Segment(3.0, 4.0, "run", pytest.approx(0.8))]
    assert find_segments(rows, NAMES) == expected
    assert find_segments(rows, NAMES, smooth=1.0) == expected
    assert find_segments([], NAMES) == []


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 1.5},
        {"threshold": "0.5"},
        {"leave": 0.9},
        {"leave": [0.1]},
        {"smooth": -1.0},
        {"smooth": float("nan")},
        {"min_length": -1.0},
        {"background": ["swim"]},
    ],
)
def test_values_out_of_range_are_errors(options: dict[str, object]):
    with pytest.raises(UserError, match=next(iter(options))):
        find_segments([], NAMES, **options)
