"""Significance tests, compared with published examples and scipy's own tests."""

import numpy as np
import pytest
from scipy.stats import f, ttest_1samp

from timesformer.visualization.run_files import Predictions
from timesformer.visualization.significance import (
    align_predictions,
    compare_paired,
    compare_unpaired,
    holm,
    wilson_interval,
)


def paired(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """One run of each setting, bool (1, videos)."""
    pairs = [(True, True)] * both + [(True, False)] * only_first + [(False, True)] * only_second
    first, second = np.array([*pairs, *[(False, False)] * neither]).T
    return first[None], second[None]


@pytest.mark.parametrize(
    ("table", "p"),
    [
        ((1, 1, 7, 12), 0.0703),  # Fagerland, Lydersen and Laake (2013), table 1: airway hyper-responsiveness
        ((4, 2, 1, 3), 1.0),  # the example of statsmodels' mcnemar that many pages show
        ((20, 0, 6, 14), 0.03125),  # 2 * 0.5**6
    ],
)
def test_one_run_each_uses_mcnemars_exact_test(table: tuple[int, ...], p: float) -> None:
    found = compare_paired(*paired(*table))
    assert found.p == pytest.approx(p, abs=5e-5)
    assert found.difference == pytest.approx(100 * (table[1] - table[2]) / sum(table))


def test_exact_interval_is_clopper_pearson() -> None:
    # 7 of 8: 47.35 to 99.68 % (Clopper and Pearson); as a difference over 21 videos
    found = compare_paired(*paired(1, 7, 1, 12))
    assert (found.low, found.high) == pytest.approx((100 * 8 / 21 * (2 * 0.4735 - 1), 100 * 8 / 21 * 0.9937), abs=0.02)


@pytest.mark.parametrize(("seeds", "videos"), [(8, 40), (3, 400)])
def test_several_seeds_use_t_test_and_min_f(seeds: int, videos: int) -> None:
    random = np.random.default_rng(1)
    first, second = random.random((seeds, videos)) < 0.8, random.random((seeds, videos)) < 0.7
    found, difference = compare_paired(first, second), first.astype(float) - second
    over_seeds, over_videos = (ttest_1samp(difference.mean(axis=axis), 0).statistic ** 2 for axis in (1, 0))
    min_f = over_seeds * over_videos / (over_seeds + over_videos)
    freedom = (over_seeds + over_videos) ** 2 / (over_seeds**2 / (videos - 1) + over_videos**2 / (seeds - 1))
    expected = f.sf(min_f, 1, freedom), ttest_1samp(difference.mean(axis=1), 0).pvalue
    assert found.p == pytest.approx(max(expected))
    assert found.is_significant == (not found.low <= 0 <= found.high)


def test_equal_seeds_leave_t_test_over_videos() -> None:
    random = np.random.default_rng(2)
    first, second = (np.repeat(random.random((1, 50)) < share, 3, axis=0) for share in (0.8, 0.6))
    expected = ttest_1samp(first[0].astype(float) - second[0], 0)
    found = compare_paired(first, second)
    assert found.p == pytest.approx(expected.pvalue)
    ci = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((100 * ci.low, 100 * ci.high))


@pytest.mark.slow
def test_false_positive_rate_over_seeds() -> None:
    """Two equally good settings; seeds change the accuracy by 6 points, and videos are easy or hard."""
    random, false_positives, over_videos_only = np.random.default_rng(3), 0, 0
    for _ in range(400):
        easy = random.normal(0, 1, 200)
        runs = [easy + random.normal(0.5, 0.35, (3, 1)) + random.normal(0, 1, (3, 200)) > 0 for _ in range(2)]
        false_positives += compare_paired(*runs).is_significant
        over_videos_only += ttest_1samp((runs[0].astype(float) - runs[1]).mean(axis=0), 0).pvalue < 0.05
    assert false_positives <= 0.05 * 400 + 3 * (0.05 * 0.95 * 400) ** 0.5
    assert over_videos_only > 0.2 * 400  # a test without seeds


def test_different_videos_are_independent_samples() -> None:
    # 56 of 70 and 48 of 80: 20 points; Agresti and Caffo (2000): 57/72 - 49/82 -+ 1.96 * 0.0722
    found = compare_unpaired([(56, 70)], [(48, 80)])
    assert found.difference == pytest.approx(20.0)
    assert (found.high - found.low) / 2 == pytest.approx(100 * 1.96 * 0.0722, abs=0.2)
    assert found.is_significant
    assert not compare_unpaired([(56, 70), (30, 70)], [(48, 80)]).is_significant  # seeds that far apart say little


def test_holm_adjustment() -> None:
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_predictions_are_aligned_by_video_names() -> None:
    def predictions(videos: str, classes: list[int]) -> Predictions:
        ranked, labels = np.array(classes)[:, None], np.zeros(len(videos), int)
        return Predictions(list(videos), labels, ranked, np.ones_like(ranked, float))

    first, second = predictions("abc", [0, 1, 0]), predictions("cab", [0, 1, 1])
    (one,), (other,) = align_predictions([first], [second])
    assert (one.tolist(), other.tolist()) == ([True, False, True], [False, False, True])
    assert align_predictions([first], [predictions("abd", [0, 1, 0])]) is None
    assert align_predictions([first, predictions("ab", [0, 1])], [second]) is None


def test_wilson_interval() -> None:
    assert wilson_interval(0, 10) == pytest.approx((0.0, 27.75), abs=0.01)  # Brown, Cai and DasGupta (2001)
    assert wilson_interval(50, 100) == pytest.approx((40.38, 59.62), abs=0.01)
