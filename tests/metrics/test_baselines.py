"""Chance, the most frequent class, and the test against it."""

from math import comb

import pytest
from sklearn.dummy import DummyClassifier

from timesformer.metrics.baselines import baselines


def test_most_frequent_class_is_that_of_a_dummy_classifier() -> None:
    videos = [3, 9, 8, 0]
    labels = [label for label, count in enumerate(videos) for _ in range(count)]
    dummy = DummyClassifier(strategy="most_frequent").fit(labels, labels)
    found = baselines(videos, 12)
    assert found.majority == pytest.approx(100 * dummy.score(labels, labels))
    assert (found.majority_class, found.chance) == (1, 25.0)
    share, total = 9 / 20, 20
    expected = sum(comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(12, total + 1))
    assert found.p_value == pytest.approx(expected)
    assert not found.is_beaten
    assert baselines(videos, 17).is_beaten


def test_one_class_and_no_videos() -> None:
    assert not baselines([4], 4).is_beaten
    assert baselines([0, 0], 0) is None
