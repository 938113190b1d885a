"""Accuracies that need no model: chance, and always predicting the most frequent class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05
"""Of significance tests; intervals are 1 - LEVEL, 95 %."""


@dataclass(frozen=True)
class Baselines:
    """Accuracies in percent of trivial predictions of a split, and whether a result is better."""

    chance: float  # a class drawn at random
    majority: float  # always the most frequent class of the split
    majority_class: int  # label of that class
    p_value: float  # of a one-sided binomial test of the number of correct predictions against `majority`

    @property
    def is_beaten(self) -> bool:
        """Whether the result is significantly better than always predicting the most frequent class."""
        return self.p_value < LEVEL

    def warning(self, class_names: Sequence[str]) -> str:
        """A sentence about a result that is not better."""
        return (
            f"The result is not significantly better than always predicting the most frequent class, "
            f"{class_names[self.majority_class]} ({self.majority:.1f} %; binomial test, p = {self.p_value:.2f})."
        )

    def describe(self) -> str:
        return describe_baselines(self.chance, self.majority, digits=2)


def describe_baselines(chance: float, majority: float, digits: int = 1) -> str:
    """Both accuracies in percent as text."""
    return f"chance {chance:.{digits}f}, most frequent class {majority:.{digits}f}"


def baselines(videos: Sequence[int], correct: int) -> Baselines | None:
    """Baselines of a split with these numbers of videos of each class, `correct` of them predicted correctly.

    The most frequent class is that of the split itself, the best constant prediction there is. None without videos.
    """
    from scipy.stats import binomtest

    total = sum(videos)
    if not total:
        return None
    label = int(np.argmax(videos))
    p_value = binomtest(correct, total, videos[label] / total, alternative="greater").pvalue
    return Baselines(100.0 / len(videos), 100.0 * videos[label] / total, label, float(p_value))
