"""Calibration: how well probabilities match the share of correct predictions, and temperature scaling.

Guo et al., On Calibration of Modern Neural Networks, 2017, https://arxiv.org/abs/1706.04599
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 15
TEMPERATURES = (0.1, 30.0)
"""The lowest and the highest temperature."""
_AT_LIMIT = 1.01
"""Temperatures within this factor of a limit are at it."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """The temperature of a model, or why there is none."""

    temperature: float | None
    num_videos: int  # of validation, whose predictions it was fitted on
    reason: str = ""


@dataclass(frozen=True)
class Reliability:
    """Videos by the probability of their predicted class, in intervals of equal width; float64 [bins]."""

    count: NDArray[np.int64]
    confidence: Floats  # mean probability in percent; NaN in empty intervals
    correct: Floats  # correct predictions in percent; NaN in empty intervals

    @property
    def error(self) -> float:
        """Expected calibration error in percent: mean of |correct - confidence|, weighted by the number of videos."""
        gaps = np.abs(self.correct - self.confidence)[self.count > 0]
        return float(np.average(gaps, weights=self.count[self.count > 0])) if len(gaps) else math.nan


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> Reliability:
    """Intervals of `confidence` [videos] in [0, 1], each without its upper bound, except for the last.

    `correct` is bool [videos].
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    interval = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    count = np.bincount(interval, minlength=bins)
    means = [
        np.divide(100.0 * np.bincount(interval, values, bins), count, out=np.full(bins, np.nan), where=count > 0)
        for values in (confidence, correct)
    ]
    return Reliability(count, *means)


def softmax(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Probabilities, float64 [videos, classes], of logits divided by a temperature."""
    return np.exp(_log_softmax(logits, temperature))


def cross_entropy(logits: ArrayLike, labels: ArrayLike, temperature: float = 1.0) -> float:
    """Mean cross entropy of logits [videos, classes] divided by a temperature, and labels int [videos]."""
    log_probabilities = _log_softmax(logits, temperature)
    return float(-np.take_along_axis(log_probabilities, np.asarray(labels)[:, None], axis=1).mean())


def _log_softmax(logits: ArrayLike, temperature: float) -> Floats:
    from scipy.special import log_softmax  # late: predictions do not need it

    return log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """The temperature in `TEMPERATURES` with the lowest cross entropy, and that cross entropy.

    `logits` is [videos, classes] with at least one video, `labels` int [videos]. The cross entropy is convex in the
    inverse of the temperature, so it has one minimum.
    """
    from scipy.optimize import minimize_scalar

    logits, (low, high) = np.asarray(logits, np.float64), np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda power: cross_entropy(logits, labels, math.exp(power)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return math.exp(found.x), float(found.fun)


def is_at_limit(temperature: float) -> bool:
    """Whether a fitted temperature is at an end of `TEMPERATURES`, as on validation sets of a few videos."""
    low, high = TEMPERATURES
    return temperature <= low * _AT_LIMIT or temperature >= high / _AT_LIMIT
