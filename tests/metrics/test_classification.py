"""Ranks and top-k of scores with ties, missing classes and unreadable videos."""

import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from timesformer.metrics.classification import cmc_curve, curves, label_ranks, thin_out

CLASSES = 7


@pytest.fixture
def scores() -> np.ndarray:
    """Scores of few different values, so that many are equal."""
    return np.random.default_rng(0).integers(0, 5, (60, CLASSES)).astype(np.float32)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, CLASSES - 2, 60)  # the last two classes have no videos


def test_cmc_curve_is_top_k_for_all_k(scores: np.ndarray, labels: np.ndarray) -> None:
    curve = cmc_curve(scores, labels)
    # Of equal scores, scikit-learn takes the last class first.
    flipped, others = scores[:, ::-1], CLASSES - 1 - labels
    for k in range(1, CLASSES):
        expected = top_k_accuracy_score(others, flipped, k=k, labels=range(CLASSES))
        assert curve[k - 1] == pytest.approx(100 * expected)
    assert curve[-1] == 100.0
    np.testing.assert_array_equal(label_ranks(scores, labels) == 1, scores.argmax(axis=1) == labels)


def test_unreadable_videos_are_incorrect_for_every_k(scores: np.ndarray, labels: np.ndarray) -> None:
    readable = np.arange(60) >= 15
    expected = 45 / 60 * cmc_curve(scores[readable], labels[readable])
    np.testing.assert_allclose(cmc_curve(scores, labels, readable), expected)


def test_a_score_that_is_not_a_number_ranks_last() -> None:
    assert label_ranks([[np.nan, 1.0, 2.0]], [0]).tolist() == [3]


@pytest.mark.parametrize("number", [1, 49, 50, 51, 12345])
def test_thinned_points_are_few_and_have_both_ends(number: int) -> None:
    indices = thin_out(number)
    assert len(indices) == min(number, 50)
    assert (indices[0], indices[-1]) == (0, number - 1)


def test_curves_need_both_kinds_of_videos() -> None:
    assert curves([0.1, 0.2], [True, True]) is None
    assert curves([0.1, 0.2], [False, False]) is None
