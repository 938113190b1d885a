"""Tests of whether one accuracy is better than another, paired where both were measured on the same videos."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, t

from timesformer.metrics.baselines import LEVEL
from timesformer.visualization.run_files import Predictions

_Component = tuple[float, int]  # variance, degrees of freedom


@dataclass(frozen=True)
class Comparison:
    """The difference of two top-1 accuracies in percentage points, with its 95 % interval and two-sided p-value."""

    difference: float
    low: float
    high: float
    p: float
    method: str

    @property
    def is_significant(self) -> bool:
        return self.p < LEVEL

    def __str__(self) -> str:
        p = "p < 0.0001" if self.p < 0.0001 else f"p = {self.p:.4f}"
        return f"{self.difference:+.1f} points, 95 % interval {self.low:+.1f} to {self.high:+.1f}, {p}, {self.method}"


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95 % interval in percent of a share of `correct` among `total` > 0 (Wilson's score interval, 1927)."""
    low, high = binomtest(correct, total).proportion_ci(1 - LEVEL, method="wilson")
    return 100 * low, 100 * high


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of two or more independent values, by Student's t with n - 1 degrees of freedom."""
    half_width = t.ppf(1 - LEVEL / 2, len(values) - 1) * math.sqrt(np.var(values, ddof=1) / len(values))
    return float(np.mean(values) - half_width), float(np.mean(values) + half_width)


def align_predictions(
    first: Sequence[Predictions], second: Sequence[Predictions]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Correct predictions of two settings, bool (runs, videos), videos in one order; None if the videos differ."""
    order, rows = first[0].videos, []
    for predictions in (*first, *second):
        row_of = {video: row for row, video in enumerate(predictions.videos)}
        if row_of.keys() != set(order) or len(predictions.videos) != len(order):
            return None
        rows.append(predictions.correct[[row_of[video] for video in order]])
    return np.stack(rows[: len(first)]), np.stack(rows[len(first) :])


def compare_paired(first: np.ndarray, second: np.ndarray) -> Comparison:
    """Compares two settings by their correct predictions, bool (seeds, videos); row i of both has the same seed.

    One seed: `mcnemar`.

    Several seeds: the wider one of the paired t-test over the seeds and of min F' (Clark, Journal of Verbal Learning
    and Verbal Behavior 12, 1973), which has seeds and videos as crossed random effects: its squared standard error is
    the sum of those of the paired t-tests over seeds and over videos, with Satterthwaite's degrees of freedom.
    """
    seeds, videos = first.shape
    difference = first.astype(float) - second
    per_seed, per_video = difference.mean(axis=1), difference.mean(axis=0)
    if seeds == 1 or not (np.ptp(per_seed) or np.ptp(per_video)):
        return mcnemar(int((difference[0] > 0).sum()), int((difference[0] < 0).sum()), videos)
    over_seeds, over_videos = _variance_of_mean(per_seed), _variance_of_mean(per_video)
    method = f"paired over {seeds} seeds and {videos:,} videos (t-test and min F')"
    return _widest_t_test(float(per_seed.mean()), [[over_seeds], [over_seeds, over_videos]], method)


def mcnemar(only_first: int, only_second: int, videos: int) -> Comparison:
    """Compares two settings by the videos, of `videos`, that only the first or only the second predicts correctly.

    McNemar's exact test (Dietterich, Neural Computation 10, 1998), with Clopper and Pearson's interval.
    """
    method = f"McNemar's exact test on {videos:,} videos"
    differing = only_first + only_second
    if not differing:
        return Comparison(0.0, 0.0, 0.0, 1.0, method)
    test = binomtest(only_first, differing)
    low, high = (100 * (2 * share - 1) * differing / videos for share in test.proportion_ci(1 - LEVEL))
    return Comparison(100 * (only_first - only_second) / videos, low, high, float(test.pvalue), method)


def compare_unpaired(first: Sequence[tuple[int, int]], second: Sequence[tuple[int, int]]) -> Comparison:
    """Compares two settings on different videos, by numbers of correct predictions and videos of each seed.

    The squared standard error is the sum of the binomial ones (Agresti and Caffo, The American Statistician 54, 2000)
    and, with several seeds, of the pooled variance between seeds, with Satterthwaite's degrees of freedom.
    """
    shares = [np.array([correct / total for correct, total in runs]) for runs in (first, second)]
    components: list[_Component] = []
    for values, runs in zip(shares, (first, second), strict=True):
        videos = min(total for _, total in runs)  # all seeds are tested on the same ones
        adjusted = (float(values.mean()) * videos + 1) / (videos + 2)
        components.append((adjusted * (1 - adjusted) / (videos + 2), videos + 1))
    if freedom := len(first) + len(second) - 2:
        pooled = sum(float(((values - values.mean()) ** 2).sum()) for values in shares) / freedom
        components.append((pooled * (1 / len(first) + 1 / len(second)), freedom))
    method = f"unpaired, {len(first)} and {len(second)} seed{'s' * (freedom > 0)} (Welch's t-test)"
    return _widest_t_test(float(shares[0].mean() - shares[1].mean()), [components], method)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm, Scandinavian Journal of Statistics 6, 1979), in the same order."""
    values = np.asarray(p_values, float)
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, values[order] * np.arange(len(values), 0, -1)))
    return adjusted.tolist()


def _variance_of_mean(values: np.ndarray) -> _Component:
    return (float(values.var(ddof=1)) / len(values), len(values) - 1) if len(values) > 1 else (math.inf, 1)


def _widest_t_test(difference: float, tests: Sequence[Sequence[_Component]], method: str) -> Comparison:
    """The most cautious of t-tests whose squared standard errors are sums of components."""
    p, half_width = 0.0, 0.0
    for components in tests:
        variance = sum(part for part, _ in components)
        if variance == 0:
            continue  # all seeds agree
        if math.isinf(variance):
            return Comparison(100 * difference, -100.0, 100.0, 1.0, method)
        freedom = variance**2 / sum(part**2 / number for part, number in components)
        p = max(p, float(2 * t.sf(abs(difference) / math.sqrt(variance), freedom)))
        half_width = max(half_width, float(t.ppf(1 - LEVEL / 2, freedom)) * math.sqrt(variance))
    low, high = (float(np.clip(100 * value, -100, 100)) for value in (difference - half_width, difference + half_width))
    return Comparison(100 * difference, low, high, p, method)
