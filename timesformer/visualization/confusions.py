"""Which classes are taken for which: the counts, an order in which they show, and the worst of them."""

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from timesformer.visualization.run_files import Predictions


@dataclass(frozen=True)
class Confusion:
    """Videos of class `true` that were taken for class `predicted`: `count` of the `total` of the class.

    `back`: how many were taken the other way round.
    """

    true: int
    predicted: int
    count: int
    total: int
    back: int

    @property
    def share(self) -> float:
        """Percent of the class."""
        return 100.0 * self.count / self.total


def count_confusions(predictions: Predictions, num_classes: int) -> np.ndarray:
    """Readable videos by true class (rows) and predicted class (columns), int64 (classes, classes)."""
    readable = predictions.readable
    pairs = predictions.labels[readable] * num_classes + predictions.classes[readable, 0]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def most_confused(counts: np.ndarray, limit: int = 30) -> list[Confusion]:
    """Pairs of classes by how many videos were confused, then by their share of the class; the most confused first."""
    totals = counts.sum(axis=1)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    true, predicted = np.nonzero(wrong)
    found = [
        Confusion(row, column, int(wrong[row, column]), int(totals[row]), int(wrong[column, row]))
        for row, column in zip(true.tolist(), predicted.tolist(), strict=True)
    ]
    return sorted(found, key=lambda pair: (-pair.count, -pair.share, pair.true, pair.predicted))[:limit]


def order_by_likeness(counts: np.ndarray) -> list[int]:
    """Numbers of the classes in an order that brings those that are confused side by side, so that they make blocks.

    Average linkage over 1 minus the shares confused either way, with the leaves in their best order.
    """
    number = len(counts)
    if number < 3:
        return list(range(number))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    alike = np.minimum(shares + shares.T, 1.0)
    np.fill_diagonal(alike, 1.0)
    return leaves_list(linkage(squareform(1.0 - alike, checks=False), "average", optimal_ordering=True)).tolist()
