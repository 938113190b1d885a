"""Which classes are confused: counts, an order of the classes that shows it, and the most frequent pairs."""

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from timesformer.visualization.run_files import Predictions


@dataclass(frozen=True)
class Confusion:
    """Number of videos of class `true` predicted as `predicted`."""

    true: int
    predicted: int
    count: int
    share: float  # of the class, in percent
    reverse: int  # count in the other direction


def count_confusions(predictions: Predictions, num_classes: int) -> np.ndarray:
    """Readable videos by true class (rows) and predicted class (columns), int64 (classes, classes)."""
    readable = predictions.readable
    pairs = predictions.labels[readable] * num_classes + predictions.classes[readable, 0]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def most_confused(counts: np.ndarray, limit: int = 30) -> list[Confusion]:
    """Pairs of classes by the number of confused videos, then by their share of the class, in falling order."""
    shares = 100.0 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    pairs = [
        Confusion(row, column, int(counts[row, column]), float(shares[row, column]), int(counts[column, row]))
        for row, column in np.argwhere(counts).tolist()
        if row != column
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.share, pair.true, pair.predicted))[:limit]


def order_by_similarity(counts: np.ndarray) -> list[int]:
    """Numbers of the classes, confused ones next to each other, by average linkage with optimal leaf order."""
    if len(counts) < 3:
        return list(range(len(counts)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    distances = 1.0 - np.minimum(shares + shares.T, 1.0)
    np.fill_diagonal(distances, 0.0)
    return leaves_list(linkage(squareform(distances, checks=False), "average", optimal_ordering=True)).tolist()
