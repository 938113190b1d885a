"""Metrics of predictions with one class per video, in percent, except for areas under ROC curves (0 to 1).

Unreadable videos have no prediction: they count as incorrect in precision, recall, F1 and the CMC curve, and should be
left out of metrics over thresholds. scikit-learn is imported late, because this takes a second.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NO_CLASS = -1
"""The predicted class of an unreadable video."""
MAX_POINTS = 50
"""Of a curve."""
THRESHOLDS = tuple(number / 20 for number in range(1, 20))
"""Of the table for two classes, 0.05 to 0.95."""


def has_top5(num_classes: int) -> bool:
    """Whether top-5 accuracy is reported: not for five classes or fewer. An unknown number of classes is 0."""
    return num_classes == 0 or num_classes > 5


def drop_trivial_top5(metrics: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """Metrics of a file without a top-5 accuracy of five classes or fewer, which earlier versions wrote."""
    return metrics if has_top5(num_classes) else {key: value for key, value in metrics.items() if key != "top5"}


def label_ranks(scores: ArrayLike, labels: ArrayLike) -> Ints:
    """Rank of the true class among all classes, int64 [videos], 1 for a correct prediction.

    `scores` is [videos, classes], `labels` int [videos]. Of equal scores, the class with the lower label ranks first.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    is_before = np.arange(scores.shape[1]) < labels[:, None]
    return 1 + (scores > own).sum(axis=1) + ((scores == own) & is_before).sum(axis=1)


def cmc_curve(scores: ArrayLike, labels: ArrayLike, readable: ArrayLike | None = None) -> Floats:
    """Cumulative match characteristic, float64 [classes]: percentage of videos whose class is among the first k.

    The first value is top-1, the last is 100 if all videos are readable. `scores` is [videos, classes], `labels` int
    [videos], `readable` bool [videos] (default: all). 0 without videos.
    """
    ranks, num_classes = label_ranks(scores, labels), np.shape(scores)[1]
    counted = ranks if readable is None else ranks[np.asarray(readable)]
    counts = np.bincount(counted, minlength=num_classes + 1)[1:]
    return 100.0 * counts.cumsum() / max(len(ranks), 1)


class Averages(NamedTuple):
    """Precision, recall and F1 in percent, averaged over the classes that have videos."""

    precision: float
    recall: float
    f1: float


class PrecisionRecall(NamedTuple):
    """Precision, recall and F1 of each class in percent, float64 [classes], and their averages.

    The precision of a class that is never predicted is 0; a class without videos has NaN, and is not in the averages.
    """

    precision: Floats
    recall: Floats
    f1: Floats
    macro: Averages  # each class with equal weight
    weighted: Averages  # each class with its number of videos as weight


def precision_recall_f1(labels: ArrayLike, predicted: ArrayLike, num_classes: int) -> PrecisionRecall:
    """Precision, recall and F1 of true and predicted classes, int [videos]; `NO_CLASS` is no prediction."""
    from sklearn.metrics import precision_recall_fscore_support

    *metrics, support = precision_recall_fscore_support(
        np.asarray(labels), np.asarray(predicted), labels=np.arange(num_classes), zero_division=0
    )
    known = support > 0
    rows = [np.where(known, 100.0 * metric, np.nan) for metric in metrics]
    macro = Averages(*(float(row[known].mean()) for row in rows))
    weighted = Averages(*(float(np.average(row[known], weights=support[known])) for row in rows))
    return PrecisionRecall(*rows, macro, weighted)


def average_precisions(probabilities: ArrayLike, labels: ArrayLike) -> Floats:
    """Average precision of each class against all others, float64 [classes]; NaN for a class without videos."""
    from sklearn.metrics import average_precision_score

    return _of_each_class(probabilities, labels, lambda truth, p: 100.0 * average_precision_score(truth, p))


def roc_areas(probabilities: ArrayLike, labels: ArrayLike) -> Floats:
    """Area under the ROC curve, 0 to 1, of each class against all others, float64 [classes].

    NaN for a class without videos, or with all of them.
    """
    from sklearn.metrics import roc_auc_score

    return _of_each_class(probabilities, labels, lambda t, p: np.nan if t.all() else roc_auc_score(t, p))


class Curves(NamedTuple):
    """Precision-recall and ROC curve in percent, each of at most `MAX_POINTS` points, float64 [points].

    The recall ascends; the thresholds of both curves descend.
    """

    recall: Floats
    precision: Floats
    false_positive_rate: Floats
    true_positive_rate: Floats


def curves(probabilities: ArrayLike, is_positive: ArrayLike) -> Curves | None:
    """Curves of a class: its probabilities, and whether videos are of it, [videos]; None if all or none are.

    For the micro average of several classes, give the flattened arrays of all.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    truth, probabilities = np.asarray(is_positive, bool), np.asarray(probabilities)
    if truth.all() or not truth.any():
        return None
    precision, recall, _ = precision_recall_curve(truth, probabilities, drop_intermediate=True)
    false_positives, true_positives, _ = roc_curve(truth, probabilities)
    pairs = ((recall[::-1], precision[::-1]), (false_positives, true_positives))
    return Curves(*(100.0 * values[thin_out(len(values))] for pair in pairs for values in pair))


def thin_out(number: int, limit: int = MAX_POINTS) -> Ints:
    """Indices of at most `limit` of `number` points, evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, number - 1, min(number, limit)).round().astype(np.int64))


def threshold_table(probabilities: ArrayLike, is_positive: ArrayLike) -> list[dict[str, Any]]:
    """`precision`, `recall` and `f1` in percent if videos with a probability from each of `THRESHOLDS` on are positive.

    `probabilities` is [videos], `is_positive` bool [videos]. The precision is None if no video is positive.
    """
    from sklearn.metrics import precision_recall_fscore_support

    truth, probabilities = np.asarray(is_positive, bool), np.asarray(probabilities)
    rows = []
    for threshold in THRESHOLDS:
        predicted = probabilities >= threshold
        precision, recall, f1, _ = precision_recall_fscore_support(truth, predicted, average="binary", zero_division=0)
        row = {"precision": 100.0 * precision if predicted.any() else None, "recall": 100.0 * recall, "f1": 100.0 * f1}
        rows.append({"threshold": threshold, **row})
    return rows


def _of_each_class(probabilities: ArrayLike, labels: ArrayLike, metric: Any) -> Floats:
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    values = np.full(probabilities.shape[1], np.nan)
    for label in np.unique(labels):
        values[label] = metric(labels == label, probabilities[:, label])
    return values
