"""Whether one accuracy is better than another: paired tests where both were measured on the same videos."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, t

from timesformer.visualization.run_files import Predictions

LEVEL = 0.05
"""Significance level: a difference with a p-value below it is significant. Intervals are 1 - LEVEL, 95 %."""

_Component = tuple[float, int]  # a variance of the difference, and its degrees of freedom


@dataclass(frozen=True)
class Comparison:
    """The difference of two top-1 accuracies.

    Attributes:
        difference: first minus second, in percentage points.
        low, high: its 95 % confidence interval.
        p: two-sided p-value of "there is no difference".
        method: the test, in words.
    """

    difference: float
    low: float
    high: float
    p: float
    method: str

    @property
    def is_significant(self) -> bool:
        """Whether the test tells the two apart."""
        return self.p < LEVEL

    def __str__(self) -> str:
        p = "p < 0.0001" if self.p < 0.0001 else f"p = {self.p:.4f}"
        return f"{self.difference:+.1f} points, 95 % interval {self.low:+.1f} to {self.high:+.1f}, {p}, {self.method}"


def interval(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, in percent (Wilson's score interval, 1927).

    Args:
        correct: successes among `total`, which is 1 or more.
    """
    low, high = binomtest(correct, total).proportion_ci(1 - LEVEL, method="wilson")
    return 100 * low, 100 * high


def aligned(first: Sequence[Predictions], second: Sequence[Predictions]) -> tuple[np.ndarray, np.ndarray] | None:
    """Correct predictions of two settings, bool (runs, videos) each, with the videos in one order.

    None if the runs were not all tested on the same videos.
    """
    order, found = first[0].videos, []
    for predictions in (*first, *second):
        right = predictions.right
        if predictions.videos != order:
            if sorted(predictions.videos) != sorted(order):
                return None
            rows = {video: row for row, video in enumerate(predictions.videos)}
            right = right[[rows[video] for video in order]]
        found.append(right)
    return np.stack(found[: len(first)]), np.stack(found[len(first) :])


def compare_paired(first: np.ndarray, second: np.ndarray) -> Comparison:
    """Compares two settings on the same videos.

    With one run of each this is McNemar's exact test, which looks at the videos that exactly one of the two recognises
    (McNemar, Psychometrika 12, 1947; recommended for classifiers that are trained once by Dietterich, Neural
    Computation 10, 1998). The interval is that of the binomial share of those videos (Clopper and Pearson, Biometrika
    26, 1934), given how many they are: it excludes 0 exactly when the test is significant.

    With several seeds, a difference has to hold for other seeds and for other videos, and p-value and interval are the
    wider of two tests. The first is the paired t-test of the seeds' differences. The second, min F' (Clark, Journal of
    Verbal Learning and Verbal Behavior 12, 1973, with "subjects" and "items" for seeds and videos), has both as crossed
    random effects: its squared standard error is the sum of that of the first and that of a paired t-test of the
    videos' differences, each a mean over the seeds. Degrees of freedom are Satterthwaite's (Biometrics Bulletin 2,
    1946). With two or three seeds min F' alone finds differences where there are none in up to 11 % of cases, and the
    first alone says nothing of other videos.

    Args:
        first, second: whether each video is recognised, bool (seeds, videos); row i of both has the same seed. One or
            more seeds and videos.
    """
    seeds, videos = first.shape
    difference = first.astype(float) - second
    per_seed, per_video = difference.mean(axis=1), difference.mean(axis=0)
    if seeds == 1 or not (np.ptp(per_seed) or np.ptp(per_video)):
        return _mcnemar(int((difference[0] > 0).sum()), int((difference[0] < 0).sum()), videos)
    of_seeds, of_videos = _of_mean(per_seed), _of_mean(per_video)
    method = f"paired over {seeds} seeds and {videos:,} videos (t-test and min F')"
    return _from_components(float(per_seed.mean()), [[of_seeds], [of_seeds, of_videos]], method)


def compare_unpaired(first: Sequence[tuple[int, int]], second: Sequence[tuple[int, int]]) -> Comparison:
    """Compares two settings whose videos differ, or are not known one by one: weaker than `compare_paired`.

    The squared standard error is the sum of a binomial one for the videos of each (Agresti and Caffo, The American
    Statistician 54, 2000: with one success and one failure more) and, where there are several seeds, of the pooled
    variance between them, as in Student's t-test of two samples; degrees of freedom are Satterthwaite's.

    Args:
        first, second: of each seed, correct predictions and videos, which are 1 or more.
    """
    shares = [np.array([correct / total for correct, total in runs]) for runs in (first, second)]
    components: list[_Component] = []
    for values, runs in zip(shares, (first, second), strict=True):
        videos = min(total for _, total in runs)  # all seeds have the same ones: they add none
        adjusted = (float(values.mean()) * videos + 1) / (videos + 2)
        components.append((adjusted * (1 - adjusted) / (videos + 2), videos + 1))
    if freedom := len(first) + len(second) - 2:
        pooled = sum(float(((values - values.mean()) ** 2).sum()) for values in shares) / freedom
        components.append((pooled * (1 / len(first) + 1 / len(second)), freedom))
    method = f"unpaired, {len(first)} and {len(second)} seed{'s' * (freedom > 0)} (Welch's t-test)"
    return _from_components(float(shares[0].mean() - shares[1].mean()), [components], method)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for how many they are (Holm, Scandinavian Journal of Statistics 6, 1979), in the same order.

    Where those below LEVEL count as significant, the probability of one or more false ones is at most LEVEL.
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = largest
    return adjusted


def _mcnemar(only_first: int, only_second: int, videos: int) -> Comparison:
    method = f"McNemar's exact test on {videos:,} videos"
    apart = only_first + only_second
    if not apart:
        return Comparison(0.0, 0.0, 0.0, 1.0, method)
    test = binomtest(only_first, apart)
    low, high = ((2 * share - 1) * apart / videos for share in test.proportion_ci(1 - LEVEL))
    return Comparison(100 * (only_first - only_second) / videos, 100 * low, 100 * high, float(test.pvalue), method)


def _of_mean(values: np.ndarray) -> _Component:
    """The variance of a mean; of a single value it is not known."""
    return (float(values.var(ddof=1)) / len(values), len(values) - 1) if len(values) > 1 else (math.inf, 1)


def _from_components(difference: float, tests: Sequence[Sequence[_Component]], method: str) -> Comparison:
    """The most cautious of t-tests whose squared standard errors are sums of these components."""
    p, half = 0.0, 0.0
    for components in tests:
        variance = sum(part for part, _ in components)
        if variance == 0:
            continue  # seeds that agree
        if math.isinf(variance):
            return Comparison(100 * difference, -100.0, 100.0, 1.0, method)
        freedom = variance**2 / sum(part**2 / number for part, number in components)
        p = max(p, float(2 * t.sf(abs(difference) / math.sqrt(variance), freedom)))
        half = max(half, float(t.ppf(1 - LEVEL / 2, freedom)) * math.sqrt(variance))
    low, high = (float(np.clip(100 * value, -100, 100)) for value in (difference - half, difference + half))
    return Comparison(100 * difference, low, high, p, method)
