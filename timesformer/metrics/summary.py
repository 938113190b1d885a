"""The entry `metrics` of results.json (docs/results.md)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from timesformer.metrics import classification
from timesformer.metrics.calibration import Calibration, Reliability, cross_entropy, reliability, softmax
from timesformer.metrics.classification import NO_CLASS, Curves, Floats, Ints, cmc_curve, thin_out
from timesformer.metrics.evaluation import Evaluation

Entry = dict[str, Any]

MAX_CURVES = 4
"""Classes whose curves are saved, those with the lowest average precision."""


def summarize(evaluation: Evaluation, class_names: Sequence[str], calibration: Calibration) -> Entry:
    """All metrics of a test, as plain values; None where a metric is not defined.

    Metrics over thresholds are of the readable videos with finite scores, and need one video at least.
    """
    labels, logits = evaluation.labels.numpy(), evaluation.logits.double().numpy()
    readable, trivial = evaluation.readable.numpy(), evaluation.baselines()
    predicted = np.where(readable, evaluation.scores.argmax(dim=1).numpy(), NO_CLASS)
    found = classification.precision_recall_f1(labels, predicted, len(class_names))
    scored = readable & np.isfinite(logits).all(axis=1)
    labels_scored, logits_scored = labels[scored], logits[scored]
    probabilities = softmax(logits_scored)
    precisions = classification.average_precisions(probabilities, labels_scored)
    areas = classification.roc_areas(probabilities, labels_scored)
    cmc = cmc_curve(evaluation.scores, labels, readable)
    first = np.arange(min(len(cmc), 20))  # the beginning of the curve is steep
    listed = np.union1d(first, len(first) - 1 + thin_out(len(cmc) - len(first) + 1, 30))
    return {
        "chance": trivial and _rounded(trivial.chance),
        "majority": trivial and _rounded(trivial.majority),
        "majority_class": trivial and class_names[trivial.majority_class],
        "majority_p_value": trivial and trivial.p_value,
        "macro": {name: _rounded(value) for name, value in found.macro._asdict().items()},
        "weighted": {name: _rounded(value) for name, value in found.weighted._asdict().items()},
        "balanced_accuracy": _rounded(found.macro.recall),
        "mean_average_precision": _rounded(_mean(precisions)),
        "per_class": {
            "precision": _rounded(found.precision),
            "recall": _rounded(found.recall),
            "f1": _rounded(found.f1),
            "average_precision": _rounded(precisions),
            "roc_auc": _rounded(areas, 6),
        },
        "cmc": {"k": (listed + 1).tolist(), "accuracy": _rounded(cmc[listed])},
        "curves": _curves(probabilities, labels_scored, precisions, class_names),
        "two_classes": _two_classes(probabilities, labels_scored, class_names),
        "calibration": _calibration(logits_scored, labels_scored, calibration),
    }


def _curves(probabilities: Floats, labels: Ints, precisions: Floats, class_names: Sequence[str]) -> list[Entry]:
    """Curves of the micro average (class None) and of `MAX_CURVES` classes; of two classes, of the second only."""
    num_classes = len(class_names)
    is_of_class = labels[:, None] == np.arange(num_classes)
    known = [int(label) for label in np.argsort(precisions, kind="stable") if np.isfinite(precisions[label])]
    chosen = [1] if num_classes == 2 else sorted(known[:MAX_CURVES])
    pairs: list[tuple[str | None, Curves | None]] = []
    if num_classes > 2:
        pairs.append((None, classification.curves(probabilities.ravel(), is_of_class.ravel())))
    pairs += [(class_names[c], classification.curves(probabilities[:, c], is_of_class[:, c])) for c in chosen]
    return [
        {"class": name, **{part: _rounded(values, 2) for part, values in of_class._asdict().items()}}
        for name, of_class in pairs
        if of_class
    ]


def _two_classes(probabilities: Floats, labels: Ints, class_names: Sequence[str]) -> Entry | None:
    """The table of thresholds on the probability of the second class; None for another number of classes."""
    if len(class_names) != 2 or len(np.unique(labels)) < 2:
        return None
    rows = classification.threshold_table(probabilities[:, 1], labels == 1)
    rows = [{name: value if value is None else _rounded(value) for name, value in row.items()} for row in rows]
    return {"positive_class": class_names[1], "thresholds": rows}


def _calibration(logits: Floats, labels: Ints, calibration: Calibration) -> Entry | None:
    """Calibration error and cross entropy of the videos, without and with the temperature; None without videos."""
    if not len(labels):
        return None
    entry: Entry = {
        "temperature": calibration.temperature,
        "num_validation_videos": calibration.num_videos,
        "reason": calibration.reason,
    }
    correct = logits.argmax(axis=1) == labels
    for suffix, temperature in (("", 1.0), ("_calibrated", calibration.temperature)):
        if temperature is None:
            entry |= dict.fromkeys((f"ece{suffix}", f"cross_entropy{suffix}", f"reliability{suffix}"))
            continue
        bins = reliability(softmax(logits, temperature).max(axis=1), correct)
        entry[f"ece{suffix}"] = _rounded(bins.error)
        entry[f"cross_entropy{suffix}"] = _rounded(cross_entropy(logits, labels, temperature), 6)
        entry[f"reliability{suffix}"] = _reliability(bins)
    return entry


def _reliability(bins: Reliability) -> Entry:
    means = {"confidence": _rounded(bins.confidence), "correct": _rounded(bins.correct)}
    return {"num_videos": bins.count.tolist(), **means}


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


def _rounded(values: Any, digits: int = 4) -> Any:
    """Plain numbers; NaN becomes None."""
    if np.ndim(values):
        return [_rounded(value, digits) for value in values]
    return round(float(values), digits) if np.isfinite(values) else None
