"""Metrics of segments."""

import json

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from timesformer.metrics.localization import Interval, average_precision, evaluate_localization, temporal_iou


@pytest.mark.numerical
@pytest.mark.parametrize("seed", range(3))
def test_average_precision_equals_the_area_under_scikit_learns_curve(seed: int):
    random = np.random.default_rng(seed)
    correct, scores = random.random(40) < 0.4, random.permutation(40) / 40
    # Detection n is a video of its own; correct ones equal an annotation, the others do not touch it.
    detected = [
        Interval(str(n), 0.0 if c else 5.0, 3.0 if c else 8.0, "run", p)
        for n, (c, p) in enumerate(zip(correct, scores, strict=True))
    ]
    annotated = [Interval(str(n), 0.0, 3.0, "run") for n in np.flatnonzero(correct)]
    precision, recall, _ = precision_recall_curve(correct, scores)  # from high recall to 0
    interpolated = np.maximum.accumulate(precision)
    expected = -np.sum(np.diff(recall) * interpolated[:-1])
    assert average_precision(detected, annotated, 0.5) == pytest.approx(expected, rel=1e-12)


def test_average_precision_by_hand():
    annotated = [Interval("a", 0, 10, "run"), Interval("a", 20, 30, "run"), Interval("b", 0, 10, "run")]
    detected = [
        Interval("a", 0, 8, "run", 0.9),  # IoU 0.8
        Interval("a", 1, 10, "run", 0.8),  # IoU 0.9, but that segment is taken
        Interval("a", 25, 35, "run", 0.7),  # IoU 1/3
        Interval("b", 0, 20, "run", 0.6),  # IoU 0.5
    ]
    # At 0.5, ranks 1 and 4 are correct, precision 1 and 1/2; at 0.3 ranks 1, 3 and 4: 1, 2/3 raised to 3/4, and 3/4.
    assert average_precision(detected, annotated, 0.5) == pytest.approx((1 + 1 / 2) / 3)
    assert average_precision(detected, annotated, 0.3) == pytest.approx((1 + 3 / 4 + 3 / 4) / 3)
    assert average_precision(detected, annotated, 0.6) == pytest.approx(1 / 3)
    assert average_precision([], annotated, 0.1) == 0


def test_a_detection_takes_the_free_segment_with_the_highest_overlap():
    annotated = [Interval("a", 0, 10, "run"), Interval("a", 8, 18, "run")]
    detected = [Interval("a", 7, 17, "run", 0.9), Interval("a", 3, 13, "run", 0.8)]
    assert temporal_iou(detected[0], annotated[1]) == pytest.approx(9 / 11)
    # The second overlaps the first annotation by 7 of 13 and the second one, which is taken, by 5 of 15.
    assert average_precision(detected, annotated, 0.5) == 1


def test_metrics_of_videos():
    annotated = [Interval("a", 2, 6, "run"), Interval("a", 6, 8, "jump"), Interval("b", 0, 5, "jump")]
    detected = [Interval("a", 2, 7, "run", 0.9), Interval("b", 0, 5, "run", 0.8), Interval("b", 8, 9, "swim", 0.7)]
    metrics = evaluate_localization(detected, annotated, {"a": 10.0, "b": 10.0}, (0.5, 0.9))
    assert metrics.average_precision == {"jump": [0, 0], "run": [100, 0]}  # IoU 4/5
    assert metrics.mean_average_precision == [50, 0]
    # a: 0-2 none, 2-6 run, 8-10 none are correct, 6-8 are not; b: 5-8 and 9-10 none are correct.
    assert metrics.frame_accuracy == pytest.approx(100 * (2 + 4 + 2 + 3 + 1) / 20)
    assert metrics.action_accuracy == pytest.approx(100 * 4 / 11)


def test_videos_without_annotated_segments_have_no_precision_in_json():
    metrics = evaluate_localization([Interval("a", 0, 1, "run", 0.9)], [], {"a": 4.0}).to_dict()
    assert json.loads(json.dumps(metrics, allow_nan=False))["mean_average_precision"] == [None] * 5
    assert metrics["frame_accuracy"] == pytest.approx(75)
